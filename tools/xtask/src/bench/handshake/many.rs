//! One service opens channels to many others at the same time: host processes.

use anyhow::Result;
use serde::Serialize;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::job::JOB_LIMIT;
use sivshm_tests::process::Process;

use super::super::programs::{Programs, attached};
use super::super::sample::Samples;
use super::{Bare, from_mapper, milliseconds, policy, to_worker};
use crate::report::fresh;

/// Channels, each to another VM.
const CHANNELS: u16 = 31;

/// Openings of all of them, for each round.
const OPENINGS: &str = "10";

/// Time before each, in milliseconds: the device process of the writer takes as long until it lets
/// a service do as much again.
const PAUSE_MS: &str = "2000";

/// Openings of all channels.
#[derive(Debug, Serialize)]
pub struct Report {
    bare: Bare,
    channels: u16,
    /// Until the writer has all its ends.
    open_ms: Samples,
    /// Until the writer knows that all first messages were received.
    message_ms: Samples,
}

/// Measures.
pub fn measure(programs: &Programs, rounds: u32) -> Result<Report> {
    let mut deployment = Deployment::new(&programs.artifacts, &policy(CHANNELS), None)?;
    deployment.up()?;
    let (mut bare, mut open_ms, mut message_ms) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(programs.run(&["tls"])?);
        let read = |number| {
            let (vm, channel) = (format!("worker-{number}"), from_mapper(number));
            let arguments = ["open-reader", "--identity", "reducer", "--rounds", OPENINGS];
            let arguments: Vec<_> = arguments.into_iter().chain([channel.as_str()]).collect();
            Process::start(&vm, attached(&deployment, &vm, "reducer", &arguments))
        };
        let mut readers = (1..=CHANNELS).map(read).collect::<Result<Vec<_>>>()?;
        let channels: Vec<_> = (1..=CHANNELS).map(to_worker).collect();
        let arguments = ["open-writer", "--identity", "mapper", "--rounds", OPENINGS];
        let mut arguments = arguments.to_vec();
        arguments.extend(["--pause-ms", PAUSE_MS]);
        arguments.extend(channels.iter().map(String::as_str));
        let command = attached(&deployment, "manager", "mapper", &arguments);
        let mut writer = Process::start("manager", command)?;
        let (_, event) = writer.wait_event("writer", JOB_LIMIT)?;
        open_ms.extend(milliseconds(&event, "open_us")?);
        message_ms.extend(milliseconds(&event, "message_us")?);
        for process in readers.iter_mut().chain([&mut writer]) {
            process.finish(JOB_LIMIT)?;
        }
    }
    deployment.down()?;
    Ok(Report {
        bare: Bare::new(&bare)?,
        channels: CHANNELS,
        open_ms: open_ms.into_iter().collect(),
        message_ms: message_ms.into_iter().collect(),
    })
}

impl Report {
    /// Prints times.
    pub fn print(&self) {
        let mut table = fresh([
            &format!(
                "{} channels at the same time, host processes",
                self.channels
            ),
            "all, ms",
            "a channel, ms",
            "bare TLS x",
        ]);
        let channels = f64::from(self.channels);
        for (name, samples) in [
            ("all are open", &self.open_ms),
            ("all first messages are received", &self.message_ms),
        ] {
            table.add_row([
                name.to_owned(),
                samples.to_string(),
                format!("{:.2}", samples.median() / channels),
                format!("{:.2}", samples.ratio(&self.bare.wall_ms) / channels),
            ]);
        }
        println!("\n{table}");
    }
}
