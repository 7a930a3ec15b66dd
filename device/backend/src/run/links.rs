//! What links with peers mean for the rest: doorbells, launches, pairings and revocations.

use std::time::Instant;

use sivshm_abi::frame::Reason;
use sivshm_policy::plan::{Channel, ChannelIndex};

use super::admission;
use super::peers::PeerEvent;
use super::{EventLoop, RunError};
use crate::audit::{Blame, Decision, Entry, Event};

impl<'h> EventLoop<'h> {
    pub(super) fn on_peer_events(
        &mut self,
        events: Vec<PeerEvent>,
        now: Instant,
    ) -> Result<(), RunError> {
        for event in events {
            match event {
                PeerEvent::Established(peer) => self.on_peer_established(peer, now)?,
                PeerEvent::Lost(peer, ring) => {
                    self.view.unlink(peer);
                    if let Some(port) = &mut self.port {
                        let told = port.leave(ring);
                        self.after_port(told, now)?;
                    }
                    self.end_pairings_with(peer, now)?;
                }
                PeerEvent::Revoke(peer, channel) => self.on_peer_revoked(peer, channel, now)?,
                PeerEvent::Said(peer, message) => self.on_peer_message(peer, *message, now)?,
            }
        }
        Ok(())
    }

    fn on_peer_established(&mut self, peer: usize, now: Instant) -> Result<(), RunError> {
        if let (Some(port), Some(link)) = (&mut self.port, self.peers.link(peer)) {
            let told = port.join(link.ring, link.doorbell());
            self.after_port(told, now)?;
        }
        for (at, channel) in self.channels_with(peer) {
            if self.mediation.over(at) == Some(Reason::Admin) {
                self.peers.revoke(peer, channel.name, &self.poller, now);
            }
        }
        self.renew_links(now)?;
        self.answer_waiting_launch(now)
    }

    /// A peer's operator has ended a channel: it ends here too.
    fn on_peer_revoked(
        &mut self,
        peer: usize,
        channel: ChannelIndex,
        now: Instant,
    ) -> Result<(), RunError> {
        let name = self.held.plan.channel(channel).map(|channel| channel.name);
        let who = self.peers.link(peer).map(|link| link.peer.id());
        if let (Some(name), Some(who), None) = (name, who, self.mediation.over(channel)) {
            self.audit.record(Entry {
                event: Event::Revoke,
                decision: Decision::End,
                blame: Blame::Nobody,
                who: &who.to_string(),
                what: &format!("channel {name}"),
                reason: "the peer's operator revoked it",
            })?;
        }
        self.revoke_for_good(channel, Some(peer), now)?;
        Ok(())
    }

    /// Notes which links there are, and goes on with the pairings that waited for one.
    pub(super) fn renew_links(&mut self, now: Instant) -> Result<(), RunError> {
        self.view.renew(&self.peers, &self.launcher);
        self.advance_pairings(now)
    }

    /// Ends a channel for the life of this process because an operator wants it, and tells the peers
    /// at its other ends, but not the one that said so. Returns how many grants that ended.
    pub(super) fn revoke_for_good(
        &mut self,
        channel: ChannelIndex,
        said_by: Option<usize>,
        now: Instant,
    ) -> Result<u32, RunError> {
        if self.mediation.over(channel) == Some(Reason::Admin) {
            return Ok(0);
        }
        let revoked = self.end_for_good(channel, Reason::Admin, now);
        for peer in 0..self.vm.peers.len() {
            let mut shared = self.channels_with(peer);
            let shared = shared.find(|(at, _)| *at == channel);
            if let Some((_, channel)) = shared.filter(|_| said_by != Some(peer)) {
                self.peers.revoke(peer, channel.name, &self.poller, now);
            }
        }
        revoked
    }

    /// The channels that this VM shares with one of its peers.
    fn channels_with(
        &self,
        peer: usize,
    ) -> impl Iterator<Item = (ChannelIndex, &'h Channel)> + use<'h> {
        let (held, me) = (self.held, self.held.me);
        let peer = self.vm.peers.get(peer).map(|peer| peer.vm);
        admission::channels_between(&held.plan, me, peer)
    }
}
