//! Rings: channels with each integrity beside the same rings without SIVSHM, and both beside raw
//! memory. Two services, each in a process of its own.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::job::{JOB_LIMIT, SERVICE_USER};
use sivshm_tests::process::Process;
use tempfile::NamedTempFile;

use super::super::programs::{Programs, attached, numbers};
use super::super::sample::Samples;
use crate::report::{fresh, whole};

/// Bytes of the payloads: powers of two, from 64 on.
const PAYLOADS: [u32; 8] = [
    64,
    256,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
];

/// Bytes of the memory that both processes map beside their channels: 16 of the longest payloads raw, 64 in
/// rings, and some pages.
const MEMORY_BYTES: u64 = 81 << 20;

/// Where memory files of no channel are: memory of the same kind as that of channels.
const MEMORY_FOLDER: &str = "/dev/shm";

/// Integrity of channels.
const SUITES: [&str; 3] = ["none", "crc32c", "aead"];

/// What carries payloads, what the tables call it, and the place of what it is compared with.
const CARRIERS: [(&str, &str, Option<usize>); 6] = [
    ("raw", "raw memory", None),
    ("ring", "ring, no SIVSHM (x raw)", Some(0)),
    ("apart", "read-only reader (x ring)", Some(1)),
    ("none", "channel (x ring)", Some(1)),
    ("crc32c", "crc32c (x ring)", Some(1)),
    ("aead", "aead (x ring)", Some(1)),
];

/// What rings cost.
#[derive(Debug, Serialize)]
pub struct Report {
    payloads: Vec<Payload>,
}

/// Payloads of one size.
#[derive(Debug, Serialize)]
struct Payload {
    bytes: u64,
    slots: u64,
    carriers: Vec<Carrier>,
}

/// One way for them to go.
#[derive(Debug, Serialize)]
struct Carrier {
    name: &'static str,
    round_trip_us: Figure,
    mb_s: Figure,
}

/// Samples, and their ratios to those that were taken of something else in the same turns.
#[derive(Debug, Serialize)]
struct Figure {
    samples: Samples,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratios: Option<Samples>,
}

/// Measures: the processes take turns by themselves, and new ones go through all sizes in each round.
pub fn measure(programs: &Programs, rounds: u32) -> Result<Report> {
    let mut deployment = Deployment::new(&programs.artifacts, &policy(), None)?;
    deployment.up()?;
    let mut events = [const { Vec::new() }; PAYLOADS.len()];
    for _ in 0..rounds {
        for (payload, events) in PAYLOADS.iter().zip(&mut events) {
            events.push(run(&deployment, *payload)?);
        }
    }
    deployment.down()?;
    let payloads = events.iter().map(|events| Payload::new(events));
    Ok(Report {
        payloads: payloads.collect::<Result<_>>()?,
    })
}

/// For each payload and integrity a channel there and one back; its size is what `bench` expects.
fn policy() -> String {
    let mut policy = format!(
        r#"version = 1
trust_domain = "ring.example"
serial = 1

[[vm]]
name = "near"
[[vm]]
name = "far"

[[service]]
vm = "near"
name = "near"
process = {{ uid = {SERVICE_USER} }}
[[service]]
vm = "far"
name = "far"
process = {{ uid = {SERVICE_USER} }}
"#
    );
    for payload in PAYLOADS {
        for integrity in SUITES {
            for (way, from, to) in [("there", "near", "far"), ("back", "far", "near")] {
                let size = (payload * 16).max(8192);
                policy += &format!(
                    r#"
[[channel]]
name = "{integrity}-{payload}-{way}"
from = "{from}/{from}"
to = ["{to}/{to}"]
kind = "ring"
size = "{size}B"
slot = "{payload}B"
integrity = "{integrity}"
"#
                );
            }
        }
    }
    policy
}

/// Has two new processes measure payloads of one size.
fn run(deployment: &Deployment, payload: u32) -> Result<Value> {
    let memory = NamedTempFile::new_in(MEMORY_FOLDER)?;
    memory.as_file().set_len(MEMORY_BYTES)?;
    // Services run as other users.
    (memory.as_file()).set_permissions(std::fs::Permissions::from_mode(0o666))?;
    let file = memory.path().display().to_string();
    let payload = payload.to_string();
    let start = |side: &str, other: &str| {
        let peer = format!("{other}/{other}");
        let arguments = [
            "ring",
            "--side",
            side,
            "--identity",
            side,
            "--peer",
            &peer,
            "--memory",
            &file,
            "--payload",
            &payload,
        ];
        Process::start(side, attached(deployment, side, side, &arguments))
    };
    let mut far = start("far", "near")?;
    let mut near = start("near", "far")?;
    let (_, event) = near.wait_event("ring", JOB_LIMIT)?;
    near.finish(JOB_LIMIT)?;
    far.finish(JOB_LIMIT)?;
    Ok(event)
}

impl Payload {
    /// Takes the events of one size.
    fn new(events: &[Value]) -> Result<Self> {
        let mut carriers: Vec<Carrier> = Vec::new();
        for (name, _, beside) in CARRIERS {
            let figure = |field, of: fn(&Carrier) -> &Figure, scale: f64| -> Result<Figure> {
                let mut all = Vec::new();
                for event in events {
                    let measured = event.get("carriers").and_then(Value::as_array);
                    let named =
                        |one: &&Value| one.get("name").and_then(Value::as_str) == Some(name);
                    let measured = measured.and_then(|all| all.iter().find(named));
                    all.extend(numbers(
                        measured.context("an event without a carrier")?,
                        field,
                    )?);
                }
                let samples: Samples = all.into_iter().map(|one| one * scale).collect();
                let beside = beside.and_then(|place| carriers.get(place));
                let ratios = beside.map(|beside| samples.ratios(&of(beside).samples));
                Ok(Figure { samples, ratios })
            };
            let round_trip_us = figure("round_trip_ns", |carrier| &carrier.round_trip_us, 1e-3)?;
            let mb_s = figure("mb_per_s", |carrier| &carrier.mb_s, 1.0)?;
            carriers.push(Carrier {
                name,
                round_trip_us,
                mb_s,
            });
        }
        let event = events.first().context("no round")?;
        Ok(Self {
            bytes: whole(event, "payload")?,
            slots: whole(event, "slots")?,
            carriers,
        })
    }
}

impl Report {
    /// Prints round trips and throughput, each with its ratios.
    pub fn print(&self) {
        let print = |title: &str, of: fn(&Carrier) -> &Figure| {
            let names = CARRIERS.iter().map(|(_, name, _)| *name);
            let mut table = fresh([title].into_iter().chain(names));
            for payload in &self.payloads {
                let cells = payload.carriers.iter().map(|carrier| {
                    let Figure { samples, ratios } = of(carrier);
                    let ratio = ratios.as_ref();
                    let ratio =
                        ratio.map_or_else(String::new, |ratio| format!(" ({:.3})", ratio.median()));
                    format!("{:.2}{ratio}", samples.median())
                });
                table.add_row([payload.bytes.to_string()].into_iter().chain(cells));
            }
            println!("\n{table}");
        };
        print("round trip of bytes, us", |carrier| &carrier.round_trip_us);
        print("throughput of bytes, MB/s", |carrier| &carrier.mb_s);
        println!("in brackets: the median of the ratios of samples taken in the same turn");
    }
}
