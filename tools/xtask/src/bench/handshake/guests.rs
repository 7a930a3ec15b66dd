//! Openings between two VMs, beside bare TLS within one of them.

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::Value;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::guest::Image;
use sivshm_tests::job::{BOOT_LIMIT, JOB_LIMIT, SERVICE_USER};
use sivshm_tests::process::{Line, Process};
use sivshm_tests::vm::Guest;

use super::super::programs::Programs;
use super::super::sample::Samples;
use super::{Bare, cpu_ms, from_mapper, milliseconds, policy, to_worker};
use crate::report::{fresh, whole};

/// Openings of a round.
const OPENINGS: u32 = 20;

/// Time before each, in milliseconds: an emulated reader waits again by then.
const PAUSE_MS: u32 = 500;

/// Openings between VMs.
#[derive(Debug, Serialize)]
pub struct Report {
    bare: Bare,
    openings: Vec<Opening>,
}

/// One way to open a channel.
#[derive(Debug, Serialize)]
struct Opening {
    name: &'static str,
    /// Until the writer has its end.
    open_ms: Samples,
    /// Until the writer knows that its first message was received.
    message_ms: Samples,
    /// The guest's CPU time of the writer, and of the reader, with the end of the channel.
    cpu_ms: [Samples; 2],
}

/// Ways to open a channel: name, and the argument of `bench`.
const WAYS: [(&str, &str); 2] = [
    ("in an open session", ""),
    ("with its session", "--new-sessions"),
];

/// Boots a manager and a worker once and measures everything in them.
pub fn measure(programs: &Programs, rounds: u32) -> Result<Report> {
    let folder = tempfile::Builder::new().prefix("sivshm-bench-").tempdir()?;
    let mut deployment = Deployment::new(&programs.artifacts, &policy(1), None)?;
    deployment.up()?;
    let boot = |name: &str, service: &str, script: &str| -> Result<Process> {
        let image = folder.path().join(format!("{name}.cpio"));
        let vm = deployment.artifacts().vm()?;
        Image::new(vm)?
            .program(&deployment.artifacts().guest.join("bench"))?
            .identity(&deployment.identity(name, service), SERVICE_USER)?
            .file(&vm.sivshm_ko, "/lib/sivshm.ko")?
            .build(script, &image)?;
        Ok(Guest::new(name, image).boot(&deployment)?.process)
    };
    let pause = format!("--pause-ms {PAUSE_MS}");
    let reads = format!("open-reader --identity reducer {pause} {}", from_mapper(1));
    let writes = format!("open-writer --identity mapper {pause} {}", to_worker(1));
    let mut worker = boot("worker-1", "reducer", &script(rounds, "", &reads))?;
    let bare = bench(&format!("tls --rounds {OPENINGS}"));
    let mut manager = boot("manager", "mapper", &script(rounds, &bare, &writes))?;
    manager.wait_event("measuring", 2 * BOOT_LIMIT)?;
    let limit = JOB_LIMIT * (rounds + 1);
    let (_, exit) = manager.wait_event("exit", limit)?;
    if whole(&exit, "code")? != 0 {
        // What it waits for does not come any more.
        let _ = worker.wait_event("exit", JOB_LIMIT);
        bail!(
            "a guest failed\n{}worker-1:\n{}",
            manager.tail(),
            worker.tail()
        );
    }
    for process in [&mut manager, &mut worker] {
        process.finish(JOB_LIMIT)?;
    }
    deployment.down()?;
    Report::new(manager.lines(), worker.lines())
}

/// What a guest does: one end of every opening, and something else after the first ones of a round,
/// when both guests have booted.
fn script(rounds: u32, between: &str, open: &str) -> String {
    let ways = WAYS.map(|(_, way)| bench(&format!("{open} --rounds {OPENINGS} {way}")));
    format!(
        "insmod /lib/sivshm.ko && event loaded || finish 90\nfor round in $(seq {rounds}); do\n{}done\nfinish 0\n",
        ways.join(between)
    )
}

fn bench(arguments: &str) -> String {
    format!("as_user {SERVICE_USER} /bin/bench {arguments} || finish 91\n")
}

impl Report {
    /// Takes what the guests printed: in each round every way in its turn.
    fn new(manager: &[Line], worker: &[Line]) -> Result<Self> {
        let (wrote, read) = (named(manager, "writer"), named(worker, "reader"));
        let openings = WAYS.iter().enumerate().map(|(number, (name, _))| {
            let of_way = |events: &[Value]| -> Vec<Value> {
                events
                    .iter()
                    .skip(number)
                    .step_by(WAYS.len())
                    .cloned()
                    .collect()
            };
            let (wrote, read) = (of_way(&wrote), of_way(&read));
            let times = |field| -> Result<Samples> {
                let mut times = Vec::new();
                for event in &wrote {
                    times.extend(milliseconds(event, field)?);
                }
                Ok(times.into_iter().collect())
            };
            let cpu = |events: &[Value]| events.iter().map(cpu_ms).collect::<Result<Samples>>();
            Ok(Opening {
                name,
                open_ms: times("open_us")?,
                message_ms: times("message_us")?,
                cpu_ms: [cpu(&wrote)?, cpu(&read)?],
            })
        });
        Ok(Self {
            bare: Bare::new(&named(manager, "tls")).context("bare TLS in a guest")?,
            openings: openings.collect::<Result<_>>()?,
        })
    }

    /// Prints times and ratios.
    pub fn print(&self) {
        let mut table = fresh([
            "a channel is opened, VMs",
            "open p50, ms",
            "message p50, ms",
            "p99",
            "bare TLS x",
            "writer's CPU, ms",
            "reader's CPU, ms",
        ]);
        for opening in &self.openings {
            let ratio = opening.message_ms.ratio(&self.bare.wall_ms);
            let [writer, reader] = &opening.cpu_ms;
            table.add_row([
                opening.name.to_owned(),
                format!("{:.1}", opening.open_ms.median()),
                format!("{:.1}", opening.message_ms.median()),
                format!("{:.1}", opening.message_ms.p99()),
                format!("{ratio:.2}"),
                format!("{:.1}", writer.median()),
                format!("{:.1}", reader.median()),
            ]);
        }
        println!("\n{table}");
        self.bare.print();
    }
}

/// The events of a name.
fn named(lines: &[Line], name: &str) -> Vec<Value> {
    let events = lines.iter().filter_map(Line::event);
    let is = |event: &Value| event.get("event").and_then(Value::as_str) == Some(name);
    events.filter(is).collect()
}
