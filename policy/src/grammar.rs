//! From text to tables: TOML syntax, keys, types and the forms of single values (`docs/policy.md`).
//!
//! Nothing here knows about more than one table; [`crate::check`] does.

use std::fmt::Display;

use sivshm_abi::grant::{Integrity, Kind};
use sivshm_abi::name::{ServiceName, TrustDomain};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::keys::{self, KINDS, OVERFLOWS, Table, VERSION};
use crate::pattern::{End, Glob, Pattern};
use crate::plan::{Digest, Process};
use crate::size;
use crate::source::{At, Problem, Report, Span, did_you_mean};

/// Largest policy file, in bytes.
///
/// A channel from each of 256 VMs to each other one is 65280 tables of about 100 bytes.
pub const MAX_POLICY_BYTES: usize = 8 * 1024 * 1024;

/// The tables of a policy file.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) serial: u64,
    pub(crate) vms: Vec<At<Pattern>>,
    pub(crate) services: Vec<ServiceTable>,
    pub(crate) channels: Vec<ChannelTable>,
    pub(crate) nevers: Vec<NeverTable>,
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
    pub(crate) bytes: At<u64>,
}

/// A `[[never]]`.
#[derive(Debug)]
pub(crate) struct NeverTable {
    pub(crate) from: At<Glob>,
    pub(crate) to: At<Glob>,
    pub(crate) reason: String,
}

/// What is wrong with one value, and what to write instead.
struct Complaint {
    message: String,
    help: Option<String>,
}

