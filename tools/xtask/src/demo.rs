//! `cargo xtask demo`: the main job, from a bare machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::job::{Extras, Job, Outcome, Progress};
use sivshm_tests::{attack, input, siege};

use crate::bench::domain::device_status;
use crate::build;
use crate::report::{Attack, Handshake, Opening, Report, Worker, number, whole};

/// Count a byte of a real file in worker VMs over slices that nobody else can touch.
///
/// Builds what is missing, starts a trust domain with a manager VM and worker VMs, stripes the file
/// over the workers' slices, sums their answers and compares with an independent pass over the file.
/// Without VMs the same programs run in host processes that stand in for them.
///
/// Started as root, each VM has users of its own; else this is development mode, where guests are
/// confined just the same but a compromised VMM of this user is not.
///
/// Exit code 0 only if the counts agree and every attack was blocked.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Number of workers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=255))]
    workers: u16,
    /// The file; by default a real one of tens of MB that this machine has.
    #[arg(long)]
    input: Option<PathBuf>,
    /// The byte to look for: one character, or 0x and two hexadecimal digits.
    #[arg(long, default_value = "e", value_parser = byte)]
    byte: u8,
    /// How programs wait for each other.
    #[arg(long, value_enum, default_value_t = Mode::Interrupt)]
    mode: Mode,
    /// Size of a worker's slice: a power of two, as the policy writes it.
    #[arg(long, default_value = "16MiB")]
    slice_size: String,
    /// Run the job on host processes that stand in for VMs.
    #[arg(long)]
    no_vm: bool,
    /// Write the report to this file as one JSON object.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keep consoles, logs and audit records in this folder.
    #[arg(long)]
    keep_logs: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// A doorbell interrupts the waiting guest.
    Interrupt,
    /// Programs look at memory until it changes.
    Polling,
}

/// Runs the task.
pub fn run(args: &Args) -> Result<()> {
    let path = match &args.input {
        Some(path) => path.clone(),
        None => input::default_input()?,
    };
    let (input_bytes, expected) = input::count(&path, args.byte)?;
    println!("input: {} ({input_bytes} bytes)", path.display());
    let job = Job {
        workers: args.workers,
        input: path.clone(),
        byte: args.byte,
        mode: args
            .mode
            .to_possible_value()
            .map_or_else(String::new, |mode| mode.get_name().to_owned()),
        slice_size: args.slice_size.clone(),
    };
    let artifacts = build::all(!args.no_vm)?;
    let bar = ProgressBar::new(input_bytes).with_style(ProgressStyle::with_template(
        "{elapsed:>4} {msg:<44} {wide_bar} {bytes:>10}/{total_bytes}",
    )?);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar.set_message("keys and device processes");
    let folder = tempfile::Builder::new().prefix("sivshm-demo-").tempdir()?;
    let mut deployment = Deployment::new(&artifacts, &(job.policy() + siege::NEIGHBOUR), None)?;
    let result = serve(args, &job, &mut deployment, folder.path(), &bar);
    bar.finish_and_clear();
    if let Some(keep) = &args.keep_logs {
        keep_logs(keep, &[folder.path().to_owned(), deployment.log_dir()])?;
    }
    let served = result?;
    let report = Report {
        input: path.display().to_string(),
        input_bytes,
        byte: args.byte,
        count: whole(&served.outcome.result, "count")?,
        expected,
        accel: if args.no_vm {
            "none".to_owned()
        } else {
            sivshm_tests::vm::accelerator()?.to_owned()
        },
        mode: job.mode.clone(),
        isolation: if nix::unistd::geteuid().is_root() {
            "root"
        } else {
            "development"
        }
        .to_owned(),
        workers: workers(&served.outcome)?,
        handshakes: handshakes(&served.status),
        openings: served.openings,
        attacks: served.attacks,
    };
    report.print();
    if report.isolation == "development" {
        println!(
            "development mode: one user for all VMs, so the attacks of a VMM and of a peer, which need users of their own, were not tried"
        );
    }
    if let Some(json) = &args.json {
        report.write(json)?;
    }
    if !report.good() {
        bail!("the demo failed: see above");
    }
    Ok(())
}

/// What was seen between the first key and the last process.
struct Served {
    outcome: Outcome,
    status: Value,
    openings: Vec<Opening>,
    attacks: Vec<Attack>,
}

