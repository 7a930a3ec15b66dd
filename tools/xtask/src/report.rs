//! What a run of the job showed, for people and for scripts.

use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::Value;

/// Everything that `cargo xtask demo` found out. `--json` writes exactly this.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The file that was counted.
    pub input: String,
    /// Its size.
    pub input_bytes: u64,
    /// The byte that was looked for.
    pub byte: u8,
    /// What the workers counted.
    pub count: u64,
    /// What an independent pass over the file on the host counted.
    pub expected: u64,
    /// `kvm`, `tcg`, or `none` without VMs.
    pub accel: String,
    /// `interrupt` or `polling`.
    pub mode: String,
    /// `root` (a user for each VM) or `development`.
    pub isolation: String,
    /// Each worker's part.
    pub workers: Vec<Worker>,
    /// Each pair of device processes.
    pub handshakes: Vec<Handshake>,
    /// Each channel.
    pub openings: Vec<Opening>,
    /// What each attack got.
    pub attacks: Vec<Attack>,
}

/// One worker's part of the job.
#[derive(Debug, Serialize)]
pub struct Worker {
    /// Its VM.
    pub name: String,
    /// Bytes it was given.
    pub bytes: u64,
    /// Bytes it found.
    pub count: u64,
    /// From the start of its VMM to the module being loaded; 0 without VMs.
    pub boot_ms: f64,
    /// Time the manager needed to put its bytes into the slice.
    pub transfer_ms: f64,
    /// Time from the signal to the answer.
    pub response_ms: f64,
}

/// One peer handshake.
#[derive(Debug, Serialize)]
pub struct Handshake {
    /// The VM that dialled.
    pub a: String,
    /// The other.
    pub b: String,
    /// From the start of the connection to both manifests complete.
    pub ms: f64,
}

/// One channel, and the service handshake that opened it.
#[derive(Debug, Serialize)]
pub struct Opening {
    /// Its name.
    pub channel: String,
    /// From the mapper's wish to its open end; the time until the worker wishes the same included.
    pub open_ms: f64,
    /// The handshake alone, from the reader's device process handing the `open` on to both ends having
    /// their grants; absent if the channel had ended again before that was asked.
    pub handshake_ms: Option<f64>,
}

/// One attack and what it got.
#[derive(Debug, Serialize)]
pub struct Attack {
    /// Its name.
    pub name: String,
    /// Whether it was refused as it has to be.
    pub blocked: bool,
    /// What it got.
    pub detail: String,
}

impl Report {
    /// Whether the counts agree and every attack was blocked.
    pub fn good(&self) -> bool {
        self.count == self.expected && self.attacks.iter().all(|attack| attack.blocked)
    }

    /// Writes it as one JSON object.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("can't write {}", path.display()))
    }

    /// Prints it for a person.
    pub fn print(&self) {
        let mut table = fresh([
            "worker",
            "boot ms",
            "bytes",
            "transfer ms",
            "response ms",
            "count",
        ]);
        for worker in &self.workers {
            table.add_row([
                worker.name.clone(),
                format!("{:.0}", worker.boot_ms),
                worker.bytes.to_string(),
                format!("{:.1}", worker.transfer_ms),
                format!("{:.1}", worker.response_ms),
                worker.count.to_string(),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("\n{table}");
        if !self.handshakes.is_empty() {
            let mut table = fresh(["peer handshake", "with", "ms"]);
            for Handshake { a, b, ms } in &self.handshakes {
                table.add_row([a.clone(), b.clone(), format!("{ms:.1}")]);
            }
            println!("\n{table}");
        }
        if !self.openings.is_empty() {
            println!("\n{}", openings(&self.openings));
        }
        if !self.attacks.is_empty() {
            let mut table = fresh(["attack", "", "what it got"]);
            for Attack {
                name,
                blocked,
                detail,
            } in &self.attacks
            {
                let verdict = if *blocked { "blocked" } else { "NOT BLOCKED" };
                table.add_row([name.as_str(), verdict, detail.as_str()]);
            }
            println!("\n{table}");
        }
        let agree = if self.count == self.expected {
            "they agree"
        } else {
            "THEY DIFFER"
        };
        println!(
            "\nbyte 0x{:02x} occurs {} times in {} ({} bytes); an independent pass over the file found {}: {agree}",
            self.byte, self.count, self.input, self.input_bytes, self.expected
        );
    }
}

/// Every channel, and the middle and the longest of all.
fn openings(openings: &[Opening]) -> Table {
    let mut table = fresh(["service handshake", "open after ms", "handshake ms"]);
    let shown = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
    for opening in openings {
        table.add_row([
            opening.channel.clone(),
            shown(Some(opening.open_ms)),
            shown(opening.handshake_ms),
        ]);
    }
    let sorted = |of: fn(&Opening) -> Option<f64>| {
        let mut all: Vec<_> = openings.iter().filter_map(of).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let open = sorted(|opening| Some(opening.open_ms));
    let handshake = sorted(|opening| opening.handshake_ms);
    let middle = |all: &[f64]| shown(all.get(all.len() / 2).copied());
    let longest = |all: &[f64]| shown(all.last().copied());
    table.add_row(["median".to_owned(), middle(&open), middle(&handshake)]);
    table.add_row(["longest".to_owned(), longest(&open), longest(&handshake)]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// An empty table with a header.
pub fn fresh<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(header);
    table
}

/// A number of an event, or 0 where the program did not say.
pub fn number(event: &Value, field: &str) -> f64 {
    event.get(field).and_then(Value::as_f64).unwrap_or_default()
}

/// A whole number of an event.
///
/// # Errors
/// If the field is missing or no whole number.
pub fn whole(event: &Value, field: &str) -> Result<u64> {
    event
        .get(field)
        .and_then(Value::as_u64)
        .with_context(|| format!("an event without a number `{field}`: {event}"))
}