impl<E: Display> From<E> for Complaint {
    fn from(error: E) -> Self {
        Self {
            message: error.to_string(),
            help: None,
        }
    }
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
    let vms = file.tables("vm", &keys::VM, |fields| fields.value("name", pattern));
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
    let kind = fields.value("kind", |value| one_of("kind", KINDS, value));
    let bytes = fields.value("size", |value| Ok(size::channel(text_of(value)?)?));
    let slot = fields.value("slot", |value| Ok(size::slot(text_of(value)?)?));
    let overflow = fields.value("overflow", |value| one_of("overflow", OVERFLOWS, value));
    let kind = kind?;
    let kind = if kind.value == "ring" {
        if slot.is_none() && !fields.has("slot") {
            let message = "a ring needs the size of its slots: slot = \"4KiB\"";
            fields.report.add(|| Problem::new(kind.span, message));
        }
        Kind::Ring {
            slot_bytes: slot?.value,
            overwrite: overflow.is_some_and(|overflow| overflow.value == "overwrite"),
            integrity: Integrity::None,
        }
    } else {
        let spans = [
            slot.map(|slot| ("slot", slot.span)),
            overflow.map(|overflow| ("overflow", overflow.span)),
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

fn mismatch(expected: &str, found: &DeValue<'_>) -> Complaint {
    format!("expected {expected}, found {}", found.type_str()).into()
}

fn text_of<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Complaint> {
    value.as_str().ok_or_else(|| mismatch("a string", value))
}

fn integer(value: &DeValue<'_>) -> Result<u64, Complaint> {
    let number = value
        .as_integer()
        .ok_or_else(|| mismatch("an integer", value))?;
    match i64::from_str_radix(number.as_str(), number.radix()) {
        Ok(number) => u64::try_from(number).map_err(|_| "the number can't be negative".into()),
        Err(_) => Err("the number is too large".into()),
    }
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

fn one_of(
    key: &str,
    allowed: &[&'static str],
    value: &DeValue<'_>,
) -> Result<&'static str, Complaint> {
    let text = text_of(value)?;
    let found = allowed.iter().find(|allowed| **allowed == text).copied();
    found.ok_or_else(|| Complaint {
        message: format!(
            "unknown {key} `{text}`; in this version there are {}",
            allowed.join(", ")
        ),
        help: did_you_mean(text, allowed.iter().copied()),
    })
}

/// The keys of one table, against the table of keys it may have.
struct Fields<'v, 'r, 's> {
    rule: &'static Table,
    table: &'v DeTable<'v>,
    span: Span,
    /// Whether there are unknown keys. Those are probably the missing ones then.
    misnamed: bool,
    report: &'r mut Report<'s>,
}

impl<'v, 'r, 's> Fields<'v, 'r, 's> {
    /// Starts on a table and reports its unknown keys.
    fn new(
        rule: &'static Table,
        table: &'v DeTable<'v>,
        span: Span,
        report: &'r mut Report<'s>,
    ) -> Self {
        let mut misnamed = false;
        for (key, _) in table {
            let name = key.get_ref().as_ref();
            if rule.key(name).is_none() {
                misnamed = true;
                let known = rule.keys.iter().map(|key| key.name);
                report.add(|| {
                    let message = format!("unknown key `{name}` in {}", rule.name);
                    let all = known.clone().collect::<Vec<_>>().join(", ");
                    let help = did_you_mean(name, known).unwrap_or(format!("its keys are {all}"));
                    Problem::new(key.span().into(), message).help(help)
                });
            }
        }
        Self {
            rule,
            table,
            span,
            misnamed,
            report,
        }
    }

    fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The value of a key. Reports a required key that is missing.
    fn raw(&mut self, key: &'static str) -> Option<&'v Spanned<DeValue<'v>>> {
        let value = self.table.get(key);
        let required = self.rule.key(key).is_some_and(|key| key.default.is_none());
        if value.is_none() && required && !self.misnamed {
            let message = format!("{} has no `{key}`", self.rule.name);
            self.report.add(|| Problem::new(self.span, message));
        }
        value
    }

    /// The value of a key, parsed. Reports a value that is wrong.
    fn value<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&'v DeValue<'v>) -> Result<T, Complaint>,
    ) -> Option<At<T>> {
        let value = self.raw(key)?;
        self.parsed(value, parse)
    }

    fn parsed<T>(
        &mut self,
        value: &'v Spanned<DeValue<'v>>,
        parse: impl FnOnce(&'v DeValue<'v>) -> Result<T, Complaint>,
    ) -> Option<At<T>> {
        let span = value.span().into();
        match parse(value.get_ref()) {
            Ok(value) => Some(At { value, span }),
            Err(Complaint { message, help }) => {
                self.report.add(|| Problem::new(span, message).help(help));
                None
            }
        }
    }

    /// The elements of an array that can't be empty.
    fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&'v DeValue<'v>) -> Result<T, Complaint>,
    ) -> Option<At<Vec<At<T>>>> {
        let list = self.value(key, |value| match value.as_array() {
            Some(array) if array.is_empty() => Err("the array can't be empty".into()),
            Some(array) => Ok(array),
            None => Err(mismatch("an array of strings", value)),
        })?;
        let parsed = list.value.iter().map(|value| self.parsed(value, &parse));
        let value = parsed
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Option<_>>()?;
        Some(At {
            value,
            span: list.span,
        })
    }

    /// A table inside this one.
    fn table<T>(
        &mut self,
        key: &'static str,
        rule: &'static Table,
        read: impl FnOnce(&mut Fields<'v, '_, 's>) -> Option<T>,
    ) -> Option<At<T>> {
        let table = self.value(key, |value| {
            value.as_table().ok_or_else(|| mismatch("a table", value))
        })?;
        let span = table.span;
        let value = read(&mut Fields::new(rule, table.value, span, self.report))?;
        Some(At { value, span })
    }

    /// All `[[key]]` tables.
    fn tables<T>(
        &mut self,
        key: &'static str,
        rule: &'static Table,
        read: impl Fn(&mut Fields<'v, '_, 's>) -> Option<T>,
    ) -> Vec<T> {
        let expected = format!("tables, each written as {}", rule.name);
        let array = self.value(key, |value| {
            value.as_array().ok_or_else(|| mismatch(&expected, value))
        });
        let mut read_all = Vec::new();
        for element in array.iter().flat_map(|array| array.value.iter()) {
            let table = self.parsed(element, |value| {
                value.as_table().ok_or_else(|| mismatch(&expected, value))
            });
            if let Some(table) = table {
                let mut fields = Fields::new(rule, table.value, table.span, self.report);
                read_all.extend(read(&mut fields));
            }
        }
        read_all
    }
}
