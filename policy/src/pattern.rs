//! Names with braces, ends of channels, and globs.
//!
//! A pattern has at most one pair of braces: a range `{1..31}`, both ends included, or a
//! placeholder `{n}` that stands for one number of a range declared elsewhere.

use std::fmt;
use std::ops::RangeInclusive;

use sivshm_abi::limits::MAX_VMS;
use sivshm_abi::name::{BadName, ServiceName};

/// Why a text is no pattern, end or glob.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BadPattern {
    #[error("braces do not match: write one range `{{1..31}}` or one placeholder `{{n}}`")]
    Braces,
    #[error("a name can have one pair of braces only")]
    TwoBraces,
    #[error("`{{{0}}}` is neither a range like `{{1..31}}` nor a placeholder like `{{n}}`")]
    Hole(String),
    #[error("the range {0}..{1} is empty: write the smaller number first")]
    Empty(u32, u32),
    #[error("the range {0}..{1} has more than {MAX_VMS} numbers")]
    TooLong(u32, u32),
    #[error("`{0}` is not the end of a channel: write \"vm/service\"")]
    End(String),
    #[error("`{0}` is not the name of a service: {1}")]
    Service(String, BadName),
    #[error("`{0}` can't match a VM: use a-z, 0-9, `-` and `*` for any characters")]
    Glob(String),
}

/// What stands between a pattern's braces.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Hole {
    /// Every number of a range.
    Range(RangeInclusive<u32>),
    /// One number of a range declared elsewhere.
    Placeholder(String),
}

/// A name with at most one pair of braces.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pattern {
    prefix: String,
    hole: Option<Hole>,
    suffix: String,
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, BadPattern> {
        let (prefix, hole, suffix) = match text.split_once('{') {
            None => (text, None, ""),
            Some((prefix, rest)) => {
                let (inside, suffix) = rest.split_once('}').ok_or(BadPattern::Braces)?;
                (prefix, Some(Hole::parse(inside)?), suffix)
            }
        };
        match (prefix.contains('}'), suffix.contains(['{', '}'])) {
            (false, false) => Ok(Self {
                prefix: prefix.to_owned(),
                hole,
                suffix: suffix.to_owned(),
            }),
            (true, _) => Err(BadPattern::Braces),
            (false, true) => Err(BadPattern::TwoBraces),
        }
    }

    /// What stands between the braces, if there are any.
    pub(crate) const fn hole(&self) -> Option<&Hole> {
        self.hole.as_ref()
    }

    /// The placeholder's letter or word, if there is one.
    pub(crate) fn placeholder(&self) -> Option<&str> {
        match &self.hole {
            Some(Hole::Placeholder(word)) => Some(word),
            _ => None,
        }
    }

    /// What stands before and behind the braces. A placeholder is bound by the VMs of equal shape.
    pub(crate) fn shape(&self) -> (&str, &str) {
        (&self.prefix, &self.suffix)
    }

    /// The names that the pattern stands for when its placeholder, if any, is `bound`.
    pub(crate) fn names(&self, bound: Option<u32>) -> impl Iterator<Item = String> {
        let numbers = match &self.hole {
            Some(Hole::Range(range)) => Some(range.clone()),
            Some(Hole::Placeholder(_)) => bound.map(|number| number..=number),
            None => None,
        };
        let plain = numbers.is_none().then(|| self.to_string());
        let numbers = numbers.into_iter().flatten();
        plain
            .into_iter()
            .chain(numbers.map(move |n| format!("{}{n}{}", self.prefix, self.suffix)))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefix)?;
        match &self.hole {
            Some(Hole::Range(range)) => write!(f, "{{{}..{}}}", range.start(), range.end())?,
            Some(Hole::Placeholder(word)) => write!(f, "{{{word}}}")?,
            None => {}
        }
        f.write_str(&self.suffix)
    }
}

