//! `cargo xtask model`: the service handshake before a checker.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use comfy_table::{Table, presets};

use crate::setup::{self, Purpose, command_path};
use crate::workspace::{root, target};

/// The model, below the top folder.
const MODEL: &str = "handshake/model/service.pml";

/// Memory that one search may take, in MiB: the whole search of the good protocol takes 2200.
const MEMORY_MIB: u32 = 4000;

/// Depth of the search, in steps: the deepest of the good protocol is 68. A search that gets
/// there is not complete, and fails.
const DEPTH: u32 = 1000;

/// Check the model of the service handshake: what it promises holds in every state, and the checker
/// finds the attack on each protocol that is broken on purpose.
///
/// Needs spin and a C compiler. handshake/model/README.md says what is in the model.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// One search.
struct Search {
    name: &'static str,
    /// What the model is compiled with; none for the protocol as it is.
    define: Option<&'static str>,
}

const SEARCHES: [Search; 8] = [
    Search::new("the protocol", None),
    Search::new("without anything fresh", Some("NO_NONCE")),
    Search::new("without confirm", Some("NO_CONFIRM")),
    Search::new("identities not signed", Some("IDENTITY_UNSIGNED")),
    Search::new("roles not bound", Some("ROLE_UNBOUND")),
    Search::new("keys not signed", Some("KEY_UNSIGNED")),
    Search::new("agreed not proved", Some("AGREED_UNPROVED")),
    Search::new("that any exchange ends", Some("COMPLETES")),
];

/// What a search came to.
struct Outcome {
    states: u64,
    /// What happens in the shortest run that breaks a promise; empty if none does.
    attack: Vec<String>,
    took: Duration,
}

/// Runs the task.
pub fn run(_: &Args) -> Result<()> {
    setup::ensure(&[Purpose::Model])?;
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["searched", "states", "time", "found", "verdict"]);
    let mut attacks = String::new();
    let mut wrong = Vec::new();
    for search in &SEARCHES {
        eprintln!("searching: {}", search.name);
        let outcome = search.run()?;
        let good = outcome.attack.is_empty() == search.define.is_none();
        if !good {
            wrong.push(search.name);
        }
        table.add_row([
            search.name,
            &outcome.states.to_string(),
            &format!("{:.1} s", outcome.took.as_secs_f64()),
            outcome.attack.last().map_or("nothing", String::as_str),
            if good { "as it has to be" } else { "WRONG" },
        ]);
        if !outcome.attack.is_empty() {
            attacks += &format!("\n{}:\n  {}\n", search.name, outcome.attack.join("\n  "));
        }
    }
    println!("{attacks}\n{table}");
    ensure!(
        wrong.is_empty(),
        "the model says otherwise: {}",
        wrong.join(", ")
    );
    Ok(())
}

impl Search {
    const fn new(name: &'static str, define: Option<&'static str>) -> Self {
        Self { name, define }
    }

    fn run(&self) -> Result<Outcome> {
        let begun = Instant::now();
        let folder = target()?
            .join("model")
            .join(self.define.unwrap_or("protocol"));
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        std::fs::copy(root()?.join(MODEL), folder.join("model.pml"))?;
        said(self.spin(&folder)?.args(["-a", "model.pml"]))?;
        let mut compile = Command::new("gcc");
        compile
            .current_dir(&folder)
            .args(["-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c"])
            .arg(format!("-DMEMLIM={MEMORY_MIB}"));
        let mut check = Command::new(folder.join("pan"));
        check
            .current_dir(&folder)
            .args([format!("-m{DEPTH}"), "-w25".to_owned()]);
        if self.define.is_some() {
            compile.arg("-DREACH");
            check.arg("-i"); // the shortest attack
        }
        said(&mut compile)?;
        let report = said(&mut check)?;
        let (states, found) = judged(&report).with_context(|| format!("no result:\n{report}"))?;
        let attack = if found {
            story(&said(self.spin(&folder)?.args(["-T", "-t", "model.pml"]))?)
        } else {
            Vec::new()
        };
        Ok(Outcome {
            states,
            attack,
            took: begun.elapsed(),
        })
    }

    fn spin(&self, folder: &Path) -> Result<Command> {
        let spin: PathBuf = command_path("spin").context("spin is not in PATH")?;
        let mut command = Command::new(spin);
        command.current_dir(folder);
        if let Some(define) = self.define {
            // An attack counts if one device process is enough for it.
            command.args([&format!("-D{define}"), "-DONE_LIAR"]);
        }
        Ok(command)
    }
}

/// Runs a command and returns its output.
fn said(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("can't start {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed: {}\n{text}{errors}", output.status);
    }
    Ok(text)
}

/// Reads a search's report: how many states it saw, and whether it broke a promise. A search that
/// broke none and stopped early says nothing.
fn judged(report: &str) -> Option<(u64, bool)> {
    let before = |words: &str| {
        report
            .lines()
            .find_map(|line| line.trim().strip_suffix(words))
    };
    let states = before(" states, stored")?.trim().parse().ok()?;
    let (_, errors) = report.split_once("errors: ")?;
    let found = errors.lines().next()?.trim() != "0";
    let stopped = ["Search not completed", "max search depth too small"];
    let complete = !stopped.iter().any(|words| report.contains(words));
    (found || complete).then_some((states, found))
}

/// What the model itself says in a replayed run.
fn story(replay: &str) -> Vec<String> {
    replay
        .lines()
        .take_while(|line| !line.starts_with("spin:"))
        .map(|line| line.trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{judged, story};

    #[test]
    fn a_whole_search_without_errors_finds_nothing() {
        let report =
            "State-vector 84 byte, depth reached 68, errors: 0\n 18911078 states, stored\n";
        assert_eq!(judged(report), Some((18_911_078, false)));
    }

    #[test]
    fn a_search_that_stopped_early_says_nothing() {
        for why in [
            "Warning: Search not completed",
            "error: max search depth too small",
        ] {
            let report = format!("{why}\n depth reached 9, errors: 0\n 7 states, stored\n");
            assert_eq!(judged(&report), None, "{why}");
        }
    }

    #[test]
    fn an_attack_counts_wherever_the_search_stopped() {
        let report = "Warning: Search not completed\n errors: 3\n 7 states, stored\n";
        assert_eq!(judged(report), Some((7, true)));
    }

    #[test]
    fn a_story_is_what_the_model_says() {
        let replay = "A1 opens X to B\n  BROKEN: it\nspin: trail ends after 3 steps\nx = 1\n";
        assert_eq!(story(replay), ["A1 opens X to B", "BROKEN: it"]);
    }
}
