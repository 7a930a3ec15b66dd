//! One table's keys and values: which there may be, which must be, and the forms of single values.

use std::fmt::Display;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::keys::Table;
use crate::source::{At, Problem, Report, Span, did_you_mean};

/// What is wrong with one value, and what to write instead.
pub(crate) struct Complaint {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl<E: Display> From<E> for Complaint {
    fn from(error: E) -> Self {
        Self {
            message: error.to_string(),
            help: None,
        }
    }
}

/// A value of another type.
pub(crate) fn mismatch(expected: &str, found: &DeValue<'_>) -> Complaint {
    format!("expected {expected}, found {}", found.type_str()).into()
}

pub(crate) fn text_of<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Complaint> {
    value.as_str().ok_or_else(|| mismatch("a string", value))
}

pub(crate) fn integer(value: &DeValue<'_>) -> Result<u64, Complaint> {
    let number = value
        .as_integer()
        .ok_or_else(|| mismatch("an integer", value))?;
    match i64::from_str_radix(number.as_str(), number.radix()) {
        Ok(number) => u64::try_from(number).map_err(|_| "the number can't be negative".into()),
        Err(_) => Err("the number is too large".into()),
    }
}

/// What the value's word means, of those that are allowed.
pub(crate) fn one_of<T>(
    key: &str,
    allowed: impl Iterator<Item = (&'static str, T)> + Clone,
    value: &DeValue<'_>,
) -> Result<T, Complaint> {
    let text = text_of(value)?;
    let found = allowed.clone().find(|(word, _)| *word == text);
    found.map(|(_, meaning)| meaning).ok_or_else(|| {
        let words = allowed.map(|(word, _)| word);
        let all: Vec<_> = words.clone().collect();
        Complaint {
            message: format!(
                "unknown {key} `{text}`; in this version there are {}",
                all.join(", ")
            ),
            help: did_you_mean(text, words),
        }
    })
}

/// The keys of one table, against the table of keys it may have.
pub(crate) struct Fields<'v, 'r, 's> {
    rule: &'static Table,
    table: &'v DeTable<'v>,
    span: Span,
    /// Whether there are unknown keys. Those are probably the missing ones then.
    misnamed: bool,
    pub(crate) report: &'r mut Report<'s>,
}

impl<'v, 'r, 's> Fields<'v, 'r, 's> {
    /// Starts on a table and reports its unknown keys.
    pub(crate) fn new(
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

    /// Whether the table has a key, with whatever value.
    pub(crate) fn has(&self, key: &str) -> bool {
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
    pub(crate) fn value<T>(
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
    pub(crate) fn list<T>(
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
    pub(crate) fn table<T>(
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
    pub(crate) fn tables<T>(
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
