//! Guests under QEMU, started through `sivshm run` as an operator starts them.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::deployment::Deployment;
use crate::process::Process;

/// Memory of a guest, in MiB: what Debian's cloud kernel boots in with room for the job.
const MEMORY_MIB: u32 = 256;

/// QEMU's arguments for two ivshmem functions that are none of SIVSHM's, on the root bus and below a
/// root port: what somebody else's use of ivshmem looks like.
pub const FOREIGN_FUNCTIONS: [&str; 10] = [
    "-object",
    "memory-backend-memfd,id=foreign-0,size=1M,share=on",
    "-object",
    "memory-backend-memfd,id=foreign-1,size=1M,share=on",
    "-device",
    "pcie-root-port,id=foreign-root,bus=pcie.0,chassis=1",
    "-device",
    "ivshmem-plain,memdev=foreign-0,bus=pcie.0",
    "-device",
    "ivshmem-plain,memdev=foreign-1,bus=foreign-root",
];

/// How a guest is started.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The VM's name in the policy.
    pub vm: String,
    /// Its initramfs.
    pub initramfs: PathBuf,
    /// A file that it sees as a read-only disk `/dev/vda`.
    pub disk: Option<PathBuf>,
    /// Appended to the kernel's command line.
    pub kernel_args: String,
    /// Appended to QEMU's command line.
    pub qemu_args: Vec<String>,
    /// Virtual CPUs.
    pub cpus: u32,
}

impl Guest {
    /// A guest with one CPU and no disk.
    #[must_use]
    pub fn new(vm: &str, initramfs: PathBuf) -> Self {
        Self {
            vm: vm.to_owned(),
            initramfs,
            disk: None,
            kernel_args: String::new(),
            qemu_args: Vec::new(),
            cpus: 1,
        }
    }

    /// Starts the guest.
    ///
    /// # Errors
    /// If these artifacts hold no guest kernel or `sivshm run` can't be started.
    pub fn boot(&self, deployment: &Deployment) -> Result<Vm> {
        let vm = deployment.artifacts().vm()?;
        let mut command = deployment.run(&self.vm);
        command
            .arg("--open-ro")
            .arg(format!("kernel={}", vm.kernel.display()));
        command
            .arg("--open-ro")
            .arg(format!("initrd={}", self.initramfs.display()));
        if let Some(disk) = &self.disk {
            command
                .arg("--drive-ro")
                .arg(format!("input={}", disk.display()));
        }
        command.arg("--").arg(&vm.qemu);
        machine(&mut command, MEMORY_MIB, self.cpus, &self.kernel_args);
        command.args(["-kernel", "{kernel}", "-initrd", "{initrd}"]);
        command.args(&self.qemu_args);
        Ok(Vm {
            process: Process::start_listening(&self.vm, command)?,
        })
    }
}

/// Adds QEMU's arguments for a machine that has nothing but a console, which is QEMU's own input and
/// output, and whose kernel gets these words beyond those that it needs for that.
pub(crate) fn machine(command: &mut Command, memory_mib: u32, cpus: u32, kernel_args: &str) {
    command.args(["-M", "q35", "-m", &memory_mib.to_string()]);
    command.args(["-smp", &cpus.to_string(), "-nodefaults", "-no-user-config"]);
    command.args(["-no-reboot", "-display", "none", "-serial", "stdio"]);
    let line = format!("console=ttyS0 panic=-1 quiet loglevel=3 {kernel_args}");
    command.args(["-append", &line]);
}

/// A running guest. Dropping it ends its VMM.
#[derive(Debug)]
pub struct Vm {
    /// The VMM, whose output and input are the guest's console.
    pub process: Process,
}

impl Vm {
    /// Waits for an event that the guest prints, and for how long it has been running then.
    ///
    /// # Errors
    /// If it does not come within `limit`; the error quotes the end of the console.
    pub fn wait_event(&mut self, event: &str, limit: Duration) -> Result<(Duration, Value)> {
        self.process.wait_event(event, limit)
    }

    /// Waits for the guest to say its exit code and to power off.
    ///
    /// # Errors
    /// If it does neither within `limit`.
    pub fn finish(&mut self, limit: Duration) -> Result<i64> {
        let (_, exit) = self.process.wait_event("exit", limit)?;
        self.process.finish(limit)?;
        Ok(exit.get("code").and_then(Value::as_i64).unwrap_or(-1))
    }
}

/// What guests run on here: `kvm` where the processor has virtual machine extensions and this user
/// may use them, else `tcg`.
///
/// # Errors
/// If `/proc/cpuinfo` can't be read.
pub fn accelerator() -> Result<&'static str> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
    let extended = cpus
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| {
            line.split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        });
    let usable = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    Ok(if extended && usable { "kvm" } else { "tcg" })
}
