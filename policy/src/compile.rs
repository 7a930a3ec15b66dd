//! From checked names to the [`Plan`]: slices, windows, peers, vectors, grants and contracts.

use std::collections::{BTreeMap, BTreeSet};

use sivshm_abi::directory::SliceId;
use sivshm_abi::grant::{Access, Part, Vector};
use sivshm_abi::limits::MAX_WINDOWS;

use crate::check::{Checked, Party};
use crate::contract::Terms;
use crate::plan::{
    Channel, ChannelIndex, Peer, Plan, PlannedGrant, Range, Service, ServiceRef, Slice, Vm,
    VmIndex, Window,
};
use crate::slices::slices;
use crate::source::{Problem, Report};

/// Compiles a checked policy. Gives nothing if anything was reported.
pub(crate) fn compile(checked: &Checked, report: &mut Report<'_>) -> Option<Plan> {
    let slices = slices(&checked.channels, report);
    let channels: Vec<Channel> = checked.channels.iter().map(|at| at.value.clone()).collect();
    let views = views(&channels, &slices);
    for party in checked.parties.iter() {
        let windows = views.get(&party.index).map_or(0, |view| view.windows.len());
        if windows > MAX_WINDOWS {
            report.add(|| {
                let message = format!("VM `{}` needs more than {MAX_WINDOWS} windows", party.name);
                let help = "a VM has a window for each set of readers that it writes to, and for \
                            each such set of another VM that it is in: let channels share sets";
                Problem::new(party.span, message).help(help.to_owned())
            });
        }
    }
    if !report.is_empty() {
        return None;
    }
    let terms = Terms {
        trust_domain: checked.trust_domain,
        serial: checked.serial,
        vms: checked.parties.iter().map(Party::terms).collect(),
        channels: &channels,
        slices: &slices,
    };
    let mut grants = grants(&channels, &slices, &views);
    let vms = checked.parties.iter().map(|party| {
        let services = party.services.iter().map(|(name, process)| Service {
            name: *name,
            process: process.value,
            grants: grants
                .remove(&ServiceRef {
                    vm: party.index,
                    service: *name,
                })
                .unwrap_or_default(),
        });
        let services = services.collect();
        let view = views.get(&party.index);
        let peers = (1..=u16::MAX).zip(view.into_iter().flat_map(|view| &view.links));
        Vm {
            name: party.name,
            uncontained: party.uncontained,
            services,
            windows: view.map_or_else(Vec::new, |view| view.windows.clone()),
            peers: peers
                .map(|(vector, (vm, link))| Peer {
                    vm: *vm,
                    vector: Vector(vector),
                    contract: terms.contract_digest(
                        [party.index, *vm],
                        &link.channels,
                        &link.gives.union(&link.takes).copied().collect(),
                    ),
                    gives: link.gives.iter().copied().collect(),
                    takes: link.takes.iter().copied().collect(),
                })
                .collect(),
        }
    });
    let vms = vms.collect();
    let digest = terms.plan_digest();
    Some(Plan {
        trust_domain: checked.trust_domain,
        serial: checked.serial,
        vms,
        slices,
        channels,
        digest,
    })
}

/// What one VM sees of the others.
#[derive(Debug, Default)]
struct View {
    /// Sorted by slice.
    windows: Vec<Window>,
    links: BTreeMap<VmIndex, Link>,
}

/// What a VM shares with one other.
#[derive(Debug, Default)]
struct Link {
    channels: BTreeSet<ChannelIndex>,
    /// Slices that the other one reads.
    gives: BTreeSet<SliceId>,
    /// Slices that the other one writes.
    takes: BTreeSet<SliceId>,
}

