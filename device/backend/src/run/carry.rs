//! Between sessions, pairings and peers: takes what each of them says to the others, and carries out
//! what pairings order.

use std::collections::VecDeque;
use std::time::Instant;

use sivshm_abi::frame::{Reason, SessionId};
use sivshm_handshake::service::wire::Message;
use sivshm_policy::plan::ChannelIndex;

use super::mediation::{Note, Order, Pairing};
use super::sessions::Session;
use super::{EventLoop, RunError};
use crate::audit::{Blame, Decision, Entry, Event};

impl EventLoop<'_> {
    /// Serves the guest: some of its frames, what its services said with them, and all frames for it
    /// that fit.
    pub(super) fn serve_guest(&mut self, now: Instant) -> Result<(), RunError> {
        let scope = self.view.scope(now);
        self.control.read(&scope, &mut self.audit)?;
        let mediated = self.mediate(now);
        // The guest is told even if something could not be recorded.
        self.control.write(&mut self.audit, now)?;
        mediated
    }

    /// Hears what happened to sessions.
    fn mediate(&mut self, now: Instant) -> Result<(), RunError> {
        let mut done = Ok(());
        while let Some(said) = self.control.sessions.said.pop_front() {
            let scope = self.view.scope(now);
            let orders = self.mediation.on_said(said, &scope, &self.control.sessions);
            let carried = self.carry_out(orders, now);
            done = done.and(carried.map(drop));
        }
        done
    }

    /// Hears a peer's device process.
    pub(super) fn on_peer_message(
        &mut self,
        peer: usize,
        message: Message,
        now: Instant,
    ) -> Result<(), RunError> {
        let scope = self.view.scope(now);
        let sessions = &self.control.sessions;
        let orders = self.mediation.on_peer(peer, message, &scope, sessions);
        self.carry_out_and_serve(orders, now).map(drop)
    }

    /// A link is gone, and the pairings over it.
    pub(super) fn end_pairings_with(&mut self, peer: usize, now: Instant) -> Result<(), RunError> {
        let scope = self.view.scope(now);
        let sessions = &self.control.sessions;
        let orders = self.mediation.unlink(peer, &scope, sessions);
        self.carry_out_and_serve(orders, now).map(drop)
    }

    /// Goes on with the pairings that waited for a link.
    pub(super) fn advance_pairings(&mut self, now: Instant) -> Result<(), RunError> {
        let scope = self.view.scope(now);
        let orders = self.mediation.advance(&scope, &self.control.sessions);
        self.carry_out_and_serve(orders, now).map(drop)
    }

    /// Ends the pairings that are not completed in time, and sessions that are not proved in time.
    pub(super) fn on_pairing_time(&mut self, now: Instant) -> Result<(), RunError> {
        let scope = self.view.scope(now);
        self.control.sessions.on_time(&scope, &mut self.audit)?;
        let orders = self.mediation.on_time(&scope, &self.control.sessions);
        self.carry_out_and_serve(orders, now).map(drop)
    }

    /// Ends pairings in whatever state they are; their services are told `reason`, and may open them
    /// again if it is one that heals. Returns how many grants of this VM that ended.
    pub(super) fn end_pairings(
        &mut self,
        which: impl Fn(&Pairing) -> bool,
        reason: Reason,
        now: Instant,
    ) -> Result<u32, RunError> {
        let scope = self.view.scope(now);
        let sessions = &self.control.sessions;
        let orders = self.mediation.end(which, reason, &scope, sessions);
        self.carry_out_and_serve(orders, now)
    }

    /// Ends a channel for the life of this process. Returns how many grants of this VM that ended.
    pub(super) fn end_for_good(
        &mut self,
        channel: ChannelIndex,
        reason: Reason,
        now: Instant,
    ) -> Result<u32, RunError> {
        let scope = self.view.scope(now);
        let sessions = &self.control.sessions;
        let orders = self
            .mediation
            .end_for_good(channel, reason, &scope, sessions);
        self.carry_out_and_serve(orders, now)
    }

    /// Ends sessions, with all that they were granted.
    pub(super) fn end_sessions(
        &mut self,
        which: impl Fn(SessionId, &Session) -> bool,
        reason: Reason,
        now: Instant,
    ) -> Result<(), RunError> {
        let scope = self.view.scope(now);
        let sessions = &mut self.control.sessions;
        let ended = sessions.live().filter(|(id, session)| which(*id, session));
        let ended: Vec<_> = ended.map(|(id, _)| id).collect();
        for id in ended {
            let (blame, why) = (Blame::Nobody, reason.words());
            sessions.end(id, reason, blame, why, &scope, &mut self.audit)?;
        }
        self.serve_guest(now)
    }

    fn carry_out_and_serve(&mut self, orders: Vec<Order>, now: Instant) -> Result<u32, RunError> {
        let ended = self.carry_out(orders, now);
        self.serve_guest(now)?;
        ended
    }

    /// Carries out orders. Nothing is granted any more once something could not be recorded; what
    /// ends, ends all the same. Returns how many grants ended.
    fn carry_out(&mut self, orders: Vec<Order>, now: Instant) -> Result<u32, RunError> {
        let scope = self.view.scope(now);
        let mut todo = VecDeque::from(orders);
        let mut ended = 0;
        let mut recorded = Ok(());
        while let Some(order) = todo.pop_front() {
            let sessions = &mut self.control.sessions;
            let audit = &mut self.audit;
            let done = match order {
                Order::Record(note) => {
                    let entry = entry(&note);
                    match note.decision {
                        Decision::Deny => audit.record_limited(entry, now),
                        Decision::Allow | Decision::End => audit.record(entry),
                    }
                }
                Order::Tell(session, message) => sessions.say(session, &message, &scope, audit),
                Order::Pass(peer, message) => {
                    self.peers.pass(peer, &message, &self.poller, now);
                    Ok(())
                }
                Order::TakeBack(id, session, reason) => {
                    let taken = sessions.take_back(session, id, reason, &scope, audit);
                    todo.extend(
                        self.mediation
                            .taken_back(id, &scope, &self.control.sessions),
                    );
                    taken.map(|grants| ended += grants)
                }
                Order::Install(id, session) => {
                    let agreed = self.mediation.agreement(id);
                    let installed = match agreed.filter(|_| recorded.is_ok()) {
                        Some((planned, agreement)) => {
                            sessions.install(session, planned, agreement, &scope, audit)
                        }
                        None => Ok(false),
                    };
                    if !matches!(installed, Ok(true)) {
                        let sessions = &self.control.sessions;
                        todo = self.mediation.not_installed(id, &scope, sessions).into();
                    }
                    installed.map(drop)
                }
            };
            recorded = recorded.and(done);
        }
        recorded?;
        Ok(ended)
    }
}

fn entry(note: &Note) -> Entry<'_> {
    Entry {
        event: Event::Pairing,
        decision: note.decision,
        blame: note.blame,
        who: &note.who,
        what: &note.what,
        reason: &note.reason,
    }
}
