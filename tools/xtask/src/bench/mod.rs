//! `cargo xtask bench`: measures, never asserts (`docs/performance.md`).
//!
//! Whatever is compared runs in the same process of this task, in turns, so that a noisy machine is
//! noisy for both; what is printed are medians, ranges and ratios.

mod domain;
mod doorbell;
mod handshake;
mod host;
mod job;
mod network;
mod procfs;
mod programs;
mod sample;
mod vms;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde::Serialize;
use sivshm_tests::input;

use crate::build;

use self::programs::Programs;

/// Measure SIVSHM on this machine.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Spine(SpineArgs),
}

/// Measure what every other part stands on: peer handshakes, the counting job, doorbells, memory.
///
/// Prints medians with ranges and the ratio to what each is compared with; `--json` writes the same
/// with all samples. Machines are noisy: nothing is judged, and a figure belongs to its machine.
///
/// Run as root, each VM has users of its own; the job over TCP between VMs needs root for its taps.
#[derive(Debug, clap::Args)]
struct SpineArgs {
    /// How often each thing is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Measure only these
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["handshake", "job", "doorbell", "vms"])]
    part: Vec<Part>,
    /// Numbers of peers of the VM whose handshakes are measured
    #[arg(long, value_delimiter = ',', default_values_t = [1_u16, 3, 7, 15, 31, 127, 255], value_parser = clap::value_parser!(u16).range(1..=255))]
    peers: Vec<u16>,
    /// The file of the job; by default a real one of tens of MB that this machine has
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Write everything to this file as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Part {
    /// Peer handshakes, and the memory of device processes
    Handshake,
    /// The job on host processes that stand in for VMs
    Job,
    /// Messages between host processes that stand in for VMs
    Doorbell,
    /// Job and messages in VMs, and the job over TCP between them
    Vms,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    host: host::Host,
    rounds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake: Option<handshake::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<job::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    doorbell: Option<doorbell::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vms: Option<vms::Report>,
}

/// Runs the task.
pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Spine(args) => spine(args),
    }
}

fn spine(args: &SpineArgs) -> Result<()> {
    let wanted = |part| args.part.contains(&part);
    let artifacts = build::all(wanted(Part::Vms))?;
    let programs = Programs::build(artifacts)?;
    let input = match &args.input {
        Some(path) => path.clone(),
        None => input::default_input()?,
    };
    let mut report = Report {
        host: host::Host::read()?,
        rounds: args.rounds,
        ..Report::default()
    };
    report.host.print();
    if wanted(Part::Handshake) {
        let part = handshake::measure(&programs, &args.peers, args.rounds)?;
        part.print();
        report.handshake = Some(part);
    }
    if wanted(Part::Job) {
        let part = job::measure(&programs, &input, args.rounds)?;
        part.print();
        report.job = Some(part);
    }
    if wanted(Part::Doorbell) {
        let part = doorbell::measure(&programs, args.rounds)?;
        part.print();
        report.doorbell = Some(part);
    }
    if wanted(Part::Vms) {
        let part = vms::measure(&programs, &input, args.rounds)?;
        part.print();
        report.vms = Some(part);
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(())
}
