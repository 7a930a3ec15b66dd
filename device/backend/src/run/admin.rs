//! What an operator may ask ([`crate::admin_wire`]): the state, the end of a channel, a newer policy
//! and revocation list, and to be told what the supervisor has to know.

mod status;

use std::os::fd::OwnedFd;
use std::time::Instant;

use serde::Serialize;
use sivshm_abi::name::ChannelName;
use sivshm_policy::plan::{Channel, ChannelIndex};
use sivshm_sys::socket::PeerCredentials;

use super::admission;
use super::line::{Heard, LineConnection};
use super::outbox::Flushed;
use super::poller::{ConnectionId, Interest, Source};
use super::port::process;
use super::{EventLoop, RunError};
use crate::admin_wire::{
    AdminAnswer, AdminEvent, AdminRequest, MAX_ANSWER_BYTES, MAX_REQUEST_BYTES,
};
use crate::audit::{Blame, Decision, Entry, Event};

/// Operators at a time: the supervisor, who watches, and others, who are answered at once.
const MAX_CONNECTIONS: usize = 8;

impl EventLoop<'_> {
    /// A process connects to the admin socket.
    pub(super) fn welcome_operator(
        &mut self,
        connection: OwnedFd,
        who: PeerCredentials,
        id: ConnectionId,
        now: Instant,
    ) -> Result<(), RunError> {
        if self.admin.len() >= MAX_CONNECTIONS || !admission::may_operate(who, self.held) {
            return Ok(self.audit.record_limited(
                Entry {
                    event: Event::Admin,
                    decision: Decision::Deny,
                    blame: Blame::Host,
                    who: &process(who),
                    what: "admin socket",
                    reason: "only root may administer, and only a few at once",
                },
                now,
            )?);
        }
        self.poller
            .watch(&connection, Source::Admin(id), Interest::Read)?;
        let (question, answer) = (MAX_REQUEST_BYTES, MAX_ANSWER_BYTES);
        let connection = LineConnection::new(connection, who, question, answer, now);
        self.admin.insert(id, connection);
        Ok(())
    }

    /// An admin connection is ready.
    pub(super) fn on_admin_ready(
        &mut self,
        id: ConnectionId,
        now: Instant,
    ) -> Result<(), RunError> {
        let Some(connection) = self.admin.get_mut(&id) else {
            return Ok(());
        };
        let who = process(connection.who());
        match connection.read() {
            Heard::Part => {}
            Heard::End => {
                self.admin.remove(&id);
            }
            Heard::Line(line) => {
                let answer = match serde_json::from_slice(&line) {
                    Ok(AdminRequest::Status {}) => AdminAnswer::Status(Box::new(self.status(now))),
                    Ok(AdminRequest::Revoke { channel }) => {
                        self.revoke_asked(&who, channel, now)?
                    }
                    Ok(AdminRequest::Reload { policy, crl }) => {
                        self.reload(&who, &policy, &crl, now)?
                    }
                    Ok(AdminRequest::Watch {}) => return self.watch(id),
                    Err(error) => AdminAnswer::Refused {
                        reason: format!("the request can't be read: {error}"),
                    },
                };
                self.answer_operator(id, &answer)?;
            }
        }
        self.flush_operator(id)
    }

    /// Somebody wants to be told what happens, from now on.
    fn watch(&mut self, id: ConnectionId) -> Result<(), RunError> {
        if let Some(connection) = self.admin.get_mut(&id) {
            connection.stay();
        }
        self.answer_operator(id, &AdminAnswer::Watching {})?;
        if let Some(event) = self.missed_event() {
            self.answer_operator(id, &event)?;
        }
        self.flush_operator(id)
    }

    /// Tells everybody who watches. One who does not read is not told any more.
    pub(super) fn tell_watchers(&mut self, event: &AdminEvent) -> Result<(), RunError> {
        let all = self.admin.iter();
        let watchers = all.filter(|(_, connection)| connection.deadline().is_none());
        let watchers: Vec<_> = watchers.map(|(id, _)| *id).collect();
        for id in watchers {
            self.answer_operator(id, event)?;
            self.flush_operator(id)?;
        }
        Ok(())
    }

    fn answer_operator(
        &mut self,
        id: ConnectionId,
        answer: &impl Serialize,
    ) -> Result<(), RunError> {
        let line = serde_json::to_vec(answer).map_err(std::io::Error::other)?;
        let said = self
            .admin
            .get_mut(&id)
            .map(|connection| connection.answer(line, &[]));
        if let Some(Err(_)) = said {
            self.admin.remove(&id);
        }
        Ok(())
    }

    fn flush_operator(&mut self, id: ConnectionId) -> Result<(), RunError> {
        let Some(connection) = self.admin.get_mut(&id) else {
            return Ok(());
        };
        let interest = match connection.flush() {
            Ok(Flushed::All) if connection.answered() => None,
            Ok(Flushed::All) => Some(Interest::Read),
            Ok(Flushed::Full) => Some(Interest::ReadWrite),
            // Gone; descriptors are never sent here.
            Ok(Flushed::TooManyRights) | Err(_) => None,
        };
        match interest {
            Some(interest) => {
                let source = Source::Admin(id);
                self.poller.change(&*connection, source, interest)?;
            }
            None => {
                self.admin.remove(&id);
            }
        }
        Ok(())
    }

    /// Revokes a channel because an operator asks for it.
    fn revoke_asked(
        &mut self,
        who: &str,
        name: String,
        now: Instant,
    ) -> Result<AdminAnswer, RunError> {
        let channel = ChannelName::new(&name).ok().and_then(|name| {
            let mut own = self.own_channels();
            own.find(|(_, channel)| channel.name == name)
        });
        let Some((channel, _)) = channel else {
            let reason = "this VM has no channel of that name".to_owned();
            return Ok(AdminAnswer::Refused { reason });
        };
        self.audit.record(Entry {
            event: Event::Admin,
            decision: Decision::Allow,
            blame: Blame::Nobody,
            who,
            what: &format!("revoke {name}"),
            reason: "it may administer this VM",
        })?;
        let grants = self.revoke_for_good(channel, None, now)?;
        Ok(AdminAnswer::Revoked {
            channel: name,
            grants,
        })
    }

    /// Channels that this VM takes part in.
    pub(super) fn own_channels(&self) -> impl Iterator<Item = (ChannelIndex, &Channel)> {
        let me = self.held.me;
        let numbers = (0..=u16::MAX).map(ChannelIndex);
        numbers
            .zip(&self.held.plan.channels)
            .filter(move |(_, channel)| {
                channel.from.vm == me || channel.to.iter().any(|to| to.vm == me)
            })
    }
}
