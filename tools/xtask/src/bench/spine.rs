//! `cargo xtask bench spine`: what every other part stands on.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use sivshm_tests::input;

use super::programs::Programs;
use super::{doorbell, host, job, peers, vms, write};
use crate::build;

/// Measure what every other part stands on: peer handshakes, the counting job, doorbells, memory.
///
/// Prints medians with ranges and the ratio to what each is compared with; `--json` writes the same
/// with all samples. Machines are noisy: nothing is judged, and a figure belongs to its machine.
///
/// Run as root, each VM has users of its own; the job over TCP between VMs needs root for its taps.
#[derive(Debug, clap::Args)]
pub struct Args {
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
    handshake: Option<peers::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<job::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    doorbell: Option<doorbell::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vms: Option<vms::Report>,
}

/// Runs the task.
pub fn run(args: &Args) -> Result<()> {
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
        let part = peers::measure(&programs, &args.peers, args.rounds)?;
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
    write(&report, args.json.as_deref())
}
