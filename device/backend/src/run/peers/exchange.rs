//! What one connection with a peer brings, from its first byte to the established link (DESIGN
//! section 8).

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use sivshm_abi::grant::RingId;
use sivshm_abi::name::{ChannelName, VmName};
use sivshm_handshake::wire::ManifestEntry;
use sivshm_handshake::{Action, Established, Outgoing, PeerUid, VerifiedPeer};
use sivshm_sys::socket::PassRights;

use super::{PeerEvent, PeerLink, Peers};
use crate::audit::{Audit, AuditError, Blame, Decision, Entry, Event};
use crate::run::RunError;
use crate::run::admission;
use crate::run::limits::{FIRST_BACK_OFF, RING_IDS_PER_PEER};
use crate::run::outbox::Right;
use crate::run::peer_link::LinkEnd;
use crate::run::poller::{ConnectionId, Poller};

/// Times that a connection is read for one wake-up.
const READS_PER_WAKE: usize = 4;

impl<'h> Peers<'h> {
    /// Serves a connection that is ready.
    ///
    /// # Errors
    /// The audit or the host failed.
    pub fn on_ready(
        &mut self,
        id: ConnectionId,
        poller: &Poller,
        audit: &mut Audit<'_>,
        now: Instant,
    ) -> Result<Vec<PeerEvent>, RunError> {
        let mut events = Vec::new();
        if let Err(why) = self.exchange(id, &mut events, poller, audit, now)? {
            events.extend(self.end(id, &why, audit, now)?);
        }
        Ok(events)
    }

    /// Reads, does what the machine says and sends. The outer error is the host's, the inner one
    /// ends the connection.
    fn exchange(
        &mut self,
        id: ConnectionId,
        events: &mut Vec<PeerEvent>,
        poller: &Poller,
        audit: &mut Audit<'_>,
        now: Instant,
    ) -> Result<Result<(), LinkEnd>, RunError> {
        for _ in 0..READS_PER_WAKE {
            let Some(connection) = self.connections.get_mut(&id) else {
                return Ok(Ok(()));
            };
            let mut todo = match connection.read(&self.held.fdinfo) {
                Ok(Some(actions)) => VecDeque::from(actions),
                Ok(None) => break,
                Err(why) => return Ok(Err(why)),
            };
            while let Some(action) = todo.pop_front() {
                match self.act(id, action, events, audit, now)? {
                    // What admission brings comes before what was asked for after it.
                    Ok(more) => more
                        .into_iter()
                        .rev()
                        .for_each(|action| todo.push_front(action)),
                    Err(why) => return Ok(Err(why)),
                }
            }
        }
        let connection = self.connections.get_mut(&id);
        Ok(connection.map_or(Ok(()), |connection| connection.flush(poller, now)))
    }