impl Hole {
    fn parse(inside: &str) -> Result<Self, BadPattern> {
        let bad = || BadPattern::Hole(inside.to_owned());
        let Some((first, last)) = inside.split_once("..") else {
            let word = !inside.is_empty() && inside.bytes().all(|byte| byte.is_ascii_lowercase());
            return word
                .then(|| Self::Placeholder(inside.to_owned()))
                .ok_or_else(bad);
        };
        let first = number(first).ok_or_else(bad)?;
        let last = number(last).ok_or_else(bad)?;
        let length = last
            .checked_sub(first)
            .ok_or(BadPattern::Empty(first, last))?;
        match usize::try_from(length) {
            Ok(length) if length < MAX_VMS => Ok(Self::Range(first..=last)),
            _ => Err(BadPattern::TooLong(first, last)),
        }
    }
}

/// A number without sign and leading zeros, so that equal numbers are written equally.
fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// One end of a channel: `vm/service`, with braces in the VM's name only.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct End {
    pub(crate) vm: Pattern,
    pub(crate) service: ServiceName,
}

impl End {
    pub(crate) fn parse(text: &str) -> Result<Self, BadPattern> {
        let (vm, service) = text
            .split_once('/')
            .filter(|(vm, _)| !vm.is_empty())
            .ok_or_else(|| BadPattern::End(text.to_owned()))?;
        Ok(Self {
            vm: Pattern::parse(vm)?,
            service: ServiceName::new(service)
                .map_err(|bad| BadPattern::Service(service.to_owned(), bad))?,
        })
    }
}

/// A pattern over the names of VMs, where `*` stands for any characters, also for none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Glob(String);

impl Glob {
    pub(crate) fn parse(text: &str) -> Result<Self, BadPattern> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-*".contains(&b);
        if text.is_empty() || !text.bytes().all(allowed) {
            return Err(BadPattern::Glob(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else {
            return self.0 == name;
        };
        let Some(mut left) = name.strip_prefix(first) else {
            return false;
        };
        // Taking the earliest match of each middle part leaves the most for those behind it.
        let mut parts = rest.split('*');
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            let Some((_, behind)) = left.split_once(part) else {
                return false;
            };
            left = behind;
        }
        left.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pattern: &str, bound: Option<u32>) -> Vec<String> {
        Pattern::parse(pattern).unwrap().names(bound).collect()
    }

    #[test]
    fn patterns_expand() {
        assert_eq!(names("ivi", None), ["ivi"]);
        assert_eq!(names("w-{9..11}", None), ["w-9", "w-10", "w-11"]);
        assert_eq!(names("w-{n}-x", Some(7)), ["w-7-x"]);
        assert_eq!(names("w-{0..255}", None).len(), 256);
    }

    #[test]
    fn bad_patterns_are_refused() {
        for (text, bad) in [
            ("a{1..2", BadPattern::Braces),
            ("a}1..2{", BadPattern::Braces),
            ("{1..2}{3..4}", BadPattern::TwoBraces),
            ("a{}", BadPattern::Hole(String::new())),
            ("a{N}", BadPattern::Hole("N".to_owned())),
            ("a{01..2}", BadPattern::Hole("01..2".to_owned())),
            ("a{1..=2}", BadPattern::Hole("1..=2".to_owned())),
            ("a{1..+2}", BadPattern::Hole("1..+2".to_owned())),
            ("a{2..1}", BadPattern::Empty(2, 1)),
            ("a{0..256}", BadPattern::TooLong(0, 256)),
        ] {
            assert_eq!(Pattern::parse(text), Err(bad), "{text}");
        }
        for text in ["", "a", "/b", "a/", "a/B", "a/b/c"] {
            assert!(End::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn globs_match_whole_names() {
        for (glob, name, expected) in [
            ("worker-*", "worker-1", true),
            ("worker-*", "worker-", true),
            ("worker-*", "aworker-1", false),
            ("*", "a", true),
            ("a", "ab", false),
            ("*b", "ab", true),
            ("a*b*c", "abbc", true),
            ("a*b*c", "acb", false),
            ("a*ba", "aba", true),
            ("ab*ba", "aba", false),
            ("a**c", "ac", true),
        ] {
            assert_eq!(
                Glob::parse(glob).unwrap().matches(name),
                expected,
                "{glob} {name}"
            );
        }
        assert!(Glob::parse("").is_err());
        assert!(Glob::parse("a/b").is_err());
    }
}
