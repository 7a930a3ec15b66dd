//! Mediation of the service handshake: what passes between the services of this VM and the device
//! processes of the others, and what is granted for it (DESIGN section 9,
//! `docs/service-handshake.md`).
//!
//! One state machine for each pairing of the policy and nothing else: memory is bounded by the plan.
//! No input and no output: what is to be done comes back as [`Order`]s, to be carried out in their
//! order. Each message is checked in exactly one place; what is not awaited is refused.

mod ending;
mod order;
mod pairing;
mod planned;
mod reader;
mod steps;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use sivshm_abi::frame::{Reason, SessionId};
use sivshm_abi::identity::SpiffeId;
use sivshm_handshake::service::Agreement;
use sivshm_handshake::service::wire::{
    self, Content, Message, MessageType, RefusalReason, ServiceRefusal,
};
use sivshm_policy::plan::{ChannelIndex, Plan, Vm};

use crate::audit::{Blame, Decision};
use crate::run::admission::{self, Scope};
use crate::run::bucket::{TokenBucket, interval};
use crate::run::limits::{COSTLY_AT_ONCE, COSTLY_PER_PAIRING, COSTLY_PER_SECOND};
use crate::run::sessions::Said;
use order::Context;
pub use order::{Gate, Note, Order, is_costly};
pub use pairing::Pairing;
use planned::plan_pairing;
pub use planned::{PairingId, Planned};

/// All pairings that this VM has a part in.
#[derive(Debug)]
pub struct Mediation {
    device: SpiffeId,
    pairings: BTreeMap<PairingId, Pairing>,
    names: BTreeMap<wire::Pairing, PairingId>,
    /// For each peer, how often it may make this process verify a signature.
    costly: Vec<TokenBucket>,
}

impl Mediation {
    /// The pairings of a VM's services.
    #[must_use]
    pub fn new(plan: &Plan, vm: &Vm, now: Instant) -> Self {
        let device = plan.device_id(vm);
        let mut pairings = BTreeMap::new();
        for (service, planned) in vm.services.iter().enumerate() {
            for grant in &planned.grants {
                if let Some(planned) = plan_pairing(plan, device, service, grant) {
                    pairings.insert(planned.id, Pairing::new(planned));
                }
            }
        }
        let names = pairings.values().map(|pairing: &Pairing| {
            let planned = pairing.planned();
            (planned.name, planned.id)
        });
        let costly = (0..vm.peers.len()).map(|peer| {
            let planned = pairings.values().map(Pairing::planned);
            let with: Vec<_> = planned.filter(|planned| planned.peer == peer).collect();
            let services: BTreeSet<_> = with.iter().map(|planned| planned.other()).collect();
            costly_bucket(services.len(), with.len(), now)
        });
        Self {
            device,
            names: names.collect(),
            costly: costly.collect(),
            pairings,
        }
    }

    /// Every pairing.
    pub fn iter(&self) -> impl Iterator<Item = &Pairing> {
        self.pairings.values()
    }

    /// The pairings of one channel.
    pub fn of_channel(&self, channel: ChannelIndex) -> impl Iterator<Item = &Pairing> {
        let all = PairingId { channel, reader: 0 }..=PairingId {
            channel,
            reader: u8::MAX,
        };
        self.pairings.range(all).map(|(_, pairing)| pairing)
    }

    /// What a pairing's grants stand on.
    #[must_use]
    pub fn agreement(&self, id: PairingId) -> Option<(&Planned, &Agreement)> {
        let pairing = self.pairings.get(&id)?;
        Some((pairing.planned(), &pairing.live()?.agreement))
    }

    /// Why a channel is never opened again by this process, if that is so.
    #[must_use]
    pub fn over(&self, channel: ChannelIndex) -> Option<Reason> {
        self.of_channel(channel).find_map(Pairing::over)
    }