    /// Does one thing that a machine says.
    fn act(
        &mut self,
        id: ConnectionId,
        action: Action<Right<'h>>,
        events: &mut Vec<PeerEvent>,
        audit: &mut Audit<'_>,
        now: Instant,
    ) -> Result<Result<Vec<Action<Right<'h>>>, LinkEnd>, RunError> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(Err(LinkEnd::Closed));
        };
        let done = match action {
            Action::Send(bytes) => connection.send(bytes, Vec::new()),
            Action::SendRights { bytes, rights } => connection.send(bytes, rights),
            Action::AllowRights { .. } => connection.pass_rights(PassRights::Allow),
            Action::DenyRights => connection.pass_rights(PassRights::Refuse),
            Action::CheckPeer { vm } => return self.admit(id, vm, audit),
            Action::Established(link) => {
                return self
                    .establish(id, link, events, audit, now)
                    .map(|end| end.map(|()| Vec::new()));
            }
            Action::Revoke(channel) => self.revoked(id, channel).map(|event| events.push(event)),
            Action::Service(message) => {
                let said = connection
                    .peer
                    .map(|peer| PeerEvent::Said(peer, Box::new(message)));
                events.extend(said);
                Ok(())
            }
            Action::Bye => Err(LinkEnd::Bye),
        };
        Ok(done.map(|()| Vec::new()))
    }

    /// A peer has proved its SVID: the kernel's word on it, and what it gets.
    fn admit(
        &mut self,
        id: ConnectionId,
        vm: VmName,
        audit: &mut Audit<'_>,
    ) -> Result<Result<Vec<Action<Right<'h>>>, LinkEnd>, RunError> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(Err(LinkEnd::Closed));
        };
        // Of two VMs only one dials: whoever connects may be a peer that this side does not dial.
        let slot =
            self.slots.iter().enumerate().find(|(at, slot)| {
                slot.name == vm && (connection.peer == Some(*at) || !slot.dials)
            });
        let planned = slot.map(|(_, slot)| PeerUid(slot.uid));
        connection.peer = slot.map(|(at, _)| at);
        let found = PeerUid(connection.who.uid);
        let mut recorded = Ok(());
        let (held, inventory, seen) = (self.held, &self.inventory, &self.seen);
        let admitted = connection.machine().admit(found, planned, |peer| {
            let mut terms = admission::link_terms(peer, held, self.vm, inventory, seen);
            recorded = record_gifts(peer, &terms.outgoing, audit);
            if recorded.is_err() {
                terms.outgoing.clear();
            }
            terms
        });
        recorded?;
        Ok(admitted.map_err(LinkEnd::from))
    }

    /// Both sides have everything: the new link takes the place of an older one.
    fn establish(
        &mut self,
        id: ConnectionId,
        link: Established<Right<'h>>,
        events: &mut Vec<PeerEvent>,
        audit: &mut Audit<'_>,
        now: Instant,
    ) -> Result<Result<(), LinkEnd>, RunError> {
        let connection = self.connections.get(&id);
        let Some((peer, started)) = connection.and_then(|c| Some((c.peer?, c.started))) else {
            return Ok(Err(LinkEnd::Closed));
        };
        let older = self.slots.get(peer).and_then(|slot| slot.link.as_ref());
        if let Some(older) = older.map(|link| link.connection) {
            events.extend(self.end(older, &LinkEnd::Replaced, audit, now)?);
        }
        let Some(slot) = self.slots.get_mut(peer) else {
            return Ok(Err(LinkEnd::Closed));
        };
        if slot.rings >= RING_IDS_PER_PEER {
            return Ok(Err(LinkEnd::RingIds));
        }
        let mut doorbell = None;
        let mut slices = BTreeMap::new();
        for object in link.objects {
            match object.entry {
                ManifestEntry::Slice(slice) => {
                    self.seen.insert(slice.slice, slice.generation);
                    slices.insert(slice.slice, (slice.generation, object.descriptor));
                }
                ManifestEntry::Doorbell { .. } => doorbell = Some(object.descriptor),
            }
        }
        // The terms name a doorbell, so a link without one can't be established.
        let Some(doorbell) = doorbell else {
            return Ok(Err(LinkEnd::Closed));
        };
        let handshake = now.saturating_duration_since(started);
        audit.record(Entry {
            event: Event::Peer,
            decision: Decision::Allow,
            blame: Blame::Nobody,
            who: &link.peer.id().to_string(),
            what: &format!(
                "link as ring id {} with {} slices",
                self.next_ring.0,
                slices.len()
            ),
            reason: "SVID, user, boot, policy and descriptors are as planned",
        })?;
        slot.link = Some(PeerLink {
            connection: id,
            peer: link.peer,
            ring: self.next_ring,
            instance: link.instance,
            since: now,
            handshake,
            doorbell,
            slices,
        });
        slot.rings += 1;
        slot.back_off = FIRST_BACK_OFF;
        slot.last_error = None;
        self.next_ring = RingId(self.next_ring.0 + 1);
        events.push(PeerEvent::Established(peer));
        Ok(Ok(()))
    }

    /// A peer's operator has ended a channel.
    fn revoked(&self, id: ConnectionId, name: ChannelName) -> Result<PeerEvent, LinkEnd> {
        let peer = self.connections.get(&id).and_then(|c| c.peer);
        let vm = peer
            .and_then(|peer| self.slots.get(peer))
            .map(|slot| slot.vm);
        let mut between = admission::channels_between(&self.held.plan, self.held.me, vm);
        let channel = between.find(|(_, channel)| channel.name == name);
        match (peer, channel) {
            (Some(peer), Some((at, _))) => Ok(PeerEvent::Revoke(peer, at)),
            _ => Err(LinkEnd::ForeignChannel(name)),
        }
    }
}

/// Records what an authenticated peer is about to get.
fn record_gifts(
    peer: &VerifiedPeer,
    gifts: &[Outgoing<Right<'_>>],
    audit: &mut Audit<'_>,
) -> Result<(), AuditError> {
    let slices = gifts.iter().filter_map(|gift| match &gift.entry {
        ManifestEntry::Slice(slice) => Some(slice.slice.0.to_string()),
        ManifestEntry::Doorbell { .. } => None,
    });
    let slices: Vec<_> = slices.collect();
    audit.record(Entry {
        event: Event::Slices,
        decision: Decision::Allow,
        blame: Blame::Nobody,
        who: &peer.id().to_string(),
        what: &format!("slices {} read-only, and a doorbell", slices.join(" ")),
        reason: "the policy gives them, SVID and user are the peer's",
    })
}
