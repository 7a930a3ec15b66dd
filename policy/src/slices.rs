//! Slices: which channels share one, and where in it each part of them lies.

use std::collections::{BTreeMap, BTreeSet};

use sivshm_abi::channel::{ACK_BYTES, slot_count};
use sivshm_abi::grant::{Kind, Part};
use sivshm_abi::limits::MAX_SLICE_BYTES;

use crate::layout::extents;
use crate::plan::{Channel, ChannelIndex, Range, Slice, VmIndex};
use crate::size::show;
use crate::source::{At, Problem, Report, Span};

/// All slices of a policy, sorted by writer and then by readers: a slice's number is its index.
pub(crate) fn slices(channels: &[At<Channel>], report: &mut Report<'_>) -> Vec<Slice> {
    contents(channels)
        .into_iter()
        .map(|(sharing, contents)| contents.lay_out(sharing, channels, report))
        .collect()
}

/// What makes two channels share a slice: one writer VM, one set of reader VMs.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Sharing {
    writer: VmIndex,
    readers: Vec<VmIndex>,
}

/// What one slice has to hold, in the order of the channels' names.
#[derive(Debug, Default)]
struct Contents {
    lines: Vec<(ChannelIndex, u8)>,
    data: Vec<(ChannelIndex, u64)>,
}

fn contents(channels: &[At<Channel>]) -> BTreeMap<Sharing, Contents> {
    let mut slices: BTreeMap<Sharing, Contents> = BTreeMap::new();
    for (index, At { value: channel, .. }) in (0..=u16::MAX).map(ChannelIndex).zip(channels) {
        let readers: BTreeSet<VmIndex> = channel.to.iter().map(|reader| reader.vm).collect();
        let data = Sharing {
            writer: channel.from.vm,
            readers: readers.into_iter().collect(),
        };
        let data = slices.entry(data).or_default();
        data.data.push((index, channel.bytes));
        for (number, reader) in (0..=u8::MAX).zip(&channel.to) {
            let line = Sharing {
                writer: reader.vm,
                readers: vec![channel.from.vm],
            };
            slices.entry(line).or_default().lines.push((index, number));
        }
    }
    slices
}

impl Contents {
    /// Gives every part its range. Reports a slice that is too large and a ring that is too small.
    fn lay_out(self, sharing: Sharing, channels: &[At<Channel>], report: &mut Report<'_>) -> Slice {
        let sizes: Vec<u64> = self.data.iter().map(|(_, bytes)| *bytes).collect();
        let extents = extents(self.lines.len() as u64, &sizes);
        let lines = self.lines.into_iter();
        let lines = lines.map(|(channel, reader)| (channel, Part::Ack(reader), ACK_BYTES));
        let data = self.data.iter().zip(extents.channels);
        let data = data.map(|((channel, _), bytes)| (*channel, Part::Data, bytes));
        let mut ranges = Vec::new();
        let mut offset = 0;
        for (channel, part, length) in lines.chain(data) {
            ranges.push(Range {
                channel,
                part,
                offset,
                length,
            });
            offset += length;
        }
        let users = ranges.iter().filter_map(|range| {
            let channel = channels.get(usize::from(range.channel.0))?;
            Some((range, channel))
        });
        for (range, At { value, span }) in users {
            if extents.slice > MAX_SLICE_BYTES {
                report.add(|| too_large(*span, extents.slice));
                break;
            }
            if let (
                Part::Data,
                Kind::Ring {
                    slot_bytes,
                    integrity,
                    ..
                },
            ) = (range.part, value.kind)
                && slot_count(range.length, slot_bytes, integrity).is_none()
            {
                report.add(|| too_small(*span, value, range.length, slot_bytes));
            }
        }
        Slice {
            writer: sharing.writer,
            readers: sharing.readers,
            bytes: extents.slice,
            ranges,
        }
    }
}

fn too_large(span: Span, bytes: u64) -> Problem {
    let (bytes, most) = (show(bytes), show(MAX_SLICE_BYTES));
    let message = format!("the slice of this channel would have {bytes}, the largest has {most}");
    let help = "all channels from one VM to the same VMs are in one slice";
    Problem::new(span, message).help(help.to_owned())
}

fn too_small(span: Span, channel: &Channel, bytes: u64, slot_bytes: u32) -> Problem {
    let (name, bytes, slot) = (channel.name, show(bytes), show(slot_bytes.into()));
    let message =
        format!("ring `{name}` has {bytes} for a head page and slots: not even two of {slot} fit");
    Problem::new(span, message).help("make `size` larger".to_owned())
}
