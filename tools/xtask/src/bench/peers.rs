//! Peer handshakes of one VM with many, beside bare mutual TLS 1.3; and device processes' memory.
//!
//! The manager's device process is killed; the supervisor starts it again, and it dials every
//! worker at the same time. Audit records of both sides say when each link was established, the
//! manager's status how long before that it was dialled.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use serde_json::Value;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::job::Job;

use super::domain::{await_links, device_pids, device_status, records};
use super::procfs::{cpu, resident_kib};
use super::programs::{Programs, numbers};
use super::sample::Samples;
use crate::report::fresh;

/// The VM whose device process dials all others: of the job's names, its is the first.
const MANAGER: &str = "manager";

/// Bare handshakes for each round.
const BARE_ROUNDS: &str = "200";

/// Handshakes beside bare ones.
#[derive(Debug, Serialize)]
pub struct Report {
    /// One bare handshake, in milliseconds.
    bare_wall_ms: Samples,
    /// CPU time of both ends of a bare handshake, in milliseconds.
    bare_cpu_ms: Samples,
    sweep: Vec<Point>,
}

/// A manager with a number of peers.
#[derive(Debug, Serialize)]
struct Point {
    peers: u16,
    /// From `sivshm up` to every link established: all device processes start at once.
    up_ms: f64,
    /// From the manager's first connection to the last link established at both ends.
    wall_ms: Samples,
    /// One handshake, as the manager sees it; they run at the same time.
    each_ms: Samples,
    /// CPU time of the manager's device process: its start, its slices and all its handshakes.
    manager_cpu_ms: Samples,
    /// CPU time of a worker's device process: the loss of the old link and the new handshake.
    worker_cpu_ms: Samples,
    /// The manager's device process.
    manager_memory: Memory,
    /// A worker's device process: it has one peer.
    worker_memory: Memory,
}

/// Memory of a process, in KiB.
#[derive(Debug, Serialize)]
struct Memory {
    resident: u64,
    /// The part that no file is behind.
    anonymous: u64,
}

/// One restart of the manager's device process.
struct Restart {
    wall_ms: f64,
    each_ms: Vec<f64>,
    manager_cpu: Duration,
    worker_cpu: Duration,
}

/// Measures managers with each number of peers.
pub fn measure(programs: &Programs, peers: &[u16], rounds: u32) -> Result<Report> {
    let (mut bare_wall, mut bare_cpu) = (Vec::new(), Vec::new());
    let mut sweep = Vec::new();
    for count in peers {
        let start = Instant::now();
        let mut deployment = Deployment::new(&programs.artifacts, &policy(*count), None)?;
        eprintln!("{count} peers: keys issued after {:?}", start.elapsed());
        let start = Instant::now();
        deployment.up()?;
        await_links(&deployment, MANAGER, 0, usize::from(*count))?;
        let up_ms = milliseconds(start.elapsed());
        let mut restarts = Vec::new();
        for _ in 0..rounds {
            let bare = programs.run(&["tls", "--rounds", BARE_ROUNDS])?;
            bare_wall.extend(numbers(&bare, "wall_us")?);
            bare_cpu.extend(bare.get("cpu_us").and_then(Value::as_f64));
            restarts.push(restart(&deployment, *count)?);
        }
        let samples = |of: fn(&Restart) -> f64| restarts.iter().map(of).collect::<Samples>();
        sweep.push(Point {
            peers: *count,
            up_ms,
            wall_ms: samples(|restart| restart.wall_ms),
            each_ms: restarts.iter().flat_map(|r| r.each_ms.clone()).collect(),
            manager_cpu_ms: samples(|restart| milliseconds(restart.manager_cpu)),
            worker_cpu_ms: samples(|restart| milliseconds(restart.worker_cpu)),
            manager_memory: memory(&deployment, MANAGER)?,
            worker_memory: memory(&deployment, "worker-1")?,
        });
        deployment.down()?;
    }
    let thousandth = |samples: Vec<f64>| samples.into_iter().map(|us| us / 1e3).collect();
    Ok(Report {
        bare_wall_ms: thousandth(bare_wall),
        bare_cpu_ms: thousandth(bare_cpu),
        sweep,
    })
}

/// The job's policy: as many workers as peers. The slices are small: their size costs nothing here.
fn policy(peers: u16) -> String {
    let job = Job {
        workers: peers,
        input: PathBuf::new(),
        byte: 0,
        mode: String::new(),
        slice_size: "64KiB".to_owned(),
    };
    job.policy()
}

