//! Device processes on other kernels than this host's: the tests of hosts, on a host of their own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sivshm_tests::artifacts::Artifacts;
use sivshm_tests::host::OwnHost;
use sivshm_tests::process::output_of;

use crate::workspace::cargo;

/// Packages, their tests, and the tests' arguments: what the kernel confines, and how what is shared
/// ends, the clock's part included.
const TESTS: [(&str, &str, &[&str]); 3] = [
    // It is no harness and takes no arguments.
    ("sivshm-sys", "sandbox", &[]),
    ("sivshm-tests", "security_confinement", &[]),
    (
        "sivshm-tests",
        "functional_lifetime",
        &[
            "--test-threads=1",
            "--include-ignored",
            "lifetime_clock",
            "lifetime_ends",
        ],
    ),
];

/// What they start in place of VMs.
const PROGRAMS: [&str; 2] = ["hostile", "probe"];

/// Longest time for all of them, emulated.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Boots a host with a kernel and runs the tests there.
pub fn test(artifacts: &Artifacts, kernel: &Path) -> Result<()> {
    let mut host = OwnHost::new(artifacts, &PROGRAMS)?;
    for (package, test, arguments) in TESTS {
        host = host.test(&built(package, test)?, arguments)?;
    }
    let printed = host.run(kernel, LIMIT)?;
    let lines = printed.lines().filter(|line| !line.starts_with('{'));
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

/// The program of a test.
fn built(package: &str, test: &str) -> Result<PathBuf> {
    let mut cargo = cargo()?;
    cargo.args(["test", "--quiet", "--no-run", "--message-format=json"]);
    let messages = output_of(cargo.args(["-p", package, "--test", test]))?;
    let mut programs = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message.pointer("/target/name")? == test;
        let program = message.get("executable")?.as_str()?;
        is_it.then(|| PathBuf::from(program))
    });
    let last = programs.next_back();
    last.with_context(|| format!("cargo built no program of the test {test}"))
}
