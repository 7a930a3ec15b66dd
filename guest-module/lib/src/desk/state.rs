//! What a session's callers and its control thread know of its channels. Nothing here waits, locks
//! or calls anybody.

use std::collections::BTreeMap;

use sivshm_abi::frame::Reason;
use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::ChannelName;
use sivshm_abi::uapi::SessionState;
use sivshm_handshake::service::wire::{RefusalReason, ServiceRefusal};
use sivshm_handshake::service::{ClientEvent, Opened, ServiceFault, Stage, Want};

use super::Wanted;
use crate::backend::{Granted, Status};
use crate::error::{Error, Party};
use crate::found::{Found, find};

/// What a desk's lock protects.
#[derive(Debug)]
pub(super) struct State {
    /// Whose session it is.
    own: SpiffeId,
    /// For the control thread, in order.
    orders: Vec<Order>,
    entries: BTreeMap<ChannelName, Entry>,
    tickets: u64,
    /// The session as last listed; nothing while it is known to have changed since.
    listed: Option<(Status, Vec<Granted>)>,
    authenticated: bool,
    /// Why nothing opens any more.
    over: Option<Over>,
    pub(super) closing: bool,
}

/// What the control thread has to do.
#[derive(Debug)]
pub(super) enum Order {
    Want(Ticket, Want),
    Close(ChannelName, SpiffeId),
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
    stage: Stage,
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

impl Pairing {
    fn new(wanted: &Wanted, want: Want) -> Self {
        Self {
            peer: want.peer,
            stage: Stage::Resting,
            otherwise: wanted.otherwise(want),
            ordered: false,
            opened: None,
            count: 0,
            ended: None,
            refused: None,
            forgotten: false,
        }
    }
}

/// Why a session is of no use any more.
#[derive(Debug)]
pub(super) enum Over {
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

impl State {
    pub(super) const fn new(own: SpiffeId) -> Self {
        Self {
            own,
            orders: Vec::new(),
            entries: BTreeMap::new(),
            tickets: 0,
            listed: None,
            authenticated: false,
            over: None,
            closing: false,
        }
    }

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

    /// Orders a channel, in place of what there was of it.
    pub(super) fn want(&mut self, wanted: &Wanted) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.close(wanted.channel);
        let orders = wanted.wants().map(|want| Order::Want(ticket, want));
        self.orders.extend(orders);
        let pairings = wanted.wants().map(|want| Pairing::new(wanted, want));
        let pairings = pairings.collect();
        (self.entries).insert(wanted.channel, Entry { ticket, pairings });
        ticket
    }

    /// Orders what a ticket stands for closed. Whether there was anything.
    pub(super) fn release(&mut self, channel: ChannelName, ticket: Ticket) -> bool {
        let held = self.entry(channel, ticket).is_some();
        if held {
            self.close(channel);
        }
        held
    }

    fn close(&mut self, channel: ChannelName) {
        let Some(entry) = self.entries.remove(&channel) else {
            return;
        };
        let peers = entry.pairings.iter().map(|pairing| pairing.peer);
        (self.orders).extend(peers.map(|peer| Order::Close(channel, peer)));
    }

    /// Whether there are orders that nobody has taken.
    pub(super) const fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    /// Takes the orders so far; what the control thread tells from now on is about them.
    pub(super) fn take_orders(&mut self) -> Vec<Order> {
        let orders = std::mem::take(&mut self.orders);
        for order in &orders {
            if let Order::Want(ticket, want) = order
                && let Some(entry) = self.entry(want.channel, *ticket)
            {
                let mut pairings = entry.pairings.iter_mut();
                if let Some(pairing) = pairings.find(|pairing| pairing.peer == want.peer) {
                    pairing.ordered = true;
                }
            }
        }
        orders
    }

    /// The end that a ticket stands for, if all of it is there.
    pub(super) fn look(
        &mut self,
        channel: ChannelName,
        ticket: Ticket,
    ) -> Result<Option<Found>, Error> {
        if let Some(over) = &self.over {
            return Err(over.into());
        }
        let entry = self.entries.get_mut(&channel);
        let Some(entry) = entry.filter(|entry| entry.ticket == ticket) else {
            return Err(Error::Revoked(Some(Reason::Closed)));
        };
        if let Some(forgotten) = entry.pairings.iter().find(|pairing| pairing.forgotten) {
            return Err(match forgotten.refused {
                Some(refusal) => refused(refusal, self.own),
                None => Error::Revoked(forgotten.ended),
            });
        }
        match &self.listed {
            Some((status, granted)) => find(channel, &mut entry.pairings, status.changes, granted),
            None => Ok(None),
        }
    }

