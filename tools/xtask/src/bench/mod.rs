//! `cargo xtask bench`: measures, never asserts (`docs/performance.md`).
//!
//! Whatever is compared runs in the same process of this task, in turns, so that a noisy machine is
//! noisy for both; what is printed are medians, ranges and ratios.

pub mod domain;
mod doorbell;
mod handshake;
mod host;
mod job;
mod network;
mod peers;
mod procfs;
mod programs;
mod sample;
mod spine;
mod vms;

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde::Serialize;

/// Measure SIVSHM on this machine.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Spine(spine::Args),
    Handshake(handshake::Args),
}

/// Runs the task.
pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Spine(args) => spine::run(args),
        What::Handshake(args) => handshake::run(args),
    }
}

/// Writes everything that was measured as one JSON object, if a file is named.
fn write(report: &impl Serialize, path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, serde_json::to_vec_pretty(report)?)
        .with_context(|| format!("can't write {}", path.display()))
}
