//! What callers and the control thread of a session hand each other: orders one way, what came of
//! them the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sivshm_abi::frame::Reason;
use sivshm_abi::grant::Integrity;
use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::ChannelName;
use sivshm_abi::uapi::SessionState;
use sivshm_handshake::service::wire::{RefusalReason, Role, ServiceRefusal};
use sivshm_handshake::service::{ClientEvent, Opened, ServiceClient, ServiceFault, Want};

use crate::backend::{Backend, Granted, Status};
use crate::error::{Error, Party};
use crate::found::{Found, find};
use crate::open::Cancel;
use crate::wait::Deadline;

/// One session's.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) backend: Box<dyn Backend>,
    /// Whose session it is.
    id: SpiffeId,
    state: Mutex<State>,
    /// Wakes openers: the control thread has told something, or an opening was cancelled.
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// For the control thread, in order.
    orders: Vec<Order>,
    entries: BTreeMap<ChannelName, Entry>,
    /// The session as last listed; nothing while a pairing is newer than the list.
    listed: Option<(Status, Vec<Granted>)>,
    authenticated: bool,
    /// Why nothing opens any more.
    over: Option<Over>,
    closing: bool,
    tickets: u64,
}

/// What the control thread has to do.
#[derive(Debug)]
enum Order {
    Want(Ticket, Want),
    Close(ChannelName, SpiffeId),
}

/// What a caller wants of a channel.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) channel: ChannelName,
    /// Whom to expect. At least one.
    pub(crate) peers: BTreeSet<SpiffeId>,
    /// Which end; the one that the policy gives this service if absent.
    pub(crate) role: Option<Role>,
    /// The integrity that the channel must have; any if absent.
    pub(crate) integrity: Option<Integrity>,
}

impl Wanted {
    /// What to say to the device process. Only writers have several peers; of one end it is not known
    /// which it is, and the writer's comes first.
    fn wants(&self) -> impl Iterator<Item = Want> {
        self.peers.iter().map(|peer| Want {
            channel: self.channel,
            peer: *peer,
            role: self.role.unwrap_or(Role::Writer),
            integrity: self.integrity,
        })
    }

    /// What to say if the device process knows no such end.
    fn otherwise(&self, want: Want) -> Option<Want> {
        (self.role.is_none() && self.peers.len() == 1).then_some(Want {
            role: Role::Reader,
            ..want
        })
    }
}

/// Which opening of a channel is meant: a later one of the same session replaces an earlier one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ticket(u64);

/// A channel that was opened.
#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    pairings: Vec<Pairing>,
}

/// The channel's handshake with one peer.
#[derive(Debug)]
pub(crate) struct Pairing {
    peer: SpiffeId,
    /// Wanted instead, if the own device process refuses.
    otherwise: Option<Want>,
    /// Whether the control thread has taken the order: what it tells before is about another one.
    ordered: bool,
    /// The live pairing, if there is one.
    pub(crate) opened: Option<Opened>,
    /// Counts live pairings, to tell one from the next.
    pub(crate) count: u64,
    /// Why the last live one ended.
    ended: Option<Reason>,
    /// The last refusal since.
    refused: Option<ServiceRefusal>,
    /// Whether nothing comes of it any more.
    forgotten: bool,
}

/// Why a session is of no use any more.
#[derive(Clone, Debug)]
enum Over {
    /// It has ended.
    Ended(Option<Reason>),
    /// The handshake with the own device process has failed.
    Handshake(ServiceFault),
}

impl From<&Over> for Error {
    fn from(over: &Over) -> Self {
        match over {
            Over::Ended(reason) => Self::Ended(*reason),
            Over::Handshake(fault) => Self::Handshake(fault.clone()),
        }
    }
}

impl Desk {
    pub(crate) fn new(backend: Box<dyn Backend>, id: SpiffeId) -> Self {
        Self {
            backend,
            id,
            state: Mutex::default(),
            news: Condvar::new(),
        }
    }

    /// Every change is made under the lock by code that does not panic in between.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Orders that a channel be opened with each of some peers, in place of what this session had
    /// of it before.
    pub(crate) fn want(&self, wanted: &Wanted) -> Ticket {
        let ticket = {
            let channel = wanted.channel;
            let mut state = self.lock();
            state.tickets += 1;
            let ticket = Ticket(state.tickets);
            state.close(channel);
            let pairings = wanted.wants().map(|want| Pairing {
                peer: want.peer,
                otherwise: wanted.otherwise(want),
                ordered: false,
                opened: None,
                count: 0,
                ended: None,
                refused: None,
                forgotten: false,
            });
            let pairings = pairings.collect();
            let orders = wanted.wants().map(|want| Order::Want(ticket, want));
            state.orders.extend(orders);
            state.entries.insert(channel, Entry { ticket, pairings });
            ticket
        };
        self.backend.wake();
        ticket
    }

