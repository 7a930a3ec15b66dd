//! Who gets what (DESIGN section 3, I3).
//!
//! [`link_terms`] is the one function in which an authenticated peer meets the policy: no slice and
//! no doorbell leaves for a peer, or is accepted from one, that it does not name.
//! [`grants_of_pairing`] is the same for a service of this VM's own guest.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use sivshm_abi::directory::SliceId;
use sivshm_abi::frame::Facts;
use sivshm_abi::grant::{Generation, Grant, GrantId, GrantPeer, Part, RingId};
use sivshm_handshake::service::{Agreement, OpenTerms, VerifiedService};
use sivshm_handshake::wire::Contract;
use sivshm_handshake::{Credentials, Expected, LinkTerms, VerifiedPeer};
use sivshm_policy::plan::{
    Channel, ChannelIndex, Peer, Plan, PlannedGrant, Range, Service, Vm, VmIndex,
};
use sivshm_sys::socket::PeerCredentials;

use crate::args::Mode;
use crate::held::Held;
use crate::run::inventory::Inventory;
use crate::run::mediation::Planned;
use crate::run::outbox::Right;

/// What a decision about a session or a pairing looks at.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    /// The policy.
    pub plan: &'a Plan,
    /// Its serial number in force.
    pub serial: u64,
    /// The VM that is served.
    pub vm: &'a Vm,
    /// For each of the VM's peers, its link if grants may use it.
    pub links: &'a [Option<Link>],
    /// The slices that the guest has: its own, and those of the peers that grants may use.
    pub slices: &'a BTreeMap<SliceId, Generation>,
    /// Random identifier of the host's boot.
    pub host_boot: [u8; 16],
    /// By which SVIDs are judged.
    pub credentials: Credentials,
    /// The time for SVIDs.
    pub wall: SystemTime,
    /// The time for everything else.
    pub now: Instant,
}

/// An established link, as grants use it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// By which the guest rings the peer.
    pub ring: RingId,
}

/// Numbers of grants, none given out twice.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    grant: GrantId,
    generation: Generation,
}

impl Numbers {
    /// Starts above `seed`.
    #[must_use]
    pub const fn new(seed: Generation) -> Self {
        Self {
            grant: GrantId(0),
            generation: seed,
        }
    }

    /// The next numbers; none after 2^32 grants, when the device process has to be started again.
    fn next(&mut self) -> Option<(GrantId, Generation)> {
        self.grant = GrantId(self.grant.0.checked_add(1)?);
        self.generation = Generation(self.generation.0.checked_add(1)?);
        Some((self.grant, self.generation))
    }
}

/// What an authenticated peer gets from this VM, and what it must give: the slices and the doorbell
/// of the policy, and nothing else. A peer that the policy does not name gets nothing.
///
/// `seen` has the highest generation of each foreign slice that this process has ever accepted.
#[must_use]
pub fn link_terms<'h>(
    verified: &VerifiedPeer,
    held: &Held,
    vm: &Vm,
    inventory: &Inventory<'h>,
    seen: &BTreeMap<SliceId, Generation>,
) -> LinkTerms<Right<'h>> {
    let named = |peer: &&Peer| {
        let name = held.plan.vm_at(peer.vm).map(|vm| vm.name);
        name == Some(verified.vm())
    };
    let grant = vm.peers.iter().find(named);
    let gives = grant.into_iter().flat_map(|peer| {
        let slices = peer.gives.iter();
        let slices = slices.filter_map(|slice| inventory.slice(*slice, peer.vm));
        slices.chain(inventory.doorbell(peer.vm))
    });
    let takes = grant.into_iter().flat_map(|peer| {
        let slices = peer.takes.iter();
        let slices = slices.filter_map(|id| expected_slice(*id, held, verified, seen));
        slices.chain([Expected::Doorbell])
    });
    LinkTerms {
        instance: held.instance,
        host_boot: held.host_boot,
        policy_serial: held.plan.serial,
        contract: Contract(grant.map_or([0; 32], |peer| peer.contract.0)),
        outgoing: gives.collect(),
        incoming: takes.collect(),
    }
}

/// A slice as its writer's device process must have made it.
fn expected_slice(
    id: SliceId,
    held: &Held,
    writer: &VerifiedPeer,
    seen: &BTreeMap<SliceId, Generation>,
) -> Option<Expected> {
    Some(Expected::Slice {
        slice: id,
        bytes: held.plan.slice(id)?.bytes,
        uid: match held.config.mode {
            Mode::Production => 0,
            Mode::Development => held.my_ids.device_uid,
        },
        gid: held.ids.vm(writer.vm())?.vmm_gid,
        generation: seen.get(&id).copied().unwrap_or(Generation(0)),
    })
}

/// Whether a process may start this VM's VMM and administer its device process: root, or in
/// development mode the one user.
#[must_use]
pub fn may_operate(who: PeerCredentials, held: &Held) -> bool {
    match held.config.mode {
        Mode::Production => who.uid == 0,
        Mode::Development => who.uid == 0 || who.uid == held.my_ids.device_uid,
    }
}

/// The channels between two VMs, in either direction; none with a VM that is not there.
pub fn channels_between(
    plan: &Plan,
    me: VmIndex,
    peer: Option<VmIndex>,
) -> impl Iterator<Item = (ChannelIndex, &Channel)> {
    let numbers = (0..=u16::MAX).map(ChannelIndex);
    numbers.zip(&plan.channels).filter(move |(_, channel)| {
        let joins =
            |from, to| channel.from.vm == from && channel.to.iter().any(|reader| reader.vm == to);
        peer.is_some_and(|peer| joins(me, peer) || joins(peer, me))
    })
}