    /// Whether the pairings of an end, by their counts, are those that stand.
    pub(super) fn check(
        &mut self,
        channel: ChannelName,
        ticket: Ticket,
        counts: &[u64],
    ) -> Result<(), Error> {
        if let Some(over) = &self.over {
            return Err(over.into());
        }
        let Some(entry) = self.entry(channel, ticket) else {
            return Err(Error::Revoked(Some(Reason::Closed)));
        };
        let mut pairings = entry.pairings.iter().zip(counts);
        match pairings.find(|(pairing, count)| pairing.opened.is_none() || pairing.count != **count)
        {
            Some((fallen, _)) => Err(Error::Revoked(fallen.ended)),
            None => Ok(()),
        }
    }

    /// The last refusal of an opening that has run out of time, one that waiting might have healed.
    /// That an end came too late says no more than the time limit does.
    pub(super) fn refusal(&mut self, channel: ChannelName, ticket: Ticket) -> Option<Error> {
        let own = self.own;
        let entry = self.entry(channel, ticket)?;
        let mut refusals = entry.pairings.iter().filter_map(|pairing| pairing.refused);
        let refusal = refusals.find(|refusal| refusal.reason != RefusalReason::Late)?;
        Some(refused(refusal, own))
    }

    /// What an opening waits for, in words.
    pub(super) fn awaited(&mut self, channel: ChannelName, ticket: Ticket) -> &'static str {
        if !self.authenticated {
            return "this VM's device process, which has to believe who this service is";
        }
        let entry = self.entry(channel, ticket);
        let mut pairings = entry.iter().flat_map(|entry| &entry.pairings);
        match pairings.find(|pairing| pairing.opened.is_none()) {
            None => "the grants of a channel that both services have agreed on",
            Some(pairing) => match pairing.stage {
                Stage::Resting => "another attempt: the last one was refused or has ended",
                Stage::Link => {
                    "the other end's device process, and its service if that writes the channel"
                }
                Stage::OtherEnd => "the other end's service, which has to open the channel too",
                Stage::Installation | Stage::Open => "the device processes to grant the channel",
            },
        }
    }

    /// Notes how far the wishes have come.
    pub(super) fn note_stages(&mut self, stage: impl Fn(ChannelName, SpiffeId) -> Option<Stage>) {
        for (channel, entry) in &mut self.entries {
            for pairing in &mut entry.pairings {
                pairing.stage = stage(*channel, pairing.peer).unwrap_or(Stage::Resting);
            }
        }
    }

    /// Notes an event.
    pub(super) fn note(&mut self, event: ClientEvent) {
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
            } => self.note_refusal(channel, peer, refusal, again),
            ClientEvent::Ended {
                channel,
                peer,
                reason,
                again,
            } => {
                if let Some((_, pairing)) = self.pairing(channel, peer) {
                    pairing.opened = None;
                    pairing.ended = Some(reason);
                    pairing.refused = None;
                    pairing.forgotten = !again;
                }
            }
        }
    }

    fn note_refusal(
        &mut self,
        channel: ChannelName,
        peer: SpiffeId,
        refusal: ServiceRefusal,
        again: bool,
    ) {
        let by_own_device = Party::of(refusal.by, self.own) == Party::OwnDevice;
        let unknown = by_own_device && refusal.reason == RefusalReason::Policy;
        let Some((ticket, pairing)) = self.pairing(channel, peer) else {
            return;
        };
        pairing.opened = None;
        pairing.refused = Some(refusal);
        pairing.forgotten = !again;
        if let Some(want) = pairing.otherwise.take_if(|_| unknown) {
            // Nobody has refused the end that is wanted now.
            pairing.refused = None;
            pairing.forgotten = false;
            pairing.ordered = false;
            self.orders.push(Order::Want(ticket, want));
        }
    }

    /// Notes state and grants as listed.
    pub(super) fn note_list(&mut self, status: Status, granted: Vec<Granted>) {
        if status.state == SessionState::Closed {
            self.end(Over::Ended(status.reason));
        }
        self.listed = Some((status, granted));
    }

    /// Notes that somebody has seen the session after this many changes. Whether that is news: the
    /// list is not believed any more then.
    pub(super) fn note_changes(&mut self, changes: u64) -> bool {
        let known = |(listed, _): &(Status, _)| listed.changes == changes;
        let news = !self.listed.as_ref().is_some_and(known);
        if news {
            self.listed = None;
        }
        news
    }

    /// Notes why nothing opens any more, unless it is known.
    pub(super) fn end(&mut self, over: Over) {
        self.over.get_or_insert(over);
    }
}

fn refused(refusal: ServiceRefusal, own: SpiffeId) -> Error {
    Error::Refused {
        by: Party::of(refusal.by, own),
        refusal: Box::new(refusal),
    }
}