fn views(channels: &[Channel], slices: &[Slice]) -> BTreeMap<VmIndex, View> {
    let mut views: BTreeMap<VmIndex, View> = BTreeMap::new();
    for (index, channel) in (0..=u16::MAX).map(ChannelIndex).zip(channels) {
        let writer = channel.from.vm;
        for reader in &channel.to {
            link(&mut views, writer, reader.vm).channels.insert(index);
            link(&mut views, reader.vm, writer).channels.insert(index);
        }
    }
    for (
        slice,
        Slice {
            writer, readers, ..
        },
    ) in numbered(slices)
    {
        for reader in readers {
            link(&mut views, *writer, *reader).gives.insert(slice);
            link(&mut views, *reader, *writer).takes.insert(slice);
        }
        let writer = [(*writer, Access::ReadWrite)];
        let readers = readers.iter().map(|reader| (*reader, Access::ReadOnly));
        for (vm, access) in readers.chain(writer) {
            let windows = &mut views.entry(vm).or_default().windows;
            windows.push(Window { slice, access });
        }
    }
    views
}

fn link(views: &mut BTreeMap<VmIndex, View>, of: VmIndex, with: VmIndex) -> &mut Link {
    views.entry(of).or_default().links.entry(with).or_default()
}

fn numbered(slices: &[Slice]) -> impl Iterator<Item = (SliceId, &Slice)> {
    (0..=u32::MAX).map(SliceId).zip(slices)
}

/// The grants of every service, sorted by channel, a channel's data before its lines.
fn grants(
    channels: &[Channel],
    slices: &[Slice],
    views: &BTreeMap<VmIndex, View>,
) -> BTreeMap<ServiceRef, Vec<PlannedGrant>> {
    let mut grants: BTreeMap<ServiceRef, Vec<PlannedGrant>> = BTreeMap::new();
    for (slice, Slice { ranges, .. }) in numbered(slices) {
        for range in ranges {
            let Some(channel) = channels.get(usize::from(range.channel.0)) else {
                continue;
            };
            for (holder, access, peer) in holders(channel, range.part) {
                let place = views
                    .get(&holder.vm)
                    .and_then(|view| view.place(slice, peer));
                if let Some((window, peer)) = place {
                    let granted = granted(range, access, window, peer);
                    grants.entry(*holder).or_default().push(granted);
                }
            }
        }
    }
    for grants in grants.values_mut() {
        grants.sort_by_key(|grant| {
            let part = match grant.part {
                Part::Data => 0,
                Part::Ack(reader) => 1 + u16::from(reader),
            };
            (grant.channel, part)
        });
    }
    grants
}

/// Who holds a grant for a part of a channel, with which access, and the VM at the other end.
fn holders(
    channel: &Channel,
    part: Part,
) -> impl Iterator<Item = (&ServiceRef, Access, Option<VmIndex>)> {
    let writer = &channel.from;
    let (writers_access, writers_peer) = match part {
        Part::Data => (Access::ReadWrite, None),
        Part::Ack(reader) => {
            let reader = channel.to.get(usize::from(reader));
            (Access::ReadOnly, reader.map(|reader| reader.vm))
        }
    };
    let readers = (0..=u8::MAX).zip(&channel.to);
    let readers = readers.filter_map(move |(number, reader)| match part {
        Part::Data => Some((reader, Access::ReadOnly, Some(writer.vm))),
        Part::Ack(own) if own == number => Some((reader, Access::ReadWrite, Some(writer.vm))),
        Part::Ack(_) => None,
    });
    std::iter::once((writer, writers_access, writers_peer)).chain(readers)
}

fn granted(range: &Range, access: Access, window: u16, peer: Option<u16>) -> PlannedGrant {
    PlannedGrant {
        channel: range.channel,
        part: range.part,
        access,
        window,
        offset: range.offset,
        length: range.length,
        peer,
    }
}

impl View {
    /// Numbers of the window that shows a slice, and of a peer if one is asked for.
    fn place(&self, slice: SliceId, peer: Option<VmIndex>) -> Option<(u16, Option<u16>)> {
        let window = self
            .windows
            .binary_search_by_key(&slice, |window| window.slice);
        let window = u16::try_from(window.ok()?).ok()?;
        let Some(peer) = peer else {
            return Some((window, None));
        };
        let peer = self.links.keys().position(|vm| *vm == peer)?;
        Some((window, Some(u16::try_from(peer).ok()?)))
    }
}