/// The one service of a VM that a process is, by what its guest kernel attests.
#[must_use]
pub fn service_of<'a>(vm: &'a Vm, facts: &Facts) -> Option<(usize, &'a Service)> {
    vm.services.iter().enumerate().find(|(_, service)| {
        let process = service.process;
        process.uid == facts.uid
            && process
                .exe_sha256
                .is_none_or(|digest| Some(digest.0) == facts.exe_sha256)
    })
}

/// What both services of a pairing have to sign, as this side's policy has it; none while the slice
/// is not known, because the peer that writes it is not established.
#[must_use]
pub fn open_terms(scope: &Scope<'_>, pairing: &Planned) -> Option<OpenTerms> {
    let at = pairing.id.channel;
    let channel = scope.plan.channel(at)?;
    let holds = |range: &Range| range.channel == at && range.part == Part::Data;
    let mut slices = (0..).map(SliceId).zip(&scope.plan.slices);
    let (slice, _) = slices.find(|(_, slice)| slice.ranges.iter().any(holds))?;
    Some(OpenTerms {
        trust_domain: scope.plan.trust_domain,
        contract: Contract(scope.vm.peers.get(pairing.peer)?.contract.0),
        serial: scope.serial,
        channel: channel.name,
        kind: channel.kind,
        slice_generation: *scope.slices.get(&slice)?,
        host_boot: scope.host_boot,
        writer: pairing.writer,
        reader: pairing.reader,
    })
}

/// The grants of one end of a pairing, each with its index among the service's planned grants: what
/// the policy plans for a service that proved who it is, over a link that is there, because both
/// services agreed. A part that is granted already, to a writer with several readers, stays as it is.
///
/// None if anything of that does not fit; nothing is granted then.
#[must_use]
pub fn grants_of_pairing(
    scope: &Scope<'_>,
    service: &Service,
    proof: &VerifiedService,
    pairing: &Planned,
    agreement: &Agreement,
    idle: impl Fn(usize) -> bool,
    numbers: &mut Numbers,
) -> Option<Vec<(usize, Grant)>> {
    let channel = scope.plan.channel(pairing.id.channel)?;
    let agreed = (agreement.channel(), agreement.writer(), agreement.reader());
    let own = [pairing.writer, pairing.reader].contains(&proof.id());
    if agreed != (channel.name, pairing.writer, pairing.reader) || !own {
        return None;
    }
    let planned = service.grants.iter().enumerate();
    let planned = planned.filter(|(at, planned)| pairing.id.has(planned) && idle(*at));
    planned
        .map(|(at, planned)| {
            Some((
                at,
                grant(scope, planned, agreement.epoch(), numbers.next()?)?,
            ))
        })
        .collect()
}

/// One grant as the policy plans it.
fn grant(
    scope: &Scope<'_>,
    planned: &PlannedGrant,
    epoch: u64,
    (id, generation): (GrantId, Generation),
) -> Option<Grant> {
    let channel = scope.plan.channel(planned.channel)?;
    let peer = match planned.peer {
        None => None,
        Some(peer) => {
            let link = scope.links.get(usize::from(peer))?.as_ref()?;
            let peer = scope.vm.peers.get(usize::from(peer))?;
            Some(GrantPeer {
                vm: scope.plan.vm_at(peer.vm)?.name,
                ring: link.ring,
                vector: peer.vector,
            })
        }
    };
    Some(Grant {
        id,
        generation,
        channel: channel.name,
        kind: channel.kind,
        part: planned.part,
        readers: u8::try_from(channel.to.len()).ok()?,
        access: planned.access,
        window: planned.window,
        offset: planned.offset,
        length: planned.length,
        epoch,
        expiry: 0,
        peer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sivshm_abi::name::VmName;

    const POLICY: &str = r#"
        version = 1
        trust_domain = "test.example"
        serial = 1
        [[vm]]
        name = "camera"
        [[vm]]
        name = "screen-{1..2}"
        [[service]]
        vm = "camera"
        name = "capture"
        process = { uid = 1000, exe_sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }
        [[service]]
        vm = "screen-{n}"
        name = "show"
        process = { uid = 1000 }
        [[channel]]
        name = "picture"
        from = "camera/capture"
        to = ["screen-1/show", "screen-2/show"]
        kind = "region"
        size = "64KiB"
    "#;

    #[test]
    fn a_process_is_a_service_only_by_all_of_its_facts() {
        let plan = sivshm_policy::compile("test", POLICY).unwrap();
        let vm = |name| plan.vm(VmName::new(name).unwrap()).unwrap().1;
        let digest = vm("camera").services[0]
            .process
            .exe_sha256
            .map(|digest| digest.0);
        let facts = |uid, exe_sha256| Facts {
            pid: 1,
            uid,
            gid: 0,
            exe_sha256,
        };
        let is_service = |name, facts| service_of(vm(name), &facts).is_some();
        assert!(is_service("camera", facts(1000, digest)));
        assert!(!is_service("camera", facts(1000, Some([0; 32]))));
        assert!(
            !is_service("camera", facts(1000, None)),
            "the kernel could not take it"
        );
        assert!(!is_service("camera", facts(0, digest)), "not even root");
        assert!(is_service("screen-1", facts(1000, Some([0; 32]))));
    }

    #[test]
    fn channels_between_two_vms_are_those_with_an_end_in_each() {
        let plan = sivshm_policy::compile("test", POLICY).unwrap();
        let count = |a, b| channels_between(&plan, VmIndex(a), Some(VmIndex(b))).count();
        assert_eq!((count(0, 1), count(1, 0), count(0, 2)), (1, 1, 1));
        assert_eq!(count(1, 2), 0, "two readers share no channel");
        assert_eq!(channels_between(&plan, VmIndex(0), None).count(), 0);
    }
}
