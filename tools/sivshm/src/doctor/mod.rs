//! `sivshm doctor`: whether a machine is as it has to be, and what to do where it is not.

mod guest;

use std::path::Path;

use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::table::Table;

/// Check that this guest is shut as docs/guest.md says
///
/// Run it inside of a guest: it looks at the module, at what root of this guest can still do past it,
/// and at where the shared memory lies. It changes nothing, and any user may run it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sivshm doctor --guest
  sivshm doctor --guest --json | jq '.checks[] | select(.verdict == \"missing\")'

Exit codes: 0 nothing is missing (there may be hints), 1 something is, 2 wrong usage.")]
pub struct Args {
    /// Check this machine as a guest
    #[arg(long, required = true)]
    guest: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it has to be.
    Good,
    /// Works, but could be better.
    Hint,
    /// Not as it has to be: what docs/guest.md promises does not hold.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do, unless it is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

impl Check {
    /// A check that is good, or else of another verdict with advice.
    fn new(
        name: &'static str,
        good: bool,
        found: impl Into<String>,
        otherwise: (Verdict, &'static str),
    ) -> Self {
        let (verdict, advice) = otherwise;
        Self {
            name,
            verdict: if good { Verdict::Good } else { verdict },
            found: found.into(),
            advice: (!good).then_some(advice),
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    good: bool,
    checks: Vec<Check>,
}

/// Runs the command.
///
/// # Errors
/// Something is missing, or standard output is closed.
pub fn run(args: &Args) -> Outcome {
    let report = Report::of(guest::checks(Path::new("/")));
    if args.json {
        crate::output::json(&report)?;
    } else {
        crate::output::text(&report.as_text())?;
    }
    if report.good {
        return Ok(());
    }
    let missing = report.checks.iter().filter(|check| check.is_missing());
    Err(Failure::Host(format!(
        "{} of {} checks found something missing",
        missing.count(),
        report.checks.len()
    )))
}

impl Check {
    fn is_missing(&self) -> bool {
        self.verdict == Verdict::Missing
    }
}

impl Report {
    fn of(checks: Vec<Check>) -> Self {
        Self {
            good: !checks.iter().any(Check::is_missing),
            checks,
        }
    }

    fn as_text(&self) -> String {
        let mut table = Table::new(["check", "verdict", "found"]);
        for check in &self.checks {
            let verdict = match check.verdict {
                Verdict::Good => "good",
                Verdict::Hint => "hint",
                Verdict::Missing => "MISSING",
            };
            table.row([check.name.into(), verdict.into(), check.found.clone()]);
        }
        let advice = self.checks.iter().filter_map(|check| {
            let advice = check.advice?;
            Some(format!("\n{}: {advice}", check.name))
        });
        format!("{table}{}", advice.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(verdict: Verdict) -> Check {
        Check::new("one", false, "x", (verdict, "do it"))
    }

    #[test]
    fn a_hint_is_no_fault_and_a_missing_thing_is() {
        assert!(Report::of(vec![check(Verdict::Hint)]).good);
        assert!(!Report::of(vec![check(Verdict::Hint), check(Verdict::Missing)]).good);
    }

    #[test]
    fn advice_is_given_where_something_is_to_be_done() {
        let good = Check::new("two", true, "y", (Verdict::Missing, "never"));
        let text = Report::of(vec![check(Verdict::Missing), good]).as_text();
        assert!(text.contains("one: do it"), "{text}");
        assert!(!text.contains("never"), "{text}");
    }
}