    /// When [`Self::on_time`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.pairings.values().filter_map(Pairing::deadline).min()
    }

    /// Ends what was not completed in time.
    pub fn on_time(&mut self, scope: &Scope<'_>, gate: &impl Gate) -> Vec<Order> {
        let now = scope.now;
        self.each(scope, gate, |pairing| pairing.on_time(now))
    }

    /// Something happened to a session.
    pub fn on_said(&mut self, said: Said, scope: &Scope<'_>, gate: &impl Gate) -> Vec<Order> {
        match said {
            Said::Message(session, message) => self.on_service(session, *message, scope, gate),
            Said::Closed(session) => self.each(scope, gate, |pairing| pairing.on_closed(session)),
            Said::Gone => self.each(scope, gate, |pairing| pairing.leave(Reason::Closed)),
            Said::LetGo(channel) => {
                let of_channel = |pairing: &Pairing| pairing.planned().id.channel == channel;
                self.some(scope, gate, of_channel, |_| Vec::new())
            }
        }
    }

    fn on_service(
        &mut self,
        session: SessionId,
        message: Message,
        scope: &Scope<'_>,
        gate: &impl Gate,
    ) -> Vec<Order> {
        let id = self.names.get(&message.pairing).copied();
        let context = id.map(|id| self.context(id, message.kind(), scope));
        let pairing = id.and_then(|id| self.pairings.get_mut(&id));
        match (pairing, context) {
            (Some(pairing), Some(context))
                if gate.service(session) == Some(pairing.planned().service) =>
            {
                let orders = pairing.on_service(session, message.content, &context);
                go_on(pairing, orders, scope, gate)
            }
            _ => {
                let word = self.no_such(message.pairing);
                let note = Order::Record(Note {
                    decision: Decision::Deny,
                    blame: Blame::Policy,
                    who: format!("session {} of this VM", session.0),
                    what: format!("channel {}", message.pairing.channel),
                    reason: RefusalReason::Policy.to_string(),
                });
                vec![note, Order::Tell(session, word)]
            }
        }
    }

    /// A peer's device process has passed a message. It may speak about pairings with its own VM
    /// only.
    pub fn on_peer(
        &mut self,
        peer: usize,
        message: Message,
        scope: &Scope<'_>,
        gate: &impl Gate,
    ) -> Vec<Order> {
        let id = self.names.get(&message.pairing).copied();
        let context = id.map(|id| self.context(id, message.kind(), scope));
        let pairing = id.and_then(|id| self.pairings.get_mut(&id));
        match (pairing, context, self.costly.get_mut(peer)) {
            (Some(pairing), Some(context), Some(costly)) if pairing.planned().peer == peer => {
                let orders = pairing.on_peer(message.content, &context, costly);
                go_on(pairing, orders, scope, gate)
            }
            _ => self.foreign(peer, &message, scope),
        }
    }

    /// A message about a pairing that a peer has no part in: refused, unless it is a last word.
    fn foreign(&self, peer: usize, message: &Message, scope: &Scope<'_>) -> Vec<Order> {
        let peer_vm = scope.vm.peers.get(peer);
        let peer_vm = peer_vm.and_then(|peer| scope.plan.vm_at(peer.vm));
        let note = Order::Record(Note {
            decision: Decision::Deny,
            blame: Blame::Peer,
            who: peer_vm.map_or_else(String::new, |vm| scope.plan.device_id(vm).to_string()),
            what: format!("channel {}", message.pairing.channel),
            reason: format!(
                "`{}` about a pairing that it has no part in",
                message.kind()
            ),
        });
        match message.content {
            Content::End(_) | Content::Refusal(_) => vec![note],
            _ => vec![note, Order::Pass(peer, self.no_such(message.pairing))],
        }
    }

    fn no_such(&self, pairing: wire::Pairing) -> Message {
        let (by, reason) = (self.device, RefusalReason::Policy);
        let content = Content::Refusal(ServiceRefusal { by, reason });
        Message { pairing, content }
    }

    /// The link with a peer is gone.
    pub fn unlink(&mut self, peer: usize, scope: &Scope<'_>, gate: &impl Gate) -> Vec<Order> {
        let with = |pairing: &Pairing| pairing.planned().peer == peer;
        self.some(scope, gate, with, Pairing::unlink)
    }

    /// Links may have come: goes on with what waits for them.
    pub fn advance(&mut self, scope: &Scope<'_>, gate: &impl Gate) -> Vec<Order> {
        self.each(scope, gate, |_| Vec::new())
    }

    /// How a pairing goes on whose grants were taken back.
    pub fn taken_back(&mut self, id: PairingId, scope: &Scope<'_>, gate: &impl Gate) -> Vec<Order> {
        let this = |pairing: &Pairing| pairing.planned().id == id;
        self.some(scope, gate, this, |_| Vec::new())
    }

    /// What is to be done instead of an installation that failed.
    pub fn not_installed(
        &mut self,
        id: PairingId,
        scope: &Scope<'_>,
        gate: &impl Gate,
    ) -> Vec<Order> {
        let this = |pairing: &Pairing| pairing.planned().id == id;
        self.some(scope, gate, this, |p| p.interrupt(Reason::Incomplete))
    }

    /// Ends the pairings that `which` names, in whatever state they are; their services may open
    /// them again.
    pub fn end(
        &mut self,
        which: impl Fn(&Pairing) -> bool,
        reason: Reason,
        scope: &Scope<'_>,
        gate: &impl Gate,
    ) -> Vec<Order> {
        self.some(scope, gate, which, |pairing| pairing.interrupt(reason))
    }

    /// Ends a channel for the life of this process.
    pub fn end_for_good(
        &mut self,
        channel: ChannelIndex,
        reason: Reason,
        scope: &Scope<'_>,
        gate: &impl Gate,
    ) -> Vec<Order> {
        let of_channel = |pairing: &Pairing| pairing.planned().id.channel == channel;
        self.some(scope, gate, of_channel, |pairing| {
            pairing.end_for_good(reason)
        })
    }

    fn each(
        &mut self,
        scope: &Scope<'_>,
        gate: &impl Gate,
        act: impl Fn(&mut Pairing) -> Vec<Order>,
    ) -> Vec<Order> {
        self.some(scope, gate, |_| true, act)
    }

    fn some(
        &mut self,
        scope: &Scope<'_>,
        gate: &impl Gate,
        which: impl Fn(&Pairing) -> bool,
        act: impl Fn(&mut Pairing) -> Vec<Order>,
    ) -> Vec<Order> {
        let mut orders = Vec::new();
        for pairing in self.pairings.values_mut().filter(|pairing| which(pairing)) {
            let ordered = act(pairing);
            orders.extend(go_on(pairing, ordered, scope, gate));
        }
        orders
    }

    fn context<'a>(&self, id: PairingId, kind: MessageType, scope: &'a Scope<'a>) -> Context<'a> {
        let pairing = self.pairings.get(&id);
        let others = self.of_channel(id.channel);
        let mut others = others.filter(|other| other.planned().id != id);
        Context {
            scope,
            kind,
            terms: pairing.and_then(|pairing| admission::open_terms(scope, pairing.planned())),
            epoch: others.find_map(Pairing::epoch),
        }
    }
}

/// Adds how a pairing goes on, unless something is to be taken back first.
fn go_on(
    pairing: &mut Pairing,
    mut orders: Vec<Order>,
    scope: &Scope<'_>,
    gate: &impl Gate,
) -> Vec<Order> {
    if !orders
        .iter()
        .any(|order| matches!(order, Order::TakeBack(..)))
    {
        orders.extend(pairing.advance(scope, gate));
    }
    orders
}

/// Bounds what services may make a device process verify, who together have so many pairings.
#[must_use]
pub fn costly_bucket(services: usize, pairings: usize, now: Instant) -> TokenBucket {
    let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let (services, pairings) = (count(services), count(pairings));
    let at_once = COSTLY_AT_ONCE.saturating_mul(services);
    let at_once = at_once.saturating_add(COSTLY_PER_PAIRING.saturating_mul(pairings));
    let per_second = COSTLY_PER_SECOND.saturating_mul(services);
    TokenBucket::new(at_once, interval(per_second), now)
}
