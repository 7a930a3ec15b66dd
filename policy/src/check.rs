//! Checks that span tables: who exists, what placeholders stand for, who may talk to whom.
//!
//! What comes out has every brace expanded and is sorted by name, so nothing behind this stage can
//! depend on the order of the file.

use std::collections::{BTreeMap, BTreeSet};

use sivshm_abi::limits::{MAX_SESSIONS, MAX_VMS};
use sivshm_abi::name::{ServiceName, TrustDomain, VmName};

use crate::contract::VmTerms;
use crate::grammar::{Document, ServiceTable, VmTable};
use crate::pattern::{Hole, Pattern};
use crate::plan::{Channel, Process, Uncontained, VmIndex};
use crate::source::{At, Problem, Report, Span, did_you_mean};
use crate::{channels, never};

/// Most services of one VM: each holds one session.
pub const MAX_SERVICES: usize = MAX_SESSIONS;

/// A policy whose names all resolve.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) serial: u64,
    pub(crate) parties: Parties,
    /// Sorted by name; the place is the `name` of the channel's table.
    pub(crate) channels: Vec<At<Channel>>,
}

/// The VMs and their services.
#[derive(Debug)]
pub(crate) struct Parties {
    vms: BTreeMap<VmName, Party>,
    /// Numbers of the VMs that were declared with a range, by shape of the pattern.
    shapes: BTreeMap<(String, String), BTreeSet<u32>>,
    /// Whether all declarations were good. If not, a name that is not here may be one of those
    /// already reported, and is not reported again.
    complete: bool,
}

/// One VM.
#[derive(Debug)]
pub(crate) struct Party {
    pub(crate) name: VmName,
    pub(crate) index: VmIndex,
    pub(crate) span: Span,
    pub(crate) uncontained: Uncontained,
    pub(crate) services: BTreeMap<ServiceName, At<Process>>,
}

/// Checks a document. Gives nothing if anything was reported.
pub(crate) fn check(document: &Document, report: &mut Report<'_>) -> Option<Checked> {
    let mut parties = Parties::declare(&document.vms, report);
    parties.complete = report.is_empty();
    for table in &document.services {
        parties.add_service(table, report);
    }
    parties.complete = report.is_empty();
    let channels = channels::expand(&document.channels, &parties, report);
    never::check(&document.nevers, &parties, &channels, report);
    report.is_empty().then_some(Checked {
        trust_domain: document.trust_domain,
        serial: document.serial,
        parties,
        channels,
    })
}

impl Parties {
    fn declare(tables: &[VmTable], report: &mut Report<'_>) -> Self {
        let mut parties = Self {
            vms: BTreeMap::new(),
            shapes: BTreeMap::new(),
            complete: true,
        };
        for VmTable { name, uncontained } in tables {
            let At { value, span } = name;
            match value.hole() {
                Some(Hole::Placeholder(word)) => {
                    report.add(|| {
                        Problem::new(*span, format!("nothing binds `{{{word}}}` here"))
                            .help("declare VMs by a range, like `worker-{1..31}`".to_owned())
                    });
                    continue;
                }
                Some(Hole::Range(range)) => {
                    let (prefix, suffix) = value.shape();
                    let shape = (prefix.to_owned(), suffix.to_owned());
                    parties
                        .shapes
                        .entry(shape)
                        .or_default()
                        .extend(range.clone());
                }
                None => {}
            }
            for name in value.names(None) {
                let name = parse_name(&name, VmName::new, *span, report);
                if !name.is_some_and(|name| parties.add_vm(name, *uncontained, *span, report)) {
                    break;
                }
            }
        }
        for (index, vm) in (0..=u16::MAX).zip(parties.vms.values_mut()) {
            vm.index = VmIndex(index);
        }
        parties
    }

    fn add_vm(
        &mut self,
        name: VmName,
        uncontained: Uncontained,
        span: Span,
        report: &mut Report<'_>,
    ) -> bool {
        if let Some(first) = self.vms.get(&name) {
            report.add(|| {
                Problem::new(span, format!("VM `{name}` is declared twice"))
                    .note(first.span, "first declared here")
            });
            return false;
        }
        if self.vms.len() == MAX_VMS {
            let message = format!("a policy has at most {MAX_VMS} VMs");
            report.add(|| Problem::new(span, message));
            return false;
        }
        let vm = Party {
            name,
            index: VmIndex(0),
            span,
            uncontained,
            services: BTreeMap::new(),
        };
        self.vms.insert(name, vm);
        true
    }

