//! Openings between two host processes that stand in for VMs, whose device processes are confined as
//! always.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::job::JOB_LIMIT;
use sivshm_tests::process::Process;

use super::super::domain::device_pids;
use super::super::procfs::cpu;
use super::super::programs::{Programs, attached};
use super::super::sample::Samples;
use super::{Bare, cpu_ms, from_mapper, milliseconds, policy, to_worker};
use crate::report::fresh;

/// Openings of a round.
const OPENINGS: u32 = 100;

/// Bare handshakes of a round.
const BARE: &str = "200";

/// Openings beside bare handshakes.
#[derive(Debug, Serialize)]
pub struct Report {
    bare: Bare,
    openings: Vec<Opening>,
}

/// One way to open a channel.
#[derive(Debug, Default, Serialize)]
pub struct Opening {
    /// What the tables call it.
    name: &'static str,
    /// Until the writer has its end.
    open_ms: Samples,
    /// Until the writer knows that its first message was received.
    message_ms: Samples,
    /// CPU time of each party for an opening, its message, and its end.
    cpu_ms: Vec<Party>,
}

/// One of the four.
#[derive(Debug, Serialize)]
struct Party {
    name: &'static str,
    cpu_ms: Samples,
}

/// Ways to open a channel: name, and the argument of `bench`.
const WAYS: [(&str, Option<&str>); 2] = [
    ("in an open session", None),
    ("with its session", Some("--new-sessions")),
];

/// The parties, in the order in which they are measured.
const PARTIES: [&str; 4] = [
    "writer",
    "reader",
    "writer's device process",
    "reader's device process",
];

/// What the openings of one round came to.
struct Measured {
    writer: Value,
    cpu_ms: [f64; PARTIES.len()],
}

/// Measures openings and bare handshakes in turns.
pub fn measure(programs: &Programs, rounds: u32) -> Result<Report> {
    let mut deployment = Deployment::new(&programs.artifacts, &policy(1), None)?;
    deployment.up()?;
    let mut bare = Vec::new();
    let mut measured: [Vec<Measured>; WAYS.len()] = Default::default();
    for _ in 0..rounds {
        bare.push(programs.run(&["tls", "--rounds", BARE])?);
        for ((_, argument), measured) in WAYS.iter().zip(&mut measured) {
            measured.push(open(&deployment, *argument)?);
        }
    }
    deployment.down()?;
    let openings = WAYS.iter().zip(&measured);
    Ok(Report {
        bare: Bare::new(&bare)?,
        openings: openings
            .map(|((name, _), measured)| Opening::new(name, measured))
            .collect::<Result<_>>()?,
    })
}

/// Runs writer and reader once.
fn open(deployment: &Deployment, argument: Option<&str>) -> Result<Measured> {
    let pids = device_pids(deployment)?;
    let devices = ["manager", "worker-1"].map(|vm| pids.get(vm).copied());
    let devices = || -> Result<Vec<Duration>> {
        let spent = |pid: &Option<u64>| cpu(pid.context("a VM without device process")?);
        devices.iter().map(spent).collect()
    };
    let start = |task: &str, (vm, service): (&str, &str), channel: &str| {
        let rounds = OPENINGS.to_string();
        let mut arguments = vec![task, "--identity", service, "--rounds", &rounds];
        arguments.extend(argument);
        arguments.push(channel);
        Process::start(task, attached(deployment, vm, service, &arguments))
    };
    let reducer = ("worker-1", "reducer");
    let mut reader = start("open-reader", reducer, &from_mapper(1))?;
    let mut writer = start("open-writer", ("manager", "mapper"), &to_worker(1))?;
    writer.wait_event("measuring", JOB_LIMIT)?;
    let before = devices()?;
    let (_, event) = writer.wait_event("writer", JOB_LIMIT)?;
    let after = devices()?;
    let (_, read) = reader.wait_event("reader", JOB_LIMIT)?;
    writer.finish(JOB_LIMIT)?;
    reader.finish(JOB_LIMIT)?;
    let spent = |(after, before): (Duration, Duration)| {
        (after - before).as_secs_f64() * 1e3 / f64::from(OPENINGS)
    };
    let mut devices = after.into_iter().zip(before).map(spent);
    let mut device = || devices.next().context("two device processes");
    Ok(Measured {
        cpu_ms: [cpu_ms(&event)?, cpu_ms(&read)?, device()?, device()?],
        writer: event,
    })
}

impl Opening {
    fn new(name: &'static str, measured: &[Measured]) -> Result<Self> {
        let times = |field| -> Result<Samples> {
            let mut times = Vec::new();
            for one in measured {
                times.extend(milliseconds(&one.writer, field)?);
            }
            Ok(times.into_iter().collect())
        };
        let parties = PARTIES.iter().enumerate().map(|(number, name)| Party {
            name,
            cpu_ms: (measured.iter())
                .filter_map(|one| one.cpu_ms.get(number).copied())
                .collect(),
        });
        Ok(Self {
            name,
            open_ms: times("open_us")?,
            message_ms: times("message_us")?,
            cpu_ms: parties.collect(),
        })
    }
}

impl Report {
    /// Prints times, ratios and CPU.
    pub fn print(&self) {
        let mut table = fresh([
            "a channel is opened, host processes",
            "open p50, ms",
            "p99",
            "message p50, ms",
            "p99",
            "bare TLS x",
        ]);
        for opening in &self.openings {
            let ratio = opening.message_ms.ratio(&self.bare.wall_ms);
            table.add_row([
                opening.name.to_owned(),
                format!("{:.2}", opening.open_ms.median()),
                format!("{:.2}", opening.open_ms.p99()),
                format!("{:.2}", opening.message_ms.median()),
                format!("{:.2}", opening.message_ms.p99()),
                format!("{ratio:.2}"),
            ]);
        }
        println!("\n{table}");
        self.bare.print();
        let mut table = fresh(
            ["CPU of an opening and its end, ms"]
                .into_iter()
                .chain(PARTIES),
        );
        for opening in &self.openings {
            let parties = opening.cpu_ms.iter();
            let spent = parties.map(|party| format!("{:.2}", party.cpu_ms.median()));
            table.add_row([opening.name.to_owned()].into_iter().chain(spent));
        }
        println!("\n{table}");
    }
}
