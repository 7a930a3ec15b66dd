//! What decisions look at, as it is at one moment.

use std::collections::BTreeMap;
use std::time::Instant;

use sivshm_abi::directory::SliceId;
use sivshm_abi::grant::Generation;
use sivshm_policy::plan::Vm;

use super::admission::{Link, Scope};
use super::launch::Launcher;
use super::peers::Peers;
use crate::held::Held;

/// Policy, links and slices.
#[derive(Debug)]
pub(super) struct View<'h> {
    held: &'h Held,
    vm: &'h Vm,
    /// For each peer, its link if grants may use it.
    links: Vec<Option<Link>>,
    /// The slices that this VM writes, and those that established peers gave.
    slices: BTreeMap<SliceId, Generation>,
}

impl<'h> View<'h> {
    /// No links yet.
    pub(super) fn new(held: &'h Held, vm: &'h Vm) -> Self {
        Self {
            held,
            vm,
            links: vec![None; vm.peers.len()],
            slices: own_slices(held).collect(),
        }
    }

    pub(super) fn scope(&self, now: Instant) -> Scope<'_> {
        Scope {
            plan: &self.held.plan,
            serial: self.held.policy_in_force().0,
            vm: self.vm,
            links: &self.links,
            slices: &self.slices,
            host_boot: self.held.host_boot,
            credentials: self.held.credentials(),
            wall: self.held.clock.wall(),
            now,
        }
    }

    /// Notes which links there are, and which of them grants may use.
    ///
    /// A VMM can't be given another memory while it runs: a peer that has started again since the
    /// launch is of no use to it.
    pub(super) fn renew(&mut self, peers: &Peers<'_>, launcher: &Launcher<'_>) {
        for (at, usable) in self.links.iter_mut().enumerate() {
            let launched = launcher.launched_with(at);
            let link = peers.link(at);
            let link = link.filter(|link| launched == Some(link.instance));
            *usable = link.map(|link| Link { ring: link.ring });
        }
        self.slices = own_slices(self.held).chain(peers.generations()).collect();
    }

    /// A link is gone.
    pub(super) fn unlink(&mut self, peer: usize) {
        if let Some(link) = self.links.get_mut(peer) {
            *link = None;
        }
    }
}

fn own_slices(held: &Held) -> impl Iterator<Item = (SliceId, Generation)> {
    held.slices.iter().map(|slice| (slice.id, slice.generation))
}
