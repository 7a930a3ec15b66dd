//! A plan with names instead of numbers: what `sivshm policy show` prints, as one JSON object.

use serde::Serialize;
use sivshm_abi::channel::{region_bytes, slot_count};
use sivshm_abi::directory::SliceId;
use sivshm_abi::grant::{Kind, Part};
use sivshm_policy::plan::{Channel, Plan, Range, ServiceRef, Slice, Vm, VmIndex};

/// A whole plan.
#[derive(Debug, Serialize)]
pub struct Report {
    pub trust_domain: String,
    pub serial: u64,
    pub digest: String,
    pub vms: Vec<VmReport>,
    pub channels: Vec<ChannelReport>,
    pub slices: Vec<SliceReport>,
    pub links: Vec<LinkReport>,
}

/// A VM: who runs in it and what it sees.
#[derive(Debug, Serialize)]
pub struct VmReport {
    pub name: String,
    /// What happens when its guest does not let go: a word of the policy.
    pub uncontained: &'static str,
    pub services: Vec<ServiceReport>,
    pub windows: Vec<WindowReport>,
    pub peers: Vec<PeerReport>,
}

/// A service and the process that it must be.
#[derive(Debug, Serialize)]
pub struct ServiceReport {
    pub name: String,
    pub uid: u32,
    pub exe_sha256: Option<String>,
    pub grants: usize,
}

/// A window of a VM; its number is its place in the list.
#[derive(Debug, Serialize)]
pub struct WindowReport {
    pub slice: u32,
    pub writable: bool,
}

/// A peer of a VM and the vector on which it rings.
#[derive(Debug, Serialize)]
pub struct PeerReport {
    pub vm: String,
    pub vector: u16,
}

/// A channel and where its data is.
#[derive(Debug, Serialize)]
pub struct ChannelReport {
    pub name: String,
    pub from: String,
    pub to: Vec<String>,
    pub kind: &'static str,
    pub bytes: u64,
    /// Of a ring: bytes of a slot.
    pub slot_bytes: Option<u32>,
    /// Of a ring: how many slots there are.
    pub slots: Option<u64>,
    /// Of a ring: whether a full one loses its oldest slot.
    pub overwrite: Option<bool>,
    /// Of a ring: what protects its slots, a word of the policy.
    pub integrity: Option<&'static str>,
    /// Bytes of payload that the channel holds.
    pub capacity: u64,
    pub slice: u32,
}

/// A slice and its parts.
#[derive(Debug, Serialize)]
pub struct SliceReport {
    pub id: u32,
    pub writer: String,
    pub readers: Vec<String>,
    pub bytes: u64,
    pub ranges: Vec<RangeReport>,
}

/// A part of a slice.
#[derive(Debug, Serialize)]
pub struct RangeReport {
    pub channel: String,
    /// The reader whose acknowledgement line this is; none for the channel's data.
    pub acknowledgement_of: Option<String>,
    pub offset: u64,
    pub bytes: u64,
}

/// Two VMs with channels between them, and the digest that their device processes compare.
#[derive(Debug, Serialize)]
pub struct LinkReport {
    pub vms: [String; 2],
    pub slices: Vec<u32>,
    pub contract: String,
}

impl Report {
    /// Names everything in a plan.
    pub fn of(plan: &Plan) -> Self {
        let slices = (0..=u32::MAX).map(SliceId).zip(&plan.slices);
        let data = slices.clone().flat_map(|(id, slice)| {
            let data = slice.ranges.iter().filter(|range| range.part == Part::Data);
            data.map(move |range| (range.channel, (id, range.length)))
        });
        let mut data: Vec<_> = data.collect();
        data.sort_by_key(|(channel, _)| *channel);
        let channels = plan.channels.iter().zip(data);
        Self {
            trust_domain: plan.trust_domain.to_string(),
            serial: plan.serial,
            digest: plan.digest.to_string(),
            vms: plan.vms.iter().map(|vm| VmReport::of(plan, vm)).collect(),
            channels: channels
                .map(|(channel, (_, (slice, length)))| {
                    ChannelReport::of(plan, channel, slice, length)
                })
                .collect(),
            slices: slices
                .map(|(id, slice)| SliceReport::of(plan, id, slice))
                .collect(),
            links: links(plan),
        }
    }
}

