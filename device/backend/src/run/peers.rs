//! The links with other device processes (DESIGN section 8).
//!
//! Of two VMs, the device process of the one whose name sorts first dials, and dials again when the
//! link is lost; the other accepts. Connections that have not proved who they are are limited for
//! each user that may dial, so that no user keeps another one out.

mod arrivals;
mod exchange;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sivshm_abi::directory::SliceId;
use sivshm_abi::grant::{Generation, RingId};
use sivshm_abi::name::{ChannelName, VmName};
use sivshm_handshake::service::wire::Message;
use sivshm_handshake::{Blame as LinkBlame, VerifiedPeer};
use sivshm_policy::plan::{ChannelIndex, Vm, VmIndex};
use sivshm_sys::socket::PeerCredentials;

use crate::audit::{Audit, AuditError, Blame, Decision, Entry, Event};
use crate::held::Held;
use crate::run::RunError;
use crate::run::bucket::TokenBucket;
use crate::run::inventory::Inventory;
use crate::run::limits::{FIRST_BACK_OFF, LAST_BACK_OFF};
use crate::run::outbox::Right;
use crate::run::peer_link::{Connection, LinkEnd};
use crate::run::poller::{ConnectionId, Poller};
use crate::vmm::port::FIRST_PEER;

/// What the rest of the device process has to know.
#[derive(Debug)]
pub enum PeerEvent {
    /// The link with a peer is complete.
    Established(usize),
    /// A link is gone, and its ring id with it.
    Lost(usize, RingId),
    /// A peer's operator ended a channel between the two VMs.
    Revoke(usize, ChannelIndex),
    /// A peer passed a message of the service handshake.
    Said(usize, Box<Message>),
}

/// An established link.
#[derive(Debug)]
pub struct PeerLink<'h> {
    connection: ConnectionId,
    /// Proof of who is at the other end.
    pub peer: VerifiedPeer,
    /// By which the guest rings the peer.
    pub ring: RingId,
    /// Identifier of the peer's run.
    pub instance: [u8; 16],
    /// When it was established.
    pub since: Instant,
    /// From the connection to its establishment.
    pub handshake: Duration,
    doorbell: Right<'h>,
    slices: BTreeMap<SliceId, (Generation, Right<'h>)>,
}

impl<'h> PeerLink<'h> {
    /// The eventfd that rings the peer.
    #[must_use]
    pub fn doorbell(&self) -> Right<'h> {
        self.doorbell.clone()
    }
}

/// One peer of the policy.
#[derive(Debug)]
struct Slot<'h> {
    vm: VmIndex,
    name: VmName,
    uid: u32,
    dials: bool,
    next_dial: Option<Instant>,
    back_off: Duration,
    /// Connections made to the peer by this process.
    dialed: u64,
    rings: u16,
    link: Option<PeerLink<'h>>,
    last_error: Option<String>,
}

/// All peers.
#[derive(Debug)]
pub struct Peers<'h> {
    held: &'h Held,
    vm: &'h Vm,
    inventory: Inventory<'h>,
    slots: Vec<Slot<'h>>,
    connections: BTreeMap<ConnectionId, Connection<'h>>,
    arrivals: BTreeMap<u32, TokenBucket>,
    seen: BTreeMap<SliceId, Generation>,
    next_ring: RingId,
    last_connection: ConnectionId,
}

impl<'h> Peers<'h> {
    /// No links yet; the first dials are due at once.
    #[must_use]
    pub fn new(held: &'h Held, vm: &'h Vm, inventory: Inventory<'h>, now: Instant) -> Self {
        let slots = vm.peers.iter().filter_map(|peer| {
            let name = held.plan.vm_at(peer.vm)?.name;
            let dials = vm.name < name;
            Some(Slot {
                vm: peer.vm,
                name,
                uid: held.ids.vm(name)?.device_uid,
                dials,
                next_dial: dials.then_some(now),
                back_off: FIRST_BACK_OFF,
                dialed: 0,
                rings: 0,
                link: None,
                last_error: None,
            })
        });
        Self {
            held,
            vm,
            inventory,
            slots: slots.collect(),
            connections: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            seen: BTreeMap::new(),
            next_ring: FIRST_PEER,
            last_connection: ConnectionId::ZERO,
        }
    }

