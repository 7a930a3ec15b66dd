//! `cargo xtask build`: everything that a deployment, its guests and the tests need.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use sivshm_tests::artifacts::{Artifacts, VmArtifacts};

use crate::kmod;
use crate::setup::{self, Purpose, command_path, guest_kernel};
use crate::workspace::{cargo, root, shown, target};

/// Target of programs that run in guests.
pub const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Build the binaries, the static guest programs and the guest kernel module.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Build nothing that only VMs need.
    #[arg(long)]
    no_vm: bool,
}

/// Runs the task.
pub fn run(args: &Args) -> Result<()> {
    let artifacts = all(!args.no_vm)?;
    println!("{}", serde_json::to_string_pretty(&artifacts)?);
    Ok(())
}

/// Sets up the machine and builds; incremental.
pub fn all(with_vms: bool) -> Result<Artifacts> {
    let purposes: &[Purpose] = if with_vms {
        &[Purpose::Host, Purpose::Guests]
    } else {
        &[Purpose::Host]
    };
    setup::ensure(purposes)?;
    shown(cargo()?.args(["build", "--quiet", "--release"]).args([
        "-p",
        "sivshm-cli",
        "-p",
        "sivshm-device",
        "-p",
        "sivshm-ca",
    ]))?;
    let guest = target()?.join("guest");
    shown(
        cargo()?
            .args([
                "build",
                "--quiet",
                "--release",
                "--target",
                GUEST_TARGET,
                "-p",
                "sivshm-examples",
            ])
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env("CARGO_TARGET_DIR", &guest),
    )?;
    let artifacts = Artifacts {
        bin: collect(
            "bin",
            &target()?.join("release"),
            &["sivshm", "sivshm-device", "sivshm-ca"],
        )?,
        guest: collect(
            "programs",
            &guest.join(GUEST_TARGET).join("release"),
            &["mapper", "reducer"],
        )?,
        vm: with_vms.then(vm).transpose()?,
    };
    artifacts.write(&artifacts_file()?)?;
    Ok(artifacts)
}

/// The file that tells tests where the artifacts are.
pub fn artifacts_file() -> Result<PathBuf> {
    Ok(target()?.join("sivshm").join("artifacts.json"))
}

fn vm() -> Result<VmArtifacts> {
    let (kernel, modules) = guest_kernel().context("no guest kernel is installed")?;
    let out = target()?.join("sivshm").join("kmod");
    Ok(VmArtifacts {
        qemu: command_path("qemu-system-x86_64").context("no qemu-system-x86_64 is installed")?,
        busybox: command_path("busybox").context("no busybox is installed")?,
        sivshm_ko: kmod::build(&root()?, &modules.join("build"), &out)?,
        hostile_ko: None,
        kernel,
        modules,
    })
}

/// Copies programs out of cargo's folder, where a later build would replace them under a test.
pub fn collect(name: &str, from: &std::path::Path, programs: &[&str]) -> Result<PathBuf> {
    let folder = target()?.join("sivshm").join(name);
    std::fs::create_dir_all(&folder)?;
    for program in programs {
        let source = from.join(program);
        // A new file: the old one may be running.
        let _ = std::fs::remove_file(folder.join(program));
        std::fs::copy(&source, folder.join(program))
            .with_context(|| format!("can't copy {}", source.display()))?;
    }
    Ok(folder)
}