/// Everything between the first key and the last process.
fn serve(
    args: &Args,
    job: &Job,
    deployment: &mut Deployment,
    folder: &Path,
    bar: &ProgressBar,
) -> Result<Served> {
    deployment.up()?;
    let mut openings: Vec<Opening> = Vec::new();
    let supervised = &*deployment;
    let mut report = |progress| match progress {
        Progress::Started(vm) => bar.set_message(format!("{vm}: started")),
        Progress::Loaded(vm, after) => {
            bar.set_message(format!(
                "{vm}: module loaded after {:.1} s",
                after.as_secs_f64()
            ));
        }
        Progress::Opened(channel, after) => {
            bar.set_message(format!("{channel}: open"));
            openings.push(Opening {
                channel,
                open_ms: after.as_secs_f64() * 1e3,
                handshake_ms: None,
            });
            time(supervised, &mut openings);
        }
        Progress::Counted(bytes) => {
            time(supervised, &mut openings);
            bar.set_message("counting");
            bar.set_position(bytes);
        }
    };
    let mut outcome = if args.no_vm {
        job.on_host(supervised, &mut report)?
    } else {
        let extras = Extras {
            folder,
            afterwards: siege::IN_GUEST,
        };
        job.in_vms(supervised, &extras, &mut report)?
    };
    let mut attacks = Vec::new();
    // The first worker's guest attacks, and its channels open only if somebody is at their other end.
    let partner = match outcome.running.is_empty() {
        true => None,
        false => Some(siege::partner(
            deployment,
            "manager",
            "mapper",
            &[("job-1", "worker-1/reducer")],
            &[("result-1", "worker-1/reducer")],
        )?),
    };
    for guest in &mut outcome.running {
        bar.set_message(format!("attacks from inside {}", guest.name()));
        guest.wait_event("exit", siege::SIEGE_LIMIT)?;
        guest.finish(siege::SIEGE_LIMIT)?;
        attacks.extend(
            attack::attacks(guest.lines())
                .iter()
                .map(|found| line("guest", found)),
        );
    }
    drop(partner);
    let status = deployment.status()?;
    bar.set_message("attacks of services");
    let found = siege::as_service(deployment)?;
    attacks.extend(found.iter().map(|found| line("service", found)));
    if nix::unistd::geteuid().is_root() {
        bar.set_message("attacks of a VMM");
        let [vmm, _manager] = siege::as_vmm(deployment, "worker-1", "manager")?;
        attacks.extend(
            attack::attacks(vmm.lines())
                .iter()
                .map(|found| line("VMM", found)),
        );
        bar.set_message("attacks of a peer");
        let stranger = (job.workers > 1).then_some("worker-2");
        let found = siege::as_peer(deployment, "worker-1", "manager", stranger)?;
        attacks.extend(found.iter().map(|found| line("peer", found)));
    }
    bar.set_message("ending");
    deployment.down()?;
    Ok(Served {
        outcome,
        status,
        openings,
        attacks,
    })
}

/// Asks the device processes how long the handshakes of channels took, while these are open. One that
/// does not know yet is asked again.
fn time(deployment: &Deployment, openings: &mut [Opening]) {
    let untimed = openings.iter_mut().filter(|one| one.handshake_ms.is_none());
    for opening in untimed {
        // The reader's knows it apart from the time for which one service waited for the other.
        let reader = match opening.channel.strip_prefix("job-") {
            Some(number) => format!("worker-{number}"),
            None => "manager".to_owned(),
        };
        let status = device_status(deployment, &reader).unwrap_or_default();
        let channels = status.get("channels").and_then(Value::as_array);
        let named = |of: &&Value| of.get("name").and_then(Value::as_str) == Some(&opening.channel);
        let channel = channels.and_then(|channels| channels.iter().find(named));
        let took = channel.and_then(|channel| channel.pointer("/pairings/0/handshake_us"));
        opening.handshake_ms = took.and_then(Value::as_f64).map(|us| us / 1e3);
    }
}

/// One line of the report.
fn line(party: &str, found: &attack::Attack) -> Attack {
    Attack {
        name: format!("{party}: {}", found.name),
        blocked: found.blocked(),
        detail: found.to_string(),
    }
}

/// The workers' parts, with the boot times of their guests.
fn workers(outcome: &Outcome) -> Result<Vec<Worker>> {
    let parts = outcome.result.get("workers").and_then(Value::as_array);
    let parts = parts.context("the mapper named no workers")?;
    let worker = |part: &Value| {
        let name = part
            .get("name")
            .and_then(Value::as_str)
            .context("a worker without a name")?;
        let boot = outcome.boot.iter().find(|(vm, _)| vm == name);
        Ok(Worker {
            name: name.to_owned(),
            bytes: whole(part, "bytes")?,
            count: whole(part, "count")?,
            boot_ms: boot.map_or(0.0, |(_, after)| after.as_secs_f64() * 1e3),
            transfer_ms: number(part, "transfer_ms"),
            response_ms: number(part, "response_ms"),
        })
    };
    parts.iter().map(worker).collect()
}

/// Each pair of device processes once, as the side that dialled saw it.
fn handshakes(status: &Value) -> Vec<Handshake> {
    let text = |value: &Value, field: &str| {
        value
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let list = |value: &Value, field: &str| {
        value
            .get(field)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let mut handshakes = Vec::new();
    for vm in list(status, "vms") {
        let device = vm.get("device").cloned().unwrap_or_default();
        for peer in list(&device, "peers") {
            let dials = peer
                .get("dials")
                .and_then(Value::as_bool)
                .unwrap_or_default();
            if let (true, Some(us)) = (dials, peer.pointer("/link/handshake_us")) {
                handshakes.push(Handshake {
                    a: text(&vm, "name"),
                    b: text(&peer, "vm"),
                    ms: us.as_f64().unwrap_or_default() / 1e3,
                });
            }
        }
    }
    handshakes
}

fn keep_logs(keep: &Path, folders: &[PathBuf]) -> Result<()> {
    std::fs::create_dir_all(keep)?;
    for folder in folders {
        for entry in std::fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|kind| kind == "log" || kind == "jsonl")
            {
                std::fs::copy(&path, keep.join(entry.file_name()))?;
            }
        }
    }
    println!("logs are in {}", keep.display());
    Ok(())
}

/// One printable character, or `0x` and two hexadecimal digits.
fn byte(text: &str) -> Result<u8, String> {
    let parsed = match (text.strip_prefix("0x"), text.as_bytes()) {
        (Some(digits), _) if digits.len() == 2 => u8::from_str_radix(digits, 16).ok(),
        (None, [byte]) => Some(*byte),
        _ => None,
    };
    parsed.ok_or_else(|| {
        format!("`{text}` is neither one ASCII character nor 0x and two hexadecimal digits")
    })
}
