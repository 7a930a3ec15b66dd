//! The main job: a manager counts a byte in a file with the help of workers.
//!
//! The same mapper and reducer run in guests and in host processes that stand in for VMs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::deployment::Deployment;
use crate::guest::Image;
use crate::process::Process;
use crate::vm::Guest;

/// The user that services run as in a guest; the policy asks for it.
pub const SERVICE_USER: u32 = 1000;

/// Longest time for a guest to boot and load the module, under TCG on a loaded machine of two cores.
pub const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// Longest time for the job itself.
pub const JOB_LIMIT: Duration = Duration::from_secs(120);

/// What is counted, by how many, and how they wait.
#[derive(Clone, Debug)]
pub struct Job {
    /// Number of workers.
    pub workers: u16,
    /// The file.
    pub input: PathBuf,
    /// The byte that is counted.
    pub byte: u8,
    /// `interrupt` or `polling`.
    pub mode: String,
    /// Size of a worker's slice, in the policy's notation.
    pub slice_size: String,
}

/// Something that happened and that a person may want to see.
#[derive(Clone, Debug)]
pub enum Progress {
    /// A VM or a program standing in for one has been started.
    Started(String),
    /// A guest has loaded the module, this long after its VMM was started.
    Loaded(String, Duration),
    /// The mapper has opened a channel, this long after it began to.
    Opened(String, Duration),
    /// The mapper has counted this many bytes so far.
    Counted(u64),
}

/// What came of a job.
#[derive(Debug)]
pub struct Outcome {
    /// The mapper's last event.
    pub result: Value,
    /// Time from VMM start to module loaded, by VM; empty without VMs.
    pub boot: Vec<(String, Duration)>,
    /// Everything that runs, in the policy's order, for what the caller does next.
    pub running: Vec<Process>,
}

impl Job {
    /// The policy of this job.
    #[must_use]
    pub fn policy(&self) -> String {
        let Self {
            workers,
            slice_size,
            ..
        } = self;
        format!(
            r#"version = 1
trust_domain = "job.example"
serial = 1

[[vm]]
name = "manager"
[[vm]]
name = "worker-{{1..{workers}}}"

[[service]]
vm = "manager"
name = "mapper"
process = {{ uid = {SERVICE_USER} }}
[[service]]
vm = "worker-{{n}}"
name = "reducer"
process = {{ uid = {SERVICE_USER} }}

[[channel]]
name = "job-{{n}}"
from = "manager/mapper"
to = ["worker-{{n}}/reducer"]
kind = "region"
size = "{slice_size}"
[[channel]]
name = "result-{{n}}"
from = "worker-{{n}}/reducer"
to = ["manager/mapper"]
kind = "region"
size = "64KiB"

[[never]]
from = "worker-*"
to = "worker-*"
reason = "workers are untrusted and mutually isolated"
"#
        )
    }

    /// Names of the workers' VMs.
    pub fn worker_names(&self) -> impl Iterator<Item = String> {
        (1..=self.workers).map(|number| format!("worker-{number}"))
    }

    /// A mapper on the host in place of the manager's VM.
    #[must_use]
    pub fn mapper(&self, deployment: &Deployment) -> Command {
        // Opened by whoever deploys: the VM's own user may not reach the file.
        let open = format!("input={}", self.input.display());
        let mut command = attached(deployment, "manager", "mapper", &["--open-ro", &open]);
        command.args(self.mapper_args(Path::new("{input}")));
        command
    }

    /// A reducer on the host in place of a worker's VM.
    #[must_use]
    pub fn reducer(&self, deployment: &Deployment, number: u16) -> Command {
        let mut command = attached(deployment, &format!("worker-{number}"), "reducer", &[]);
        command.args(self.reducer_args(number));
        command
    }

    /// Runs the job on host processes that stand in for the VMs.
    ///
    /// # Errors
    /// If a program fails or a limit passes.
    pub fn on_host(
        &self,
        deployment: &Deployment,
        report: &mut dyn FnMut(Progress),
    ) -> Result<Outcome> {
        let mut running = Vec::new();
        for (number, name) in (1..).zip(self.worker_names()) {
            running.push(Process::start(&name, self.reducer(deployment, number))?);
            report(Progress::Started(name));
        }
        let mut mapper = Process::start("manager", self.mapper(deployment))?;
        report(Progress::Started("manager".to_owned()));
        let result = follow(&mut mapper, report)?;
        finish(&mut mapper)?;
        running.iter_mut().try_for_each(finish)?;
        Ok(Outcome {
            result,
            boot: Vec::new(),
            running: Vec::new(),
        })
    }

