//! Rings with and without integrity, beside raw memory: two threads of one process.

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use super::super::programs::{Programs, numbers};
use super::super::sample::Samples;
use crate::report::{fresh, whole};

/// What is between two threads, and what the tables call it; the first is what others are compared with.
const CARRIERS: [(&str, &str); 4] = [
    ("raw", "raw memory"),
    ("none", "ring"),
    ("crc32c", "ring, crc32c"),
    ("aead", "ring, aead"),
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
    carriers: Vec<Carrier>,
}

/// One way for them to go.
#[derive(Debug, Serialize)]
struct Carrier {
    name: &'static str,
    round_trip_us: Samples,
    mb_s: Samples,
}

/// Measures; the program takes turns by itself.
pub fn measure(programs: &Programs, rounds: u32) -> Result<Report> {
    let rounds = (rounds * 5).to_string();
    let event = programs.run(&["ring", "--rounds", &rounds])?;
    let figures = event.get("figures").and_then(Value::as_array);
    let figures = figures.context("an event without figures")?;
    let mut payloads: Vec<Payload> = Vec::new();
    for figure in figures {
        let bytes = whole(figure, "payload")?;
        let named = figure.get("integrity").and_then(Value::as_str);
        let carrier = CARRIERS.iter().find(|(name, _)| Some(*name) == named);
        let (_, name) = carrier.context("a figure of nothing known")?;
        let carrier = Carrier {
            name,
            round_trip_us: numbers(figure, "round_trip_ns")?
                .into_iter()
                .map(|ns| ns / 1e3)
                .collect(),
            mb_s: numbers(figure, "mb_per_s")?.into_iter().collect(),
        };
        match payloads.last_mut() {
            Some(payload) if payload.bytes == bytes => payload.carriers.push(carrier),
            _ => payloads.push(Payload {
                bytes,
                carriers: vec![carrier],
            }),
        }
    }
    Ok(Report { payloads })
}

impl Report {
    /// Prints round trips and throughput, each with its ratio to raw memory.
    pub fn print(&self) {
        let print = |title: &str, of: fn(&Carrier) -> &Samples| {
            let names = CARRIERS.iter().map(|(_, name)| *name);
            let mut table = fresh([title].into_iter().chain(names));
            for payload in &self.payloads {
                let raw = payload.carriers.first();
                let cells = payload.carriers.iter().map(|carrier| {
                    let samples = of(carrier);
                    let ratio = raw.map_or(1.0, |raw| samples.ratio(of(raw)));
                    format!("{:.2} ({ratio:.2})", samples.median())
                });
                table.add_row([payload.bytes.to_string()].into_iter().chain(cells));
            }
            println!("\n{table}");
        };
        print("round trip of bytes, us", |carrier| &carrier.round_trip_us);
        print("throughput of bytes, MB/s", |carrier| &carrier.mb_s);
        println!("in brackets: the ratio to raw memory");
    }
}
