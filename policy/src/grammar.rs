//! From text to tables: TOML syntax, keys, types and the forms of single values (`docs/policy.md`).
//!
//! Nothing here knows about more than one table; [`crate::check`] does.

use sivshm_abi::grant::{INTEGRITIES, Integrity, Kind};
use sivshm_abi::name::{ServiceName, TrustDomain};
use toml::de::{DeTable, DeValue};

use crate::fields::{Complaint, Fields, integer, one_of, text_of};
use crate::keys::{self, KINDS, OVERFLOWS, VERSION};
use crate::pattern::{End, Glob, Pattern};
use crate::plan::{Digest, Process, Uncontained};
use crate::size;
use crate::source::{At, Problem, Report, Span};

/// Largest policy file, in bytes.
///
/// A channel from each of 256 VMs to each other one is 65280 tables of about 100 bytes.
pub const MAX_POLICY_BYTES: usize = 8 * 1024 * 1024;

/// The tables of a policy file.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) serial: u64,
    pub(crate) vms: Vec<VmTable>,
    pub(crate) services: Vec<ServiceTable>,
    pub(crate) channels: Vec<ChannelTable>,
    pub(crate) nevers: Vec<NeverTable>,
}

/// A `[[vm]]`.
#[derive(Debug)]
pub(crate) struct VmTable {
    pub(crate) name: At<Pattern>,
    pub(crate) uncontained: Uncontained,
}

/// A `[[service]]`.
#[derive(Debug)]
pub(crate) struct ServiceTable {
    pub(crate) vm: At<Pattern>,
    pub(crate) name: At<ServiceName>,
    pub(crate) process: At<Process>,
}

/// A `[[channel]]`.
#[derive(Debug)]
pub(crate) struct ChannelTable {
    pub(crate) name: At<Pattern>,
    pub(crate) from: At<End>,
    pub(crate) to: At<Vec<At<End>>>,
    pub(crate) kind: Kind,
    /// Where it says its integrity; none if it does not.
    pub(crate) integrity: Option<Span>,
    pub(crate) bytes: At<u64>,
}

/// A `[[never]]`.
#[derive(Debug)]
pub(crate) struct NeverTable {
    pub(crate) from: At<Glob>,
    pub(crate) to: At<Glob>,
    pub(crate) reason: String,
}

/// Parses the text. Gives nothing if anything was reported.
pub(crate) fn parse(text: &str, report: &mut Report<'_>) -> Option<Document> {
    if text.len() > MAX_POLICY_BYTES {
        report.add(|| {
            let message = format!("a policy has at most {MAX_POLICY_BYTES} bytes");
            Problem::new(Span::from(0..0), message)
        });
        return None;
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        report.add(|| Problem::new(span.into(), error.message()));
    }
    if !report.is_empty() {
        return None;
    }
    let span = Span::from(0..0);
    let mut file = Fields::new(&keys::FILE, root.get_ref(), span, report);
    file.value("version", version);
    let trust_domain = file.value("trust_domain", |value| {
        Ok(TrustDomain::new(text_of(value)?)?)
    });
    let serial = file.value("serial", integer);
    let vms = file.tables("vm", &keys::VM, vm);
    let services = file.tables("service", &keys::SERVICE, service);
    let channels = file.tables("channel", &keys::CHANNEL, channel);
    let nevers = file.tables("never", &keys::NEVER, never);
    if !report.is_empty() {
        return None;
    }
    Some(Document {
        trust_domain: trust_domain?.value,
        serial: serial?.value,
        vms,
        services,
        channels,
        nevers,
    })
}

fn vm(fields: &mut Fields<'_, '_, '_>) -> Option<VmTable> {
    let name = fields.value("name", pattern);
    let uncontained = fields.value("uncontained", |value| {
        let words = Uncontained::ALL.iter().map(|what| (what.word(), *what));
        one_of("uncontained", words, value)
    });
    Some(VmTable {
        name: name?,
        uncontained: uncontained.map_or_else(Uncontained::default, |what| what.value),
    })
}

