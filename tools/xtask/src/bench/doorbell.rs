//! From one application to another: half a round trip of a message of 8 bytes over two channels.

use std::process::Command;

use anyhow::Result;
use serde::Serialize;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::job::{JOB_LIMIT, Job, SERVICE_USER};
use sivshm_tests::process::Process;

use super::programs::{Programs, numbers};
use super::sample::Samples;
use crate::report::fresh;

/// How programs wait, with the number of round trips that a round measures.
pub const MODES: [(&str, &str); 2] = [("interrupt", "2000"), ("polling", "2000")];

/// Latencies between host processes.
#[derive(Debug, Serialize)]
pub struct Report {
    modes: Vec<Latency>,
}

/// Half round trips in one way of waiting.
#[derive(Debug, Serialize)]
pub struct Latency {
    mode: String,
    one_way_us: Samples,
}

impl Latency {
    /// Takes `round_trip_us` of `ping` events.
    pub fn new(mode: &str, events: &[serde_json::Value]) -> Result<Self> {
        let mut halves = Vec::new();
        for event in events {
            let trips = numbers(event, "round_trip_us")?;
            halves.extend(trips.into_iter().map(|trip| trip / 2.0));
        }
        Ok(Self {
            mode: mode.to_owned(),
            one_way_us: halves.into_iter().collect(),
        })
    }
}

/// Measures between two attached host processes.
pub fn measure(programs: &Programs, rounds: u32) -> Result<Report> {
    let job = Job {
        workers: 1,
        input: std::path::PathBuf::new(),
        byte: 0,
        mode: String::new(),
        slice_size: "64KiB".to_owned(),
    };
    let mut deployment = Deployment::new(&programs.artifacts, &job.policy(), None)?;
    deployment.up()?;
    let mut events: [Vec<serde_json::Value>; MODES.len()] = Default::default();
    for _ in 0..rounds {
        for ((mode, trips), events) in MODES.iter().zip(&mut events) {
            let mut pong = Process::start(
                "pong",
                attached(&deployment, "worker-1", &["pong", "--mode", mode]),
            )?;
            let ping = ["ping", "--mode", mode, "--rounds", trips];
            let mut ping = Process::start("ping", attached(&deployment, "manager", &ping))?;
            events.push(ping.wait_event("ping", JOB_LIMIT)?.1);
            ping.finish(JOB_LIMIT)?;
            pong.finish(JOB_LIMIT)?;
        }
    }
    deployment.down()?;
    let modes = MODES.iter().zip(&events);
    Ok(Report {
        modes: modes
            .map(|((mode, _), events)| Latency::new(mode, events))
            .collect::<Result<_>>()?,
    })
}

/// `bench` in place of a VM.
fn attached(deployment: &Deployment, vm: &str, arguments: &[&str]) -> Command {
    let mut command = deployment.run(vm);
    command.args(["--attach", "--guest-uid", &SERVICE_USER.to_string(), "--"]);
    command.arg(deployment.artifacts().guest.join("bench"));
    command.args(arguments);
    command
}

/// Prints latencies.
pub fn print(title: &str, latencies: &[Latency]) {
    let mut table = fresh([title, "p50, us", "p99, us"]);
    for Latency { mode, one_way_us } in latencies {
        table.add_row([
            mode.clone(),
            format!("{:.1}", one_way_us.median()),
            format!("{:.1}", one_way_us.p99()),
        ]);
    }
    println!("\n{table}");
}

impl Report {
    /// Prints latencies.
    pub fn print(&self) {
        print("message between host processes, one way", &self.modes);
    }
}