impl VmReport {
    fn of(plan: &Plan, vm: &Vm) -> Self {
        let services = vm.services.iter().map(|service| ServiceReport {
            name: service.name.to_string(),
            uid: service.process.uid,
            exe_sha256: service.process.exe_sha256.map(|digest| digest.to_string()),
            grants: service.grants.len(),
        });
        let windows = vm.windows.iter().map(|window| WindowReport {
            slice: window.slice.0,
            writable: window.access.writable(),
        });
        let peers = vm.peers.iter().map(|peer| PeerReport {
            vm: vm_name(plan, peer.vm),
            vector: peer.vector.0,
        });
        Self {
            name: vm.name.to_string(),
            uncontained: vm.uncontained.word(),
            services: services.collect(),
            windows: windows.collect(),
            peers: peers.collect(),
        }
    }
}

impl ChannelReport {
    fn of(plan: &Plan, channel: &Channel, slice: SliceId, length: u64) -> Self {
        let (kind, slot_bytes, slots, overwrite, integrity, capacity) = match channel.kind {
            Kind::Region => ("region", None, None, None, None, region_bytes(length)),
            Kind::Ring {
                slot_bytes,
                overwrite,
                integrity,
            } => {
                let slots = slot_count(length, slot_bytes, integrity).unwrap_or_default();
                let capacity = slots * u64::from(slot_bytes);
                (
                    "ring",
                    Some(slot_bytes),
                    Some(slots),
                    Some(overwrite),
                    Some(integrity.word()),
                    capacity,
                )
            }
        };
        Self {
            name: channel.name.to_string(),
            from: end(plan, &channel.from),
            to: channel.to.iter().map(|reader| end(plan, reader)).collect(),
            kind,
            bytes: channel.bytes,
            slot_bytes,
            slots,
            overwrite,
            integrity,
            capacity,
            slice: slice.0,
        }
    }
}

impl SliceReport {
    fn of(plan: &Plan, id: SliceId, slice: &Slice) -> Self {
        let ranges = slice
            .ranges
            .iter()
            .map(|range| RangeReport::of(plan, range));
        Self {
            id: id.0,
            writer: vm_name(plan, slice.writer),
            readers: slice.readers.iter().map(|vm| vm_name(plan, *vm)).collect(),
            bytes: slice.bytes,
            ranges: ranges.collect(),
        }
    }
}

impl RangeReport {
    fn of(plan: &Plan, range: &Range) -> Self {
        let channel = plan.channel(range.channel);
        let reader = match range.part {
            Part::Data => None,
            Part::Ack(reader) => channel.and_then(|channel| channel.to.get(usize::from(reader))),
        };
        Self {
            channel: channel.map_or_else(String::new, |channel| channel.name.to_string()),
            acknowledgement_of: reader.map(|reader| end(plan, reader)),
            offset: range.offset,
            bytes: range.length,
        }
    }
}

/// Each pair of peers once.
fn links(plan: &Plan) -> Vec<LinkReport> {
    let mut links = Vec::new();
    for (index, vm) in (0..=u16::MAX).map(VmIndex).zip(&plan.vms) {
        for peer in vm.peers.iter().filter(|peer| index < peer.vm) {
            let mut slices: Vec<u32> = peer
                .gives
                .iter()
                .chain(&peer.takes)
                .map(|id| id.0)
                .collect();
            slices.sort_unstable();
            links.push(LinkReport {
                vms: [vm.name.to_string(), vm_name(plan, peer.vm)],
                slices,
                contract: peer.contract.to_string(),
            });
        }
    }
    links
}

fn vm_name(plan: &Plan, vm: VmIndex) -> String {
    plan.vm_at(vm)
        .map_or_else(String::new, |vm| vm.name.to_string())
}

fn end(plan: &Plan, end: &ServiceRef) -> String {
    format!("{}/{}", vm_name(plan, end.vm), end.service)
}