    /// Boots the VMs and runs the job in them. The workers' guests are given to the caller: they end
    /// by themselves, the first one after what `extras` adds.
    ///
    /// # Errors
    /// If a guest or a program fails or a limit passes.
    pub fn in_vms(
        &self,
        deployment: &Deployment,
        extras: &Extras<'_>,
        report: &mut dyn FnMut(Progress),
    ) -> Result<Outcome> {
        let input_bytes = std::fs::metadata(&self.input)
            .with_context(|| format!("can't read {}", self.input.display()))?
            .len();
        let mut running = Vec::new();
        for (number, name) in (1..).zip(self.worker_names()) {
            let afterwards = if number == 1 {
                extras.afterwards
            } else {
                Afterwards::default()
            };
            let script = format!(
                "{LOAD}as_user {SERVICE_USER} /bin/reducer {}\ncode=$?\n{}\nfinish $code\n",
                self.reducer_args(number).join(" "),
                afterwards.script
            );
            let mut image = self.image(deployment, &name, "reducer")?;
            for program in afterwards.programs {
                image = image.program(&deployment.artifacts().guest.join(program))?;
            }
            for module in afterwards.modules {
                image = image.kernel_module(module)?;
            }
            let mut guest = Guest::new(&name, self.seal(image, &script, extras.folder, &name)?);
            guest.qemu_args = afterwards
                .qemu_args
                .iter()
                .map(|&text| text.to_owned())
                .collect();
            running.push(self.start(&guest, deployment, extras.folder)?);
            report(Progress::Started(name));
        }
        let script = format!(
            "{LOAD}chmod 0444 /dev/vda\nas_user {SERVICE_USER} /bin/mapper --input-bytes {input_bytes} {}\nfinish $?\n",
            self.mapper_args(Path::new("/dev/vda")).join(" ")
        );
        let image = self
            .image(deployment, "manager", "mapper")?
            .kernel_module("virtio_pci")?
            .kernel_module("virtio_blk")?;
        let mut manager = Guest::new(
            "manager",
            self.seal(image, &script, extras.folder, "manager")?,
        );
        manager.disk = Some(self.input.clone());
        let mut mapper = self.start(&manager, deployment, extras.folder)?;
        report(Progress::Started("manager".to_owned()));
        let mut boot = Vec::new();
        for process in std::iter::once(&mut mapper).chain(&mut running) {
            let (at, _) = process.wait_event("loaded", BOOT_LIMIT)?;
            report(Progress::Loaded(process.name().to_owned(), at));
            boot.push((process.name().to_owned(), at));
        }
        let result = follow(&mut mapper, report)?;
        let (_, exit) = mapper.wait_event("exit", JOB_LIMIT)?;
        if exit.get("code").and_then(Value::as_i64) != Some(0) {
            bail!("the mapper failed: {exit}\n{}", mapper.tail());
        }
        mapper.finish(JOB_LIMIT)?;
        Ok(Outcome {
            result,
            boot,
            running,
        })
    }

    /// What the guest of a VM needs for its one service, whose program has its name.
    fn image<'a>(&self, deployment: &'a Deployment, vm: &str, service: &str) -> Result<Image<'a>> {
        let artifacts = deployment.artifacts().vm()?;
        Image::new(artifacts)?
            .program(&deployment.artifacts().guest.join(service))?
            .identity(&deployment.identity(vm, service), SERVICE_USER)?
            .file(&artifacts.sivshm_ko, "/lib/sivshm.ko")
    }

    fn seal(&self, image: Image<'_>, script: &str, folder: &Path, vm: &str) -> Result<PathBuf> {
        let path = folder.join(format!("{vm}.cpio"));
        image.build(script, &path)?;
        Ok(path)
    }

    fn start(&self, guest: &Guest, deployment: &Deployment, folder: &Path) -> Result<Process> {
        let mut process = guest.boot(deployment)?.process;
        process.keep_log(std::fs::File::create(
            folder.join(format!("{}.console.log", guest.vm)),
        )?);
        Ok(process)
    }

    fn reducer_args(&self, number: u16) -> Vec<String> {
        ["--index", &number.to_string(), "--mode", &self.mode]
            .map(str::to_owned)
            .to_vec()
    }

    fn mapper_args(&self, input: &Path) -> Vec<String> {
        let (workers, byte) = (self.workers.to_string(), format!("0x{:02x}", self.byte));
        let input = input.display().to_string();
        [
            "--input",
            &input,
            "--workers",
            &workers,
            "--byte",
            &byte,
            "--mode",
            &self.mode,
        ]
        .map(str::to_owned)
        .to_vec()
    }
}

/// Where a run in VMs puts its files, and what it adds to the job.
#[derive(Clone, Copy, Debug)]
pub struct Extras<'a> {
    /// Folder for images and console logs.
    pub folder: &'a Path,
    /// What the first worker's guest does after its reducer has ended.
    pub afterwards: Afterwards<'a>,
}

/// What a guest does after the job, and what it needs for that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Afterwards<'a> {
    /// Commands, as root.
    pub script: &'a str,
    /// Programs of the deployment.
    pub programs: &'a [&'a str],
    /// Modules of the guest kernel.
    pub modules: &'a [&'a str],
    /// Arguments for QEMU.
    pub qemu_args: &'a [&'a str],
}

/// Loads the module and says so.
const LOAD: &str = "insmod /lib/sivshm.ko && event loaded || finish 90\n";

/// A service on the host in place of its VM; its program has its name.
fn attached(deployment: &Deployment, vm: &str, service: &str, options: &[&str]) -> Command {
    let mut command = deployment.run(vm);
    command.args(["--attach", "--guest-uid", &SERVICE_USER.to_string()]);
    command
        .args(["--service", service])
        .args(options)
        .arg("--")
        .arg(deployment.artifacts().guest.join(service));
    command
}

/// Reports the mapper's progress until its result.
fn follow(mapper: &mut Process, report: &mut dyn FnMut(Progress)) -> Result<Value> {
    mapper.wait_for("result of the job", JOB_LIMIT, |line| {
        let event = line.event()?;
        match event.get("event")?.as_str()? {
            "opened" => {
                let after = Duration::from_micros(event.get("microseconds")?.as_u64()?);
                let channel = event.get("channel")?.as_str()?;
                report(Progress::Opened(channel.to_owned(), after));
            }
            "progress" => report(Progress::Counted(event.get("bytes")?.as_u64()?)),
            "result" => return Some(event),
            _ => {}
        }
        None
    })
}

fn finish(process: &mut Process) -> Result<()> {
    let status = process.finish(JOB_LIMIT)?;
    if !status.success() {
        bail!("{} failed: {status}\n{}", process.name(), process.tail());
    }
    Ok(())
}
