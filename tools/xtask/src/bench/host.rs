//! The machine that figures belong to.

use anyhow::Result;
use serde::Serialize;
use sivshm_tests::vm::accelerator;

use super::procfs::read;

/// What a figure depends on.
#[derive(Debug, Default, Serialize)]
pub struct Host {
    processor: String,
    processors: usize,
    kernel: String,
    /// What VMs run on.
    accel: String,
    /// `root` (a user for each VM) or `development`.
    isolation: String,
    /// Processes that wanted to run in the minute before.
    load: String,
}

impl Host {
    /// Looks at this machine.
    pub fn read() -> Result<Self> {
        let cpus = read("/proc/cpuinfo")?;
        let model = cpus.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split(": ").nth(1));
        let root = nix::unistd::geteuid().is_root();
        let load = read("/proc/loadavg")?;
        Ok(Self {
            processor: model.unwrap_or("unknown").to_owned(),
            processors: std::thread::available_parallelism()?.get(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            accel: accelerator()?.to_owned(),
            isolation: if root { "root" } else { "development" }.to_owned(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        })
    }

    /// Says it in one line.
    pub fn print(&self) {
        println!(
            "{} processors ({}), kernel {}, VMs on {}, isolation {}, load {}",
            self.processors, self.processor, self.kernel, self.accel, self.isolation, self.load
        );
    }
}
