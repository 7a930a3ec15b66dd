//! `cargo xtask bench handshake`: what it costs to open a channel, to take it away, and to protect
//! what goes over it.

mod guests;
mod many;
mod native;
mod revoke;
mod ring;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;
use sivshm_tests::job::Job;

use super::programs::{Programs, numbers};
use super::sample::Samples;
use super::{host, write};
use crate::build;

/// Measure the service handshake: openings, revocation, and rings with integrity.
///
/// An opening runs from `Channel::open`, or `Session::open` before it, of the service that comes last
/// until it knows that its first message was received. Beside it, in turns, runs a bare mutual
/// TLS 1.3 handshake.
///
/// Prints medians and 99th percentiles, and ratios; `--json` writes the same with all samples.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often each thing is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Measure only these
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["native", "many", "revoke", "ring", "vms"])]
    part: Vec<Part>,
    /// Write everything to this file as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Part {
    /// Openings between two host processes that stand in for VMs
    Native,
    /// Openings of 31 channels with 31 VMs at the same time
    Many,
    /// Channels that the operator takes away
    Revoke,
    /// Round trips and throughput of rings, beside raw memory
    Ring,
    /// Openings between two VMs
    Vms,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    host: host::Host,
    rounds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    native: Option<native::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    many: Option<many::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoke: Option<revoke::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ring: Option<ring::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vms: Option<guests::Report>,
}

/// Runs the task.
pub fn run(args: &Args) -> Result<()> {
    let wanted = |part| args.part.contains(&part);
    let programs = Programs::build(build::all(wanted(Part::Vms))?)?;
    let mut report = Report {
        host: host::Host::read()?,
        rounds: args.rounds,
        ..Report::default()
    };
    report.host.print();
    if wanted(Part::Native) {
        let part = native::measure(&programs, args.rounds)?;
        part.print();
        report.native = Some(part);
    }
    if wanted(Part::Many) {
        let part = many::measure(&programs, args.rounds)?;
        part.print();
        report.many = Some(part);
    }
    if wanted(Part::Revoke) {
        let part = revoke::measure(&programs, args.rounds)?;
        part.print();
        report.revoke = Some(part);
    }
    if wanted(Part::Ring) {
        let part = ring::measure(&programs, args.rounds)?;
        part.print();
        report.ring = Some(part);
    }
    if wanted(Part::Vms) {
        let part = guests::measure(&programs, args.rounds)?;
        part.print();
        report.vms = Some(part);
    }
    write(&report, args.json.as_deref())
}

/// Bare mutual TLS 1.3 handshakes.
#[derive(Debug, Default, Serialize)]
struct Bare {
    wall_ms: Samples,
    /// Of both ends together.
    cpu_ms: Samples,
}

impl Bare {
    /// Takes `tls` events.
    fn new(events: &[Value]) -> Result<Self> {
        let mut wall_ms = Vec::new();
        for event in events {
            wall_ms.extend(milliseconds(event, "wall_us")?);
        }
        let cpu = events.iter().map(cpu_ms);
        Ok(Self {
            wall_ms: wall_ms.into_iter().collect(),
            cpu_ms: cpu.collect::<Result<_>>()?,
        })
    }

    fn print(&self) {
        println!(
            "bare mutual TLS 1.3 over a Unix socket: {:.2} ms wall (p99 {:.2}), {:.2} ms CPU of both ends",
            self.wall_ms.median(),
            self.wall_ms.p99(),
            self.cpu_ms.median()
        );
    }
}

/// Times of an event's field, which is in microseconds.
fn milliseconds(event: &Value, field: &str) -> Result<impl Iterator<Item = f64> + use<>> {
    Ok(numbers(event, field)?.into_iter().map(|us| us / 1e3))
}

/// CPU time of one round.
fn cpu_ms(event: &Value) -> Result<f64> {
    let us = event.get("cpu_us").and_then(Value::as_f64);
    Ok(us.context("an event without its CPU time")? / 1e3)
}

/// The job's policy: its mapper opens `job-N` to the reducer of `worker-N`. The slices are small:
/// their size costs nothing here.
fn policy(workers: u16) -> String {
    let job = Job {
        workers,
        input: PathBuf::new(),
        byte: 0,
        mode: String::new(),
        slice_size: "64KiB".to_owned(),
    };
    job.policy()
}

/// How the mapper calls the channel to a worker.
fn to_worker(number: u16) -> String {
    format!("job-{number}=worker-{number}/reducer")
}

/// How a worker calls it.
fn from_mapper(number: u16) -> String {
    format!("job-{number}=manager/mapper")
}