/// Kills the manager's device process and waits until it has all its peers again.
fn restart(deployment: &Deployment, peers: u16) -> Result<Restart> {
    let vms = deployment.vms().iter();
    let workers: Vec<&String> = vms.filter(|vm| *vm != MANAGER).collect();
    let pids = device_pids(deployment)?;
    let pid_of = |vm: &str| pids.get(vm).copied().context("a VM without device process");
    let spent = || -> Result<Duration> { workers.iter().map(|vm| cpu(pid_of(vm)?)).sum() };
    let skip_manager = records(deployment, MANAGER)?;
    let skip: Vec<usize> = workers
        .iter()
        .map(|vm| records(deployment, vm))
        .collect::<Result<_>>()?;
    let before = spent()?;
    let old = pid_of(MANAGER)?;
    kill(Pid::from_raw(i32::try_from(old)?), Signal::SIGKILL)?;

    let links = await_links(deployment, MANAGER, skip_manager, workers.len())?;
    let mut last = links.values().copied().max();
    for (vm, skip) in workers.iter().zip(skip) {
        last = last.max(await_links(deployment, vm, skip, 1)?.into_values().max());
    }
    let workers_spent = spent()? - before;
    let manager_cpu = cpu(restarted(deployment, old)?)?;

    let status = device_status(deployment, MANAGER)?;
    let mut first = None;
    let mut each_ms = Vec::new();
    for peer in status
        .get("peers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let vm = peer.get("vm").and_then(Value::as_str).unwrap_or_default();
        let took = peer.pointer("/link/handshake_us").and_then(Value::as_u64);
        let took = Duration::from_micros(took.with_context(|| format!("no link with {vm}"))?);
        each_ms.push(milliseconds(took));
        let dialled = *links.get(vm).context("a link without its record")? - took;
        first = Some(first.map_or(dialled, |first| dialled.min(first)));
    }
    ensure!(
        each_ms.len() == usize::from(peers),
        "not every peer is linked"
    );
    let wall = last.context("no link")? - first.context("no link")?;
    Ok(Restart {
        wall_ms: wall.as_seconds_f64() * 1e3,
        each_ms,
        manager_cpu,
        worker_cpu: workers_spent / u32::from(peers),
    })
}

/// The manager's new device process.
fn restarted(deployment: &Deployment, old: u64) -> Result<u64> {
    let new = device_pids(deployment)?.remove(MANAGER);
    new.filter(|pid| *pid != old)
        .context("the supervisor names no new device process")
}

fn memory(deployment: &Deployment, vm: &str) -> Result<Memory> {
    let pids = device_pids(deployment)?;
    let (resident, anonymous) = resident_kib(*pids.get(vm).context("no such VM")?)?;
    Ok(Memory {
        resident,
        anonymous,
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Report {
    /// Prints tables and ratios.
    pub fn print(&self) {
        let mut table = fresh([
            "peers",
            "all links, ms",
            "a link, ms",
            "bare TLS x",
            "manager's CPU, ms",
            "a worker's CPU, ms",
            "from `up`, ms",
        ]);
        for point in &self.sweep {
            let links = f64::from(point.peers);
            table.add_row([
                point.peers.to_string(),
                point.wall_ms.to_string(),
                format!("{:.2}", point.wall_ms.median() / links),
                format!("{:.2}", point.wall_ms.ratio(&self.bare_wall_ms) / links),
                point.manager_cpu_ms.to_string(),
                point.worker_cpu_ms.to_string(),
                format!("{:.0}", point.up_ms),
            ]);
        }
        println!("\npeer handshakes of one VM, all at the same time\n{table}");
        println!(
            "bare mutual TLS 1.3 over a Unix socket: {} ms wall, {} ms CPU of both ends",
            self.bare_wall_ms, self.bare_cpu_ms
        );
        if let (Some(least), Some(most)) = (self.sweep.first(), self.sweep.last())
            && least.peers < most.peers
        {
            let links = f64::from(most.peers - least.peers);
            let cpu = most.manager_cpu_ms.median() - least.manager_cpu_ms.median();
            println!(
                "each further peer costs the manager's device process {:.2} ms CPU, its slice included",
                cpu / links
            );
        }
        let mut table = fresh(["device process with", "resident, KiB", "anonymous, KiB"]);
        for Point {
            peers,
            manager_memory:
                Memory {
                    resident,
                    anonymous,
                },
            ..
        } in &self.sweep
        {
            table.add_row([
                format!("{peers} peers"),
                resident.to_string(),
                anonymous.to_string(),
            ]);
        }
        println!("\n{table}");
    }
}
