//! What callers and the control thread of a session hand each other: orders one way, what came of
//! them the other.

mod state;

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sivshm_abi::grant::Integrity;
use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::ChannelName;
use sivshm_handshake::service::wire::Role;
use sivshm_handshake::service::{ClientEvent, ServiceClient, ServiceFault, Want};

use crate::backend::{Backend, Granted, Status};
use crate::error::Error;
use crate::found::Found;
use crate::open::Cancel;
use crate::wait::Deadline;
use state::{Order, Over, State};

pub(crate) use state::{Pairing, Ticket};

/// One session's.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) backend: Box<dyn Backend>,
    state: Mutex<State>,
    /// Wakes openers: the control thread has told something, or an opening was cancelled.
    news: Condvar,
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
    /// What to say to the device process. Only writers have several peers; of one end it is not
    /// known which it is, and the writer's comes first.
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

impl Desk {
    /// The desk of a session of the service `own`.
    pub(crate) const fn new(backend: Box<dyn Backend>, own: SpiffeId) -> Self {
        Self {
            backend,
            state: Mutex::new(State::new(own)),
            news: Condvar::new(),
        }
    }

    /// Every change is made by code that does not panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes openers to look at it.
    fn note<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let outcome = change(&mut self.lock());
        self.news.notify_all();
        outcome
    }

    /// Orders that a channel be opened with each of some peers, in place of what this session had
    /// of it before.
    pub(crate) fn want(&self, wanted: &Wanted) -> Ticket {
        let ticket = self.note(|state| state.want(wanted));
        self.backend.wake();
        ticket
    }

    /// Orders that what was opened under a ticket be closed, unless it was replaced.
    pub(crate) fn release(&self, channel: ChannelName, ticket: Ticket) {
        if self.lock().release(channel, ticket) {
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
            if let Some(found) = state.look(channel, ticket)? {
                return Ok(found);
            }
            let left = (deadline.left(state.awaited(channel, ticket)))
                .map_err(|timeout| state.refusal(channel, ticket).unwrap_or(timeout))?;
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
        self.lock().check(channel, ticket, counts)
    }

    /// Has the control thread look at the list, if it does not know yet that the session has
    /// changed: whoever lists takes the news from the device file.
    pub(crate) fn has_changed(&self, status: Status) {
        if self.lock().note_changes(status.changes) {
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
        let orders = self.lock().take_orders();
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
        let ordered = self.note(|state| {
            state.note(event);
            state.has_orders()
        });
        if ordered {
            self.backend.wake();
        }
    }

    /// Notes how far the handshakes have come, for those who run out of time.
    pub(crate) fn note_stages(&self, client: &ServiceClient) {
        let stage = |channel, peer| client.stage(channel, peer);
        self.lock().note_stages(stage);
    }

    /// Notes the session's state and grants.
    pub(crate) fn note_list(&self, status: Status, granted: Vec<Granted>) {
        self.note(|state| state.note_list(status, granted));
    }

    /// Notes that the handshake with the own device process has failed.
    pub(crate) fn failed(&self, fault: ServiceFault) {
        self.note(|state| state.end(Over::Handshake(fault)));
    }

    /// Notes that the session has ended, or can't be served any more.
    pub(crate) fn lost(&self) {
        self.note(|state| state.end(Over::Ended(None)));
    }

    /// Whether the control thread is to end.
    pub(crate) fn is_closing(&self) -> bool {
        self.lock().closing
    }
}
