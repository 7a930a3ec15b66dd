//! `cargo xtask check` and `cargo xtask deny`: what CI asks before it tests.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::setup::{self, Purpose, command_path};
use crate::workspace::{cargo, root, shown};

/// Format and lints, with every warning an error.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Licences, sources and duplicate crates of the dependencies, by cargo-deny, which `cargo install`
/// brings if the machine has none (about three minutes, once).
#[derive(Debug, clap::Args)]
pub struct DenyArgs {
    /// Also compare with the advisory database, which must be fetched.
    #[arg(long)]
    advisories: bool,
}

/// Runs `cargo xtask check`.
pub fn run(_: &Args) -> Result<()> {
    setup::ensure(&[Purpose::Host])?;
    shown(cargo()?.args(["fmt", "--all", "--check"]))?;
    shown(cargo()?.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))
}

/// Runs `cargo xtask deny`.
pub fn deny(args: &DenyArgs) -> Result<()> {
    setup::ensure(&[Purpose::Host])?;
    if command_path("cargo-deny").is_none() {
        eprintln!("installing cargo-deny (about three minutes, once on a machine)");
        shown(cargo()?.args(["install", "--quiet", "--locked", "cargo-deny"]))?;
    }
    let program = command_path("cargo-deny").context("cargo-deny is not where cargo installs")?;
    let mut command = Command::new(program);
    command
        .current_dir(root()?)
        .args(["check", "bans", "licenses", "sources"]);
    if args.advisories {
        command.arg("advisories");
    }
    shown(&mut command)
}