    /// Orders that what was opened under a ticket be closed, unless it was replaced.
    pub(crate) fn release(&self, channel: ChannelName, ticket: Ticket) {
        let held = {
            let mut state = self.lock();
            let held = state.entry(channel, ticket).is_some();
            if held {
                state.close(channel);
            }
            held
        };
        if held {
            self.backend.wake();
        }
    }

    /// Waits until a channel is open with every peer and granted.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Timeout`] that says what was waited for, [`Error::Cancelled`],
    /// [`Error::Ended`], [`Error::Handshake`], and those of [`find`].
    pub(crate) fn await_open(
        self: &Arc<Self>,
        channel: ChannelName,
        ticket: Ticket,
        cancel: &Cancel,
        deadline: Deadline,
    ) -> Result<Found, Error> {
        cancel.wakes(self);
        let mut state = self.lock();
        loop {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if let Some(found) = state.look(self.id, channel, ticket)? {
                return Ok(found);
            }
            let left = (deadline.left(state.stage(channel, ticket)))
                .map_err(|timeout| state.refusal(self.id, channel, ticket).unwrap_or(timeout))?;
            state = match left {
                Some(left) => {
                    let outcome = self.news.wait_timeout(state, left);
                    outcome.unwrap_or_else(PoisonError::into_inner).0
                }
                None => (self.news.wait(state)).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Whether the pairings that an end was built on still stand.
    ///
    /// # Errors
    /// [`Error::Ended`], [`Error::Handshake`], [`Error::Revoked`].
    pub(crate) fn check(
        &self,
        channel: ChannelName,
        ticket: Ticket,
        counts: &[u64],
    ) -> Result<(), Error> {
        let mut state = self.lock();
        if let Some(over) = &state.over {
            return Err(over.into());
        }
        let Some(entry) = state.entry(channel, ticket) else {
            return Err(Error::Revoked(Some(Reason::Closed)));
        };
        let fallen = entry
            .pairings
            .iter()
            .zip(counts)
            .find(|(pairing, count)| pairing.opened.is_none() || pairing.count != **count);
        match fallen {
            Some((pairing, _)) => Err(Error::Revoked(pairing.ended)),
            None => Ok(()),
        }
    }

    /// Has the control thread look at the list, if it does not know yet that the session has changed:
    /// whoever lists takes the news from the device file.
    pub(crate) fn has_changed(&self, status: Status) {
        let unknown = {
            let listed = &mut self.lock().listed;
            let is_new = |(listed, _): &mut (Status, _)| listed.changes != status.changes;
            listed.take_if(is_new).is_some()
        };
        if unknown {
            self.backend.wake();
        }
    }

    /// Wakes openers to look at what may have ended their wait.
    pub(crate) fn wake_openers(&self) {
        // With the lock no opener is between its look and its sleep.
        let _state = self.lock();
        self.news.notify_all();
    }

    /// Ends the control thread.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.backend.wake();
    }
}

/// What the control thread does.
impl Desk {
    /// Gives the orders so far to `client`.
    pub(crate) fn deliver(
        &self,
        client: &mut ServiceClient,
        now: Instant,
    ) -> Result<(), ServiceFault> {
        let orders = {
            let mut state = self.lock();
            let orders = std::mem::take(&mut state.orders);
            for order in &orders {
                if let Order::Want(ticket, want) = order
                    && let Some(entry) = state.entry(want.channel, *ticket)
                {
                    let of_peer = |pairing: &&mut Pairing| pairing.peer == want.peer;
                    (entry.pairings.iter_mut().find(of_peer))
                        .into_iter()
                        .for_each(|pairing| pairing.ordered = true);
                }
            }
            orders
        };
        for order in orders {
            match order {
                Order::Want(_, want) => client.want(want, now)?,
                Order::Close(channel, peer) => client.close(channel, peer),
            }
        }
        Ok(())
    }

    /// Notes what the handshake came to.
    pub(crate) fn tell(&self, event: ClientEvent) {
        let ordered = {
            let mut state = self.lock();
            state.note(event, self.id);
            !state.orders.is_empty()
        };
        self.news.notify_all();
        if ordered {
            self.backend.wake();
        }
    }

    /// Notes the session's state and grants. False once it has closed.
    pub(crate) fn listed(&self, status: Status, granted: Vec<Granted>) -> bool {
        let closed = status.state == SessionState::Closed;
        let mut state = self.lock();
        state.listed = Some((status, granted));
        if closed {
            state.over.get_or_insert(Over::Ended(status.reason));
        }
        self.news.notify_all();
        !closed
    }

    /// Notes that the handshake with the own device process has failed.
    pub(crate) fn failed(&self, fault: ServiceFault) {
        self.lock().over.get_or_insert(Over::Handshake(fault));
        self.news.notify_all();
    }

    /// Notes that the session can't be served any more.
    pub(crate) fn lost(&self) {
        self.lock().over.get_or_insert(Over::Ended(None));
        self.news.notify_all();
    }

    /// Whether the control thread is to end.
    pub(crate) fn is_closing(&self) -> bool {
        self.lock().closing
    }
}

impl State {
    /// What was opened under a ticket, unless it was replaced or released.
    fn entry(&mut self, channel: ChannelName, ticket: Ticket) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(&channel)?;
        (entry.ticket == ticket).then_some(entry)
    }

    /// The pairing that the control thread speaks of: one whose order it has taken.
    fn pairing(&mut self, channel: ChannelName, peer: SpiffeId) -> Option<(Ticket, &mut Pairing)> {
        let entry = self.entries.get_mut(&channel)?;
        (entry.pairings.iter_mut())
            .find(|pairing| pairing.peer == peer && pairing.ordered)
            .map(|pairing| (entry.ticket, pairing))
    }

    /// Takes an entry away, if there is one, and orders its pairings closed.
    fn close(&mut self, channel: ChannelName) {
        let Some(entry) = self.entries.remove(&channel) else {
            return;
        };
        let peers = entry.pairings.iter().map(|pairing| pairing.peer);
        (self.orders).extend(peers.map(|peer| Order::Close(channel, peer)));
    }

    /// The end that a ticket stands for, if all of it is there.
    fn look(
        &mut self,
        own: SpiffeId,
        channel: ChannelName,
        ticket: Ticket,
    ) -> Result<Option<Found>, Error> {
        if let Some(over) = &self.over {
            return Err(over.into());
        }
        let Some((status, granted)) = &self.listed else {
            return Ok(None);
        };
        let entry = self.entries.get_mut(&channel);
        let Some(entry) = entry.filter(|entry| entry.ticket == ticket) else {
            return Err(Error::Revoked(Some(Reason::Closed)));
        };
        if let Some(forgotten) = entry.pairings.iter().find(|pairing| pairing.forgotten) {
            return Err(match forgotten.refused {
                Some(refusal) => refused(refusal, own),
                None => Error::Revoked(forgotten.ended),
            });
        }
        find(channel, &mut entry.pairings, status.changes, granted)
    }

    /// Notes an event about a pairing.
    fn note(&mut self, event: ClientEvent, own: SpiffeId) {
        match event {
            ClientEvent::Authenticated => self.authenticated = true,
            ClientEvent::Opened(opened) => {
                if let Some((_, pairing)) = self.pairing(opened.channel, opened.peer) {
                    pairing.count += 1;
                    pairing.opened = Some(opened);
                    pairing.refused = None;
                    self.listed = None;
                }
            }
            ClientEvent::Refused {
                channel,
                peer,
                refusal,
                again,
                ..
            } => {
                let Some((ticket, pairing)) = self.pairing(channel, peer) else {
                    return;
                };
                pairing.opened = None;
                pairing.refused = Some(refusal);
                pairing.forgotten = !again;
                let unknown = !again && Party::of(refusal.by, own) == Party::OwnDevice;
                if let Some(want) = pairing.otherwise.take_if(|_| unknown) {
                    pairing.forgotten = false;
                    pairing.ordered = false;
                    self.orders.push(Order::Want(ticket, want));
                }
            }
            ClientEvent::Ended {
                channel,
                peer,
                reason,
                again,
            } => {
                if let Some((_, pairing)) = self.pairing(channel, peer) {
                    pairing.opened = None;
                    pairing.ended = Some(reason);
                    pairing.forgotten = !again;
                }
            }
        }
    }

    /// What an opening waits for, in words.
    fn stage(&mut self, channel: ChannelName, ticket: Ticket) -> &'static str {
        if !self.authenticated {
            return "this VM's device process, which has to believe who this service is";
        }
        let open = |pairing: &Pairing| pairing.opened.is_some();
        match self.entry(channel, ticket) {
            Some(entry) if entry.pairings.iter().all(open) => {
                "the grants of a channel that both services have agreed on"
            }
            _ => "the other end: its VM, and its service, which has to open the channel too",
        }
    }

    /// The last refusal of an opening that has run out of time: one that waiting might have healed.
    /// That an end came too late says no more than the time limit does.
    fn refusal(&mut self, own: SpiffeId, channel: ChannelName, ticket: Ticket) -> Option<Error> {
        let entry = self.entry(channel, ticket)?;
        let mut refusals = entry.pairings.iter().filter_map(|pairing| pairing.refused);
        let refusal = refusals.find(|refusal| refusal.reason != RefusalReason::Late)?;
        Some(refused(refusal, own))
    }
}

fn refused(refusal: ServiceRefusal, own: SpiffeId) -> Error {
    Error::Refused {
        by: Party::of(refusal.by, own),
        refusal: Box::new(refusal),
    }
}
