//! In VMs: the job through windows and the same job over TCP, in turns between the same VMs, and
//! messages between two of them.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::guest::Image;
use sivshm_tests::job::{BOOT_LIMIT, JOB_LIMIT, Job, SERVICE_USER};
use sivshm_tests::process::{Line, Process};
use sivshm_tests::vm::Guest;

use super::doorbell::{self, Latency, PACES, Pace};
use super::job::{BYTE, SLICE, STRIPE_BYTES, throughput};
use super::network::Bridge;
use super::programs::Programs;
use super::sample::Samples;
use crate::report::{fresh, whole};

/// Number of workers.
const WORKERS: u16 = 3;

/// Port at which a worker's reducer listens.
const PORT: u16 = 7000;

/// Ends the network before doorbells are measured, and before the guest powers off: a virtio-net
/// that still receives then keeps Debian 12's kernel from ending.
const NO_NETWORK: &str = "ip link set eth0 down\n";

/// What was measured in VMs.
#[derive(Debug, Serialize)]
pub struct Report {
    bytes: u64,
    /// The job through windows, in MB/s.
    windows_mb_s: Samples,
    /// The job over TCP, in MB/s; none without root, who makes the network.
    tcp_mb_s: Samples,
    latencies: Vec<Latency>,
}

/// The scripts of the guests.
struct Scripts {
    rounds: u32,
    tcp: bool,
    input_bytes: u64,
}

/// Boots a manager and its workers once and measures everything in them.
pub fn measure(programs: &Programs, input: &Path, rounds: u32) -> Result<Report> {
    let folder = tempfile::Builder::new().prefix("sivshm-bench-").tempdir()?;
    let job = Job {
        workers: WORKERS,
        input: input.to_owned(),
        byte: BYTE,
        mode: "interrupt".to_owned(),
        slice_size: SLICE.to_owned(),
    };
    let root = nix::unistd::geteuid().is_root();
    let bridge = root
        .then(|| Bridge::new(usize::from(WORKERS) + 1))
        .transpose()?;
    if bridge.is_none() {
        println!("not root: no network between VMs, so no job over TCP");
    }
    let scripts = Scripts {
        rounds,
        tcp: bridge.is_some(),
        input_bytes: std::fs::metadata(input)?.len(),
    };
    let mut deployment = Deployment::new(&programs.artifacts, &job.policy(), None)?;
    deployment.up()?;
    let boot = |number: u16, name: &str, service: &str, script: &str| -> Result<Process> {
        let image = folder.path().join(format!("{name}.cpio"));
        build_image(&deployment, name, service, script, &image)?;
        let mut guest = Guest::new(name, image);
        guest.disk = (number == 0).then(|| input.to_owned());
        if let Some(bridge) = &bridge {
            guest.qemu_args = bridge.arguments(number.into());
        }
        Ok(guest.boot(&deployment)?.process)
    };
    let mut workers = Vec::new();
    for (number, name) in (1..).zip(job.worker_names()) {
        workers.push(boot(number, &name, "reducer", &scripts.worker(number))?);
    }
    let mut manager = boot(0, "manager", "mapper", &scripts.manager())?;
    manager.wait_event("loaded", BOOT_LIMIT)?;
    let limit = JOB_LIMIT * (rounds + 1);
    let (_, exit) = manager.wait_event("exit", limit)?;
    if whole(&exit, "code")? != 0 {
        let mut said = manager.tail();
        for worker in &mut workers {
            // What they wait for does not come any more.
            let _ = worker.wait_event("exit", BOOT_LIMIT);
            said += &format!("{}:\n{}", worker.name(), worker.tail());
        }
        bail!("a guest failed\n{said}");
    }
    for process in std::iter::once(&mut manager).chain(&mut workers) {
        process.finish(JOB_LIMIT)?;
    }
    deployment.down()?;
    Report::new(manager.lines())
}

/// The image of a guest with one service, whose program has its name; `bench` stands in for it.
fn build_image(
    deployment: &Deployment,
    name: &str,
    service: &str,
    script: &str,
    to: &Path,
) -> Result<()> {
    let vm = deployment.artifacts().vm()?;
    let programs = &deployment.artifacts().guest;
    Image::new(vm)?
        .program(&programs.join(service))?
        .program(&programs.join("bench"))?
        .identity(&deployment.identity(name, service), SERVICE_USER)?
        .file(&vm.sivshm_ko, "/lib/sivshm.ko")?
        .kernel_module("virtio_pci")?
        .kernel_module("virtio_blk")?
        .kernel_module("virtio_net")?
        .build(script, to)
}

