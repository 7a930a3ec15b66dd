//! Expansion of `[[channel]]` tables: each placeholder value gives one channel with its own ends.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use sivshm_abi::grant::{Integrity, Kind};
use sivshm_abi::limits::{MAX_GRANTS, MAX_READERS, MAX_VMS};
use sivshm_abi::name::ChannelName;

use crate::check::{Parties, parse_name};
use crate::grammar::ChannelTable;
use crate::pattern::{End, Hole, Pattern};
use crate::plan::{Channel, ServiceRef, VmIndex};
use crate::source::{At, Problem, Report, Span, did_you_mean};

// Each channel has at least two grants at either end, so a `ChannelIndex` can number them all.
const _: () = assert!(MAX_VMS * MAX_GRANTS / 4 <= 1 << u16::BITS);

/// Expands all tables, sorted by the channels' names.
pub(crate) fn expand(
    tables: &[ChannelTable],
    parties: &Parties,
    report: &mut Report<'_>,
) -> Vec<At<Channel>> {
    let mut channels: BTreeMap<ChannelName, At<Channel>> = BTreeMap::new();
    let mut grants = Grants(BTreeMap::new());
    for table in tables {
        let span = table.name.span;
        let Some(numbers) = numbers(table, parties, report) else {
            continue;
        };
        for number in numbers {
            let Some(channel) = one(table, number, parties, report) else {
                break;
            };
            if !grants.count(&channel, span, parties, report) {
                return Vec::new();
            }
            match channels.entry(channel.name) {
                Entry::Vacant(entry) => {
                    entry.insert(At {
                        value: channel,
                        span,
                    });
                }
                Entry::Occupied(first) => {
                    report.add(|| {
                        let name = channel.name;
                        Problem::new(span, format!("channel `{name}` is declared twice"))
                            .note(first.get().span, "first declared here")
                    });
                    break;
                }
            }
        }
    }
    channels.into_values().collect()
}

/// The values of a table's placeholder: a single none if it has no placeholder.
fn numbers(
    table: &ChannelTable,
    parties: &Parties,
    report: &mut Report<'_>,
) -> Option<Vec<Option<u32>>> {
    let name = &table.name;
    for (pattern, span, what) in [
        (&name.value, name.span, "a channel's name"),
        (
            &table.from.value.vm,
            table.from.span,
            "the one writer of a channel",
        ),
    ] {
        if matches!(pattern.hole(), Some(Hole::Range(_))) {
            report.add(|| {
                let help =
                    "use a placeholder, like `{n}`: it expands to one channel for each number";
                Problem::new(span, format!("{what} can't have a range")).help(help.to_owned())
            });
            return None;
        }
    }
    let ends = std::iter::once(&table.from).chain(&table.to.value);
    let bound: Vec<(&Pattern, &str, Span)> = ends
        .filter_map(|end| Some((&end.value.vm, end.value.vm.placeholder()?, end.span)))
        .collect();
    let word = name.value.placeholder();
    let Some(((pattern, first, span), others)) = bound.split_first() else {
        if let Some(word) = word {
            report.add(|| {
                let message = format!("no end of the channel binds `{{{word}}}`");
                Problem::new(name.span, message)
            });
            return None;
        }
        return Some(vec![None]);
    };
    if word != Some(first) {
        report.add(|| {
            Problem::new(
                name.span,
                "every channel of this table would have the same name",
            )
            .help(format!("put `{{{first}}}` into the name"))
            .note(*span, format!("`{{{first}}}` stands for several VMs"))
        });
        return None;
    }
    let numbers = parties.numbers(pattern, *span, report)?;
    for (pattern, other, other_span) in others {
        let same = other == first && parties.numbers(pattern, *other_span, report)? == numbers;
        if !same {
            report.add(|| {
                let message = format!(
                    "`{{{other}}}` and `{{{first}}}` must be one placeholder with the same numbers"
                );
                Problem::new(*other_span, message).note(*span, "the other one")
            });
            return None;
        }
    }
    Some(numbers.iter().copied().map(Some).collect())
}

