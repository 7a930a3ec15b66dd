//! Where the built binaries, the guest programs and the guest kernel are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Environment variable that names the file which [`Artifacts::write`] wrote.
pub const ARTIFACTS_VARIABLE: &str = "SIVSHM_ARTIFACTS";

/// Paths of everything that a deployment needs. `cargo xtask` builds it and writes it down; tests
/// read it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Artifacts {
    /// Folder with `sivshm`, `sivshm-device` and `sivshm-ca`.
    pub bin: PathBuf,
    /// Folder with the static programs that run in guests and in host processes that stand in for
    /// VMs.
    pub guest: PathBuf,
    /// What VMs need; absent where QEMU is not to be used.
    pub vm: Option<VmArtifacts>,
}

/// What only VMs need.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct VmArtifacts {
    /// QEMU's binary.
    pub qemu: PathBuf,
    /// The guest kernel's image.
    pub kernel: PathBuf,
    /// The guest kernel's modules, `/lib/modules/VERSION`.
    pub modules: PathBuf,
    /// SIVSHM's kernel module for that kernel.
    pub sivshm_ko: PathBuf,
    /// The hostile kernel module of the security tests.
    pub hostile_ko: PathBuf,
    /// A static busybox.
    pub busybox: PathBuf,
    /// A kernel on which device processes run, for tests that need a host of their own; absent if none
    /// was fetched.
    pub host_kernel: Option<PathBuf>,
}

impl Artifacts {
    /// Reads what `cargo xtask` built.
    ///
    /// # Errors
    /// If this was not started by `cargo xtask`, or its file can't be read.
    pub fn from_env() -> Result<Self> {
        let path = std::env::var_os(ARTIFACTS_VARIABLE).with_context(|| {
            format!("{ARTIFACTS_VARIABLE} is not set: run this by `cargo xtask test`")
        })?;
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("can't read {}", Path::new(&path).display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Writes this down for tests to read.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("can't write {}", path.display()))
    }

    /// What VMs need.
    ///
    /// # Errors
    /// If these artifacts were built without it.
    pub fn vm(&self) -> Result<&VmArtifacts> {
        self.vm
            .as_ref()
            .context("built without QEMU and a guest kernel: no VM can run")
    }
}