    /// The established link with a peer.
    #[must_use]
    pub fn link(&self, peer: usize) -> Option<&PeerLink<'h>> {
        self.slots.get(peer)?.link.as_ref()
    }

    /// Every peer in the plan's order: name, whether this side dials, its link, its last error.
    pub fn list(
        &self,
    ) -> impl Iterator<Item = (VmName, bool, Option<&PeerLink<'h>>, Option<&str>)> {
        self.slots.iter().map(|slot| {
            let error = slot.last_error.as_deref();
            (slot.name, slot.dials, slot.link.as_ref(), error)
        })
    }

    /// A slice that an established peer gave.
    #[must_use]
    pub fn slice(&self, id: SliceId) -> Option<(Generation, Right<'h>)> {
        let links = self.slots.iter().filter_map(|slot| slot.link.as_ref());
        links
            .filter_map(|link| link.slices.get(&id))
            .next()
            .cloned()
    }

    /// The slices that established peers gave.
    pub fn generations(&self) -> impl Iterator<Item = (SliceId, Generation)> {
        let links = self.slots.iter().filter_map(|slot| slot.link.as_ref());
        let slices = links.flat_map(|link| &link.slices);
        slices.map(|(id, (generation, _))| (*id, *generation))
    }

    /// When [`Self::on_time`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let dials = self.slots.iter().filter_map(|slot| slot.next_dial);
        let connections = self.connections.values();
        dials
            .chain(connections.filter_map(Connection::deadline))
            .min()
    }

    /// Dials who is due, ends handshakes that take too long.
    ///
    /// # Errors
    /// The audit or the host failed.
    pub fn on_time(
        &mut self,
        poller: &Poller,
        audit: &mut Audit<'_>,
        now: Instant,
    ) -> Result<Vec<PeerEvent>, RunError> {
        let mut events = Vec::new();
        let due: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.deadline().is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            if let Err(why) = connection.on_time(poller, now) {
                events.extend(self.end(id, &why, audit, now)?);
            }
        }
        for peer in 0..self.slots.len() {
            let due = |slot: &Slot<'_>| slot.next_dial.is_some_and(|at| at <= now);
            if self.slots.get(peer).is_some_and(due) {
                self.dial(peer, poller, now)?;
            }
        }
        Ok(events)
    }

    /// Ends a connection: an established link is lost with it, a handshake is refused.
    fn end(
        &mut self,
        id: ConnectionId,
        why: &LinkEnd,
        audit: &mut Audit<'_>,
        now: Instant,
    ) -> Result<Option<PeerEvent>, RunError> {
        let Some(connection) = self.connections.remove(&id) else {
            return Ok(None);
        };
        let reason = why.to_string();
        let blame = why.blame();
        let peer = connection.peer;
        let who = connection.who;
        match why {
            LinkEnd::Refused(_) => connection.refuse(),
            _ => drop(connection),
        }
        let Some((peer, slot)) = peer.and_then(|at| Some((at, self.slots.get_mut(at)?))) else {
            refused(&stranger(who), &reason, blame, audit, now)?;
            return Ok(None);
        };
        let lost = slot.link.take_if(|link| link.connection == id);
        slot.last_error = Some(reason.clone());
        if slot.link.is_none() && slot.dials {
            slot.back_off(now);
        }
        let Some(link) = lost else {
            let name = format!("{} claiming to be {}", stranger(who), slot.name);
            refused(&name, &reason, blame, audit, now)?;
            return Ok(None);
        };
        // The link is gone whether or not that can be recorded.
        audit.record(Entry {
            event: Event::Peer,
            decision: Decision::End,
            blame,
            who: &link.peer.id().to_string(),
            what: &format!("link as ring id {}", link.ring.0),
            reason: &reason,
        })?;
        Ok(Some(PeerEvent::Lost(peer, link.ring)))
    }

    /// Tells a peer that a channel was revoked for good; one that is not there is told when it is.
    pub fn revoke(&mut self, peer: usize, channel: ChannelName, poller: &Poller, now: Instant) {
        if let Some(connection) = self.established(peer) {
            connection.revoke(channel, poller, now);
        }
    }

    /// Passes a message of the service handshake to a peer; one that is not there misses it, and the
    /// pairing with it.
    pub fn pass(&mut self, peer: usize, message: &Message, poller: &Poller, now: Instant) {
        if let Some(connection) = self.established(peer) {
            connection.pass(message, poller, now);
        }
    }

    fn established(&mut self, peer: usize) -> Option<&mut Connection<'h>> {
        let link = self.slots.get(peer)?.link.as_ref()?;
        self.connections.get_mut(&link.connection)
    }

    /// Ends the link with a peer, if there is one.
    ///
    /// # Errors
    /// The audit failed.
    pub fn end_link(
        &mut self,
        peer: usize,
        why: &LinkEnd,
        audit: &mut Audit<'_>,
        now: Instant,
    ) -> Result<Option<PeerEvent>, RunError> {
        let link = self.slots.get(peer).and_then(|slot| slot.link.as_ref());
        match link.map(|link| link.connection) {
            Some(connection) => self.end(connection, why, audit, now),
            None => Ok(None),
        }
    }

    /// Leaves all peers in good order, as far as they listen.
    pub fn leave(&mut self) {
        for (_, connection) in std::mem::take(&mut self.connections) {
            connection.leave();
        }
    }
}

impl Slot<'_> {
    /// Dials again after a while, which doubles each time.
    fn back_off(&mut self, now: Instant) {
        self.next_dial = Some(now + self.back_off);
        self.back_off = self.back_off.saturating_mul(2).min(LAST_BACK_OFF);
    }
}

impl LinkEnd {
    fn blame(&self) -> Blame {
        match self {
            Self::Refused(refusal) => match refusal.blame() {
                LinkBlame::Peer => Blame::Peer,
                LinkBlame::Policy => Blame::Policy,
                LinkBlame::Host => Blame::Host,
            },
            Self::RingIds => Blame::Host,
            Self::Bye | Self::Replaced => Blame::Nobody,
            _ => Blame::Peer,
        }
    }
}

/// A process of the host in words.
fn stranger(who: PeerCredentials) -> String {
    format!("process {} of user {}", who.pid, who.uid)
}

fn refused(
    who: &str,
    reason: &str,
    blame: Blame,
    audit: &mut Audit<'_>,
    now: Instant,
) -> Result<(), AuditError> {
    audit.record_limited(
        Entry {
            event: Event::Peer,
            decision: Decision::Deny,
            blame,
            who,
            what: "link",
            reason,
        },
        now,
    )
}