/// The channel that a table gives for one number.
fn one(
    table: &ChannelTable,
    number: Option<u32>,
    parties: &Parties,
    report: &mut Report<'_>,
) -> Option<Channel> {
    let span = table.name.span;
    let name = table.name.value.names(number).next()?;
    let name = parse_name(&name, ChannelName::new, span, report)?;
    let from = resolve(&table.from, number, parties, report)?
        .into_iter()
        .next()?;
    let mut to: BTreeSet<ServiceRef> = BTreeSet::new();
    for end in &table.to.value {
        for reader in resolve(end, number, parties, report)? {
            let twice = !to.insert(reader);
            if twice || reader.vm == from.vm {
                report.add(|| {
                    let message = if twice {
                        format!(
                            "channel `{name}` has the reader `{}` twice",
                            end.value.service
                        )
                    } else {
                        format!("both ends of channel `{name}` are in one VM")
                    };
                    Problem::new(end.span, message).note(table.from.span, "the writer")
                });
                return None;
            }
        }
    }
    if to.len() > MAX_READERS {
        report.add(|| {
            let message = format!("a channel has at most {MAX_READERS} readers");
            Problem::new(table.to.span, message)
        });
        return None;
    }
    if to.len() > 1
        && matches!(
            table.kind,
            Kind::Ring {
                integrity: Integrity::Aead,
                ..
            }
        )
    {
        report.add(|| {
            let message = format!(
                "channel `{name}` has {} readers, and `aead` is for one",
                to.len()
            );
            let help =
                "its keys are those of two services: use `crc32c`, or a channel for each reader";
            Problem::new(table.integrity.unwrap_or(span), message)
                .help(help.to_owned())
                .note(table.to.span, "the readers")
        });
        return None;
    }
    Some(Channel {
        name,
        from,
        to: to.into_iter().collect(),
        kind: table.kind,
        bytes: table.bytes.value,
    })
}

/// The services that an end stands for, each of which must exist.
fn resolve(
    end: &At<End>,
    number: Option<u32>,
    parties: &Parties,
    report: &mut Report<'_>,
) -> Option<Vec<ServiceRef>> {
    let service = end.value.service;
    let mut resolved = Vec::new();
    for name in end.value.vm.names(number) {
        let vm = parties.vm(&name, end.span, report)?;
        if !vm.services.contains_key(&service) {
            if parties.is_complete() {
                report.add(|| {
                    let known = vm.services.keys().map(|name| name.as_str());
                    let help = did_you_mean(service.as_str(), known);
                    Problem::new(end.span, format!("VM `{name}` has no service `{service}`"))
                        .help(help)
                        .note(vm.span, "the VM")
                });
            }
            return None;
        }
        resolved.push(ServiceRef {
            vm: vm.index,
            service,
        });
    }
    Some(resolved)
}

/// Grants of each VM so far.
struct Grants(BTreeMap<VmIndex, usize>);

impl Grants {
    /// Counts a channel's grants: data and all acknowledgement lines for the writer, data and its
    /// own line for each reader. Reports a VM that gets too many.
    fn count(
        &mut self,
        channel: &Channel,
        span: Span,
        parties: &Parties,
        report: &mut Report<'_>,
    ) -> bool {
        let readers = channel.to.iter().map(|reader| (reader.vm, 2));
        for (vm, more) in readers.chain([(channel.from.vm, 1 + channel.to.len())]) {
            let count = self.0.entry(vm).or_default();
            *count += more;
            if *count > MAX_GRANTS {
                let party = parties.iter().find(|party| party.index == vm);
                report.add(|| {
                    let name = party.map_or("?", |party| party.name.as_str());
                    let message = format!("VM `{name}` takes part in too many channels");
                    let help = format!(
                        "a VM holds at most {MAX_GRANTS} grants: two for each channel it reads, \
                         and one more than there are readers for each it writes"
                    );
                    Problem::new(span, message).help(help)
                });
                return false;
            }
        }
        true
    }
}
