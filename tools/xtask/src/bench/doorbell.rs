//! From one application to another: half a round trip of a message of 8 bytes over two channels.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::job::{JOB_LIMIT, Job};
use sivshm_tests::process::Process;

use super::programs::{Programs, attached, numbers};
use super::sample::Samples;
use crate::report::fresh;

/// A way in which two programs send each other messages.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// What the tables call it.
    pub name: &'static str,
    /// How programs wait.
    mode: &'static str,
    /// For how long each end holds a message before it sends the next, in microseconds.
    pause_us: u32,
    /// Round trips of a round.
    trips: u32,
}

/// What is measured: an end that sleeps and is rung, one that may not have fallen asleep yet, and
/// one that never sleeps.
pub const PACES: [Pace; 3] = [
    Pace {
        name: "rung out of sleep",
        mode: "interrupt",
        pause_us: 2000,
        trips: 500,
    },
    Pace {
        name: "as fast as they can",
        mode: "interrupt",
        pause_us: 0,
        trips: 2000,
    },
    Pace {
        name: "polling",
        mode: "polling",
        pause_us: 0,
        trips: 2000,
    },
];

impl Pace {
    /// Arguments of `bench` for the end that measures.
    pub fn ping(&self) -> Vec<String> {
        let trips = ["--rounds".to_owned(), self.trips.to_string()];
        self.end("ping").into_iter().chain(trips).collect()
    }

    /// Arguments of `bench` for the end that answers.
    pub fn pong(&self) -> Vec<String> {
        self.end("pong")
    }

    fn end(&self, end: &str) -> Vec<String> {
        let pause = self.pause_us.to_string();
        [end, "--mode", self.mode, "--pause-us", &pause]
            .map(str::to_owned)
            .to_vec()
    }
}

/// Latencies between host processes.
#[derive(Debug, Serialize)]
pub struct Report {
    latencies: Vec<Latency>,
}

/// Half round trips at one pace.
#[derive(Debug, Serialize)]
pub struct Latency {
    pace: &'static str,
    one_way_us: Samples,
}

impl Latency {
    /// Takes `round_trip_us` of `ping` events.
    pub fn new(pace: &Pace, events: &[Value]) -> Result<Self> {
        let mut halves = Vec::new();
        for event in events {
            let trips = numbers(event, "round_trip_us")?;
            halves.extend(trips.into_iter().map(|trip| trip / 2.0));
        }
        Ok(Self {
            pace: pace.name,
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
    let mut events: [Vec<Value>; PACES.len()] = Default::default();
    for _ in 0..rounds {
        for (pace, events) in PACES.iter().zip(&mut events) {
            let pong = attached(&deployment, "worker-1", "reducer", &pace.pong());
            let mut pong = Process::start("pong", pong)?;
            let ping = attached(&deployment, "manager", "mapper", &pace.ping());
            let mut ping = Process::start("ping", ping)?;
            events.push(ping.wait_event("ping", JOB_LIMIT)?.1);
            ping.finish(JOB_LIMIT)?;
            pong.finish(JOB_LIMIT)?;
        }
    }
    deployment.down()?;
    let latencies = PACES.iter().zip(&events);
    Ok(Report {
        latencies: latencies
            .map(|(pace, events)| Latency::new(pace, events))
            .collect::<Result<_>>()?,
    })
}

/// Prints latencies.
pub fn print(title: &str, latencies: &[Latency]) {
    let mut table = fresh([title, "p50, us", "p99, us"]);
    for Latency { pace, one_way_us } in latencies {
        table.add_row([
            (*pace).to_owned(),
            format!("{:.1}", one_way_us.median()),
            format!("{:.1}", one_way_us.p99()),
        ]);
    }
    println!("\n{table}");
}

impl Report {
    /// Prints latencies.
    pub fn print(&self) {
        print("message between host processes, one way", &self.latencies);
    }
}
