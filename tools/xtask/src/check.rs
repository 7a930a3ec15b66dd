//! `cargo xtask check` and `cargo xtask deny`: what CI asks before it tests.

use std::process::Command;

use anyhow::Result;

use crate::setup::{self, Purpose, command_path};
use crate::workspace::{cargo, root, shown, target};

/// Format and lints, with every warning an error.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Licences, sources and duplicate crates of the dependencies, by cargo-deny, which is installed
/// below the target folder if the machine has none (about three minutes).
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
    let own = target()?.join("tools");
    let program = match command_path("cargo-deny") {
        Some(program) => program,
        None => {
            if !own.join("bin/cargo-deny").exists() {
                eprintln!("installing cargo-deny below {}", own.display());
                shown(
                    cargo()?
                        .args(["install", "--quiet", "--locked", "cargo-deny", "--root"])
                        .arg(&own),
                )?;
            }
            own.join("bin/cargo-deny")
        }
    };
    let mut command = Command::new(program);
    command
        .current_dir(root()?)
        .args(["check", "bans", "licenses", "sources"]);
    if args.advisories {
        command.arg("advisories");
    }
    shown(&mut command)
}
