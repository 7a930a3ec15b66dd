//! `[[never]]`: rules that no channel may break, whoever writes the channels.

use std::collections::{BTreeMap, BTreeSet};

use sivshm_abi::name::VmName;

use crate::check::Parties;
use crate::grammar::NeverTable;
use crate::pattern::Glob;
use crate::plan::{Channel, VmIndex};
use crate::source::{At, Problem, Report, did_you_mean};

/// Reports each rule that a channel breaks, and each that names no VM and so protects nobody.
pub(crate) fn check(
    rules: &[NeverTable],
    parties: &Parties,
    channels: &[At<Channel>],
    report: &mut Report<'_>,
) {
    let mut first_between: BTreeMap<(VmIndex, VmIndex), &At<Channel>> = BTreeMap::new();
    for channel in channels {
        for reader in &channel.value.to {
            let pair = (channel.value.from.vm, reader.vm);
            first_between.entry(pair).or_insert(channel);
        }
    }
    for rule in rules {
        let from = matching(&rule.from, parties, report);
        let to = matching(&rule.to, parties, report);
        let broken = first_between
            .iter()
            .find(|((writer, reader), _)| from.contains(writer) && to.contains(reader));
        if let Some((_, channel)) = broken {
            report.add(|| {
                let name = channel.value.name;
                let rule_text = format!(
                    "the rule: never from `{}` to `{}`: {}",
                    rule.from.value.as_str(),
                    rule.to.value.as_str(),
                    rule.reason
                );
                Problem::new(
                    channel.span,
                    format!("channel `{name}` breaks a never rule"),
                )
                .help("remove the channel, or change the rule if its reason is gone".to_owned())
                .note(rule.from.span, rule_text)
            });
        }
    }
}

fn matching(glob: &At<Glob>, parties: &Parties, report: &mut Report<'_>) -> BTreeSet<VmIndex> {
    let matching: BTreeSet<VmIndex> = parties
        .iter()
        .filter(|vm| glob.value.matches(vm.name.as_str()))
        .map(|vm| vm.index)
        .collect();
    if matching.is_empty() && parties.is_complete() {
        report.add(|| {
            let text = glob.value.as_str();
            let names: Vec<VmName> = parties.iter().map(|vm| vm.name).collect();
            let help = did_you_mean(text, names.iter().map(VmName::as_str));
            Problem::new(
                glob.span,
                format!("`{text}` matches no VM, so the rule protects nobody"),
            )
            .help(help)
        });
    }
    matching
}