impl Scripts {
    fn manager(&self) -> String {
        let input = format!(
            "--input /dev/vda --input-bytes {} --byte 0x{BYTE:02x}",
            self.input_bytes
        );
        let tcp: String = (1..=WORKERS)
            .map(|number| format!(" --worker {}:{PORT}", address(number)))
            .collect();
        let tcp = self.only_tcp(format!(
            "as_user {SERVICE_USER} /bin/bench tcp-mapper {input} --stripe {STRIPE_BYTES}{tcp} || finish 92\n"
        ));
        let pings: String = PACES.iter().map(|pace| bench(&pace.ping())).collect();
        // The file is in the guest's memory before anything is measured.
        format!(
            "{}chmod 0444 /dev/vda\ncat /dev/vda > /dev/null\nfor round in $(seq {}); do\n\
             as_user {SERVICE_USER} /bin/mapper {input} --workers {WORKERS} || finish 91\n{tcp}done\n{}{pings}finish 0\n",
            self.start(0),
            self.rounds,
            self.only_tcp(NO_NETWORK.to_owned())
        )
    }

    fn worker(&self, number: u16) -> String {
        let tcp = self.only_tcp(format!(
            "as_user {SERVICE_USER} /bin/bench tcp-reducer --listen {}:{PORT} || finish 92\n",
            address(number)
        ));
        let answers = PACES.iter().filter(|_| number == 1);
        let pongs: String = answers.map(|pace| bench(&pace.pong())).collect();
        format!(
            "{}for round in $(seq {}); do\n\
             as_user {SERVICE_USER} /bin/reducer --index {number} || finish 91\n{tcp}done\n{}{pongs}finish 0\n",
            self.start(number),
            self.rounds,
            self.only_tcp(NO_NETWORK.to_owned())
        )
    }

    fn start(&self, number: u16) -> String {
        let network = self.only_tcp(format!(
            "ip addr add {}/24 dev eth0 && ip link set eth0 up || finish 94\n",
            address(number)
        ));
        format!("insmod /lib/sivshm.ko && event loaded || finish 90\n{network}")
    }

    fn only_tcp(&self, line: String) -> String {
        if self.tcp { line } else { String::new() }
    }
}

/// A line that runs one end of the doorbells.
fn bench(arguments: &[String]) -> String {
    let arguments = arguments.join(" ");
    format!("as_user {SERVICE_USER} /bin/bench {arguments} || finish 93\n")
}

/// The manager's address, or that of the worker of this number.
fn address(number: u16) -> String {
    format!("10.77.0.{}", number + 1)
}

impl Report {
    /// Takes what the manager's guest printed.
    fn new(lines: &[Line]) -> Result<Self> {
        let events: Vec<Value> = lines.iter().filter_map(Line::event).collect();
        let named = |name: &str| {
            let matches =
                move |event: &&Value| event.get("event").and_then(Value::as_str) == Some(name);
            events.iter().filter(matches).cloned().collect::<Vec<_>>()
        };
        let results = named("result");
        let counts = results.iter().map(|result| whole(result, "count"));
        let counts: Vec<u64> = counts.collect::<Result<_>>()?;
        ensure!(
            counts.iter().all(|count| Some(count) == counts.first()),
            "windows and TCP counted differently"
        );
        // Only the mapper says what each worker did.
        let (windows, tcp): (Vec<_>, Vec<_>) = results
            .iter()
            .partition(|result| result.get("workers").is_some());
        let samples = |results: Vec<&Value>| -> Result<Samples> {
            results.into_iter().map(throughput).collect()
        };
        let latency = |(pace, ping): (&Pace, Value)| Latency::new(pace, &[ping]);
        Ok(Self {
            bytes: whole(results.first().context("no result")?, "bytes")?,
            windows_mb_s: samples(windows).context("the job through windows")?,
            tcp_mb_s: samples(tcp).context("the job over TCP")?,
            latencies: PACES
                .iter()
                .zip(named("ping"))
                .map(latency)
                .collect::<Result<_>>()?,
        })
    }

    /// Prints throughputs, their ratio and latencies.
    pub fn print(&self) {
        let mut table = fresh([&format!("the job in VMs, {WORKERS} workers"), "MB/s"]);
        table.add_row(["windows", &self.windows_mb_s.to_string()]);
        if !self.tcp_mb_s.is_empty() {
            table.add_row(["TCP over virtio-net", &self.tcp_mb_s.to_string()]);
        }
        println!("\n{table}");
        if !self.tcp_mb_s.is_empty() {
            let ratio = self.windows_mb_s.ratio(&self.tcp_mb_s);
            println!("windows carry {ratio:.1} times as much as TCP");
        }
        doorbell::print("message between VMs, one way", &self.latencies);
    }
}