    /// All VMs, in order of their index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Party> {
        self.vms.values()
    }

    /// Whether a name that is not here is an error that nobody has reported yet.
    pub(crate) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The VM with a name that stands at `span`. Reports one that does not exist.
    pub(crate) fn vm(&self, name: &str, span: Span, report: &mut Report<'_>) -> Option<&Party> {
        let vm = VmName::new(name).ok().and_then(|name| self.vms.get(&name));
        if vm.is_none() && self.complete {
            report.add(|| {
                let known = self.vms.keys().map(VmName::as_str);
                Problem::new(span, format!("there is no VM `{name}`"))
                    .help(did_you_mean(name, known))
            });
        }
        vm
    }

    /// The numbers that a pattern's placeholder stands for. Reports one that nothing binds.
    pub(crate) fn numbers(
        &self,
        pattern: &Pattern,
        span: Span,
        report: &mut Report<'_>,
    ) -> Option<&BTreeSet<u32>> {
        let (prefix, suffix) = pattern.shape();
        let numbers = self.shapes.get(&(prefix.to_owned(), suffix.to_owned()));
        if numbers.is_none() && self.complete {
            report.add(|| {
                let word = pattern.placeholder().unwrap_or_default();
                let shown =
                    |(prefix, suffix): &(String, String)| format!("{prefix}{{{word}}}{suffix}");
                let known: Vec<String> = self.shapes.keys().map(shown).collect();
                let declare = format!("declare [[vm]] name = \"{prefix}{{1..9}}{suffix}\"");
                let near = did_you_mean(&pattern.to_string(), known.iter().map(String::as_str));
                let message = format!(
                    "nothing binds `{{{word}}}`: no VMs are declared by a range as `{pattern}`"
                );
                Problem::new(span, message).help(near.unwrap_or(declare))
            });
        }
        numbers
    }

    fn add_service(&mut self, table: &ServiceTable, report: &mut Report<'_>) {
        let At {
            value: pattern,
            span,
        } = &table.vm;
        let numbers: Vec<Option<u32>> = if pattern.placeholder().is_some() {
            let Some(numbers) = self.numbers(pattern, *span, report) else {
                return;
            };
            numbers.iter().copied().map(Some).collect()
        } else {
            vec![None]
        };
        for vm in numbers.into_iter().flat_map(|number| pattern.names(number)) {
            let Some(name) = self.vm(&vm, *span, report).map(|vm| vm.name) else {
                return;
            };
            let fits = self.vms.get_mut(&name).map(|vm| vm.admit(table, report));
            if fits != Some(true) {
                return;
            }
        }
    }
}

impl Party {
    /// Its part of the canonical bytes.
    pub(crate) fn terms(&self) -> VmTerms {
        let services = self.services.iter();
        let services = services.map(|(name, process)| (*name, process.value));
        VmTerms {
            name: self.name,
            uncontained: self.uncontained,
            services: services.collect(),
        }
    }

    /// Adds a service. Reports one that would not be the only one of its name or for its process.
    fn admit(&mut self, table: &ServiceTable, report: &mut Report<'_>) -> bool {
        let At { value: name, span } = table.name.clone();
        let vm = self.name;
        if let Some(first) = self.services.get(&name) {
            report.add(|| {
                Problem::new(span, format!("service `{vm}/{name}` is declared twice"))
                    .note(first.span, "first declared with this process")
            });
            return false;
        }
        let mut others = self.services.iter();
        if let Some((other, first)) =
            others.find(|(_, other)| other.value.overlaps(&table.process.value))
        {
            report.add(|| {
                let message = format!("one process could be both `{vm}/{other}` and `{vm}/{name}`");
                let help = "give each service of a VM a uid of its own".to_owned();
                Problem::new(table.process.span, message)
                    .help(help)
                    .note(first.span, format!("process of `{other}`"))
            });
            return false;
        }
        if self.services.len() == MAX_SERVICES {
            let message = format!("VM `{vm}` has more than {MAX_SERVICES} services");
            report.add(|| Problem::new(span, message).note(self.span, "the VM"));
            return false;
        }
        self.services.insert(name, table.process.clone());
        true
    }
}

/// Parses a name that braces were expanded into.
pub(crate) fn parse_name<T, E: std::fmt::Display>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
    span: Span,
    report: &mut Report<'_>,
) -> Option<T> {
    parse(text)
        .map_err(|bad| report.add(|| Problem::new(span, format!("`{text}` is not a name: {bad}"))))
        .ok()
}
