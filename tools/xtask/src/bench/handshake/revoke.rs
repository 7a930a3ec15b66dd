//! From the operator's word to pages that are gone: host processes, channel after channel.
//!
//! The time begins when `revoke` is written to the admin socket of the writer's device process. It ends
//! when a service is told, which is after its pages were replaced by empty ones.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use sivshm_tests::deployment::Deployment;
use sivshm_tests::job::{JOB_LIMIT, SERVICE_USER};
use sivshm_tests::process::Process;

use super::super::domain::ask;
use super::super::programs::{Programs, attached};
use super::super::sample::Samples;
use crate::report::fresh;

/// Channels of a round: each can be revoked once.
const CHANNELS: u16 = 100;

/// Times until pages are gone.
#[derive(Debug, Serialize)]
pub struct Report {
    /// In the VM whose device process was asked.
    writer_ms: Samples,
    /// In the other one.
    reader_ms: Samples,
    /// In both.
    both_ms: Samples,
}

/// Measures.
pub fn measure(programs: &Programs, rounds: u32) -> Result<Report> {
    let (mut writer_ms, mut reader_ms) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut deployment = Deployment::new(&programs.artifacts, &policy()?, None)?;
        deployment.up()?;
        let keep = |vm: &str, service: &str, role: &str, peer: &str| {
            let channels: Vec<_> = names().map(|name| format!("{name}={peer}")).collect();
            let mut arguments = vec!["keep", "--identity", service, "--role", role];
            arguments.extend(channels.iter().map(String::as_str));
            Process::start(role, attached(&deployment, vm, service, &arguments))
        };
        let mut reader = keep("b", "reads", "reader", "a/writes")?;
        let mut writer = keep("a", "writes", "writer", "b/reads")?;
        for channel in names() {
            for end in [&mut writer, &mut reader] {
                wait(end, "opened", &channel)?;
            }
            let asked = now()?;
            let answer = ask(
                &deployment,
                "a",
                &json!({ "command": "revoke", "channel": channel }),
            )?;
            ensure!(
                answer.get("answer").and_then(Value::as_str) == Some("revoked"),
                "not revoked: {answer}"
            );
            for (end, times) in [(&mut writer, &mut writer_ms), (&mut reader, &mut reader_ms)] {
                let ended = wait(end, "ended", &channel)?;
                let unix_us = ended.get("unix_us").and_then(Value::as_f64);
                times.push((unix_us.context("an end without its time")? - asked) / 1e3);
            }
        }
        for end in [&mut writer, &mut reader] {
            end.finish(JOB_LIMIT)?;
        }
        deployment.down()?;
    }
    let both = writer_ms.iter().zip(&reader_ms);
    Ok(Report {
        both_ms: both.map(|(writer, reader)| writer.max(*reader)).collect(),
        writer_ms: writer_ms.into_iter().collect(),
        reader_ms: reader_ms.into_iter().collect(),
    })
}

/// Waits for what a program says about a channel.
fn wait(program: &mut Process, event: &str, channel: &str) -> Result<Value> {
    program.wait_for(&format!("`{event}` of {channel}"), JOB_LIMIT, |line| {
        let said = line.event()?;
        let is = |field: &str, text: &str| said.get(field).and_then(Value::as_str) == Some(text);
        (is("event", event) && is("channel", channel)).then_some(said)
    })
}

/// The time that the programs state, in microseconds.
fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() * 1e6)
}

fn names() -> impl Iterator<Item = String> {
    (1..=CHANNELS).map(|number| format!("channel-{number}"))
}

fn policy() -> Result<String> {
    let mut policy = format!(
        r#"version = 1
trust_domain = "bench.example"
serial = 1
[[vm]]
name = "a"
[[vm]]
name = "b"
[[service]]
vm = "a"
name = "writes"
process = {{ uid = {SERVICE_USER} }}
[[service]]
vm = "b"
name = "reads"
process = {{ uid = {SERVICE_USER} }}
"#
    );
    for name in names() {
        writeln!(
            policy,
            r#"[[channel]]
name = "{name}"
from = "a/writes"
to = ["b/reads"]
kind = "region"
size = "64KiB""#
        )?;
    }
    Ok(policy)
}

impl Report {
    /// Prints times.
    pub fn print(&self) {
        let mut table = fresh([
            "from the operator's word, host processes",
            "p50, ms",
            "p99, ms",
        ]);
        for (name, samples) in [
            ("pages are gone from the writer", &self.writer_ms),
            ("pages are gone from the reader", &self.reader_ms),
            ("both", &self.both_ms),
        ] {
            table.add_row([
                name.to_owned(),
                format!("{:.2}", samples.median()),
                format!("{:.2}", samples.p99()),
            ]);
        }
        println!("\n{table}");
    }
}