fn service(fields: &mut Fields<'_, '_, '_>) -> Option<ServiceTable> {
    let vm = fields.value("vm", pattern);
    let name = fields.value("name", |value| Ok(ServiceName::new(text_of(value)?)?));
    let process = fields.table("process", &keys::PROCESS, |fields| {
        let uid = fields.value("uid", uid);
        let exe = fields.value("exe_sha256", digest);
        Some(Process {
            uid: uid?.value,
            exe_sha256: exe.map(|exe| exe.value),
        })
    });
    Some(ServiceTable {
        vm: vm?,
        name: name?,
        process: process?,
    })
}

fn channel(fields: &mut Fields<'_, '_, '_>) -> Option<ChannelTable> {
    let name = fields.value("name", pattern);
    let from = fields.value("from", end);
    let to = fields.list("to", end);
    let kind = fields.value("kind", |value| one_of("kind", words(KINDS), value));
    let bytes = fields.value("size", |value| Ok(size::channel(text_of(value)?)?));
    let slot = fields.value("slot", |value| Ok(size::slot(text_of(value)?)?));
    let overflow = fields.value("overflow", |value| {
        one_of("overflow", words(OVERFLOWS), value)
    });
    let integrity = fields.value("integrity", |value| {
        let words = INTEGRITIES.iter().map(|(suite, _, word)| (*word, *suite));
        one_of("integrity", words, value)
    });
    let kind = kind?;
    let kind = if kind.value == "ring" {
        if slot.is_none() && !fields.has("slot") {
            let message = "a ring needs the size of its slots: slot = \"4KiB\"";
            fields.report.add(|| Problem::new(kind.span, message));
        }
        Kind::Ring {
            slot_bytes: slot?.value,
            overwrite: overflow.is_some_and(|overflow| overflow.value == "overwrite"),
            integrity: integrity
                .as_ref()
                .map_or(Integrity::None, |suite| suite.value),
        }
    } else {
        let spans = [
            slot.map(|slot| ("slot", slot.span)),
            overflow.map(|overflow| ("overflow", overflow.span)),
            integrity.as_ref().map(|suite| ("integrity", suite.span)),
        ];
        for (key, span) in spans.into_iter().flatten() {
            let problem = Problem::new(span, format!("`{key}` is for rings only"));
            fields
                .report
                .add(|| problem.note(kind.span, "this channel's kind"));
        }
        Kind::Region
    };
    Some(ChannelTable {
        name: name?,
        from: from?,
        to: to?,
        kind,
        integrity: integrity.map(|suite| suite.span),
        bytes: bytes?,
    })
}

fn never(fields: &mut Fields<'_, '_, '_>) -> Option<NeverTable> {
    let from = fields.value("from", |value| Ok(Glob::parse(text_of(value)?)?));
    let to = fields.value("to", |value| Ok(Glob::parse(text_of(value)?)?));
    let reason = fields.value("reason", |value| match text_of(value)? {
        "" => Err("say why, for whoever meets this rule".into()),
        reason => Ok(reason.to_owned()),
    });
    Some(NeverTable {
        from: from?,
        to: to?,
        reason: reason?.value,
    })
}

/// Words that mean themselves.
fn words(
    words: &'static [&'static str],
) -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
    words.iter().map(|word| (*word, *word))
}

fn version(value: &DeValue<'_>) -> Result<(), Complaint> {
    match integer(value)? {
        VERSION => Ok(()),
        other => Err(Complaint {
            message: format!("policy version {other} is unknown here"),
            help: Some(format!("this program reads version {VERSION}")),
        }),
    }
}

fn uid(value: &DeValue<'_>) -> Result<u32, Complaint> {
    match u32::try_from(integer(value)?) {
        Ok(uid) if uid != u32::MAX => Ok(uid),
        _ => Err("no process has this uid: the largest is 4294967294".into()),
    }
}

fn digest(value: &DeValue<'_>) -> Result<Digest, Complaint> {
    Digest::from_hex(text_of(value)?).ok_or_else(|| {
        "expected the 64 hexadecimal digits of a SHA-256, as `sha256sum` prints them".into()
    })
}

fn pattern(value: &DeValue<'_>) -> Result<Pattern, Complaint> {
    Ok(Pattern::parse(text_of(value)?)?)
}

fn end(value: &DeValue<'_>) -> Result<End, Complaint> {
    Ok(End::parse(text_of(value)?)?)
}
