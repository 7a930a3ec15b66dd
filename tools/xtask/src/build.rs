//! `cargo xtask build`: everything that a deployment, its guests and the tests need.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sivshm_tests::artifacts::{Artifacts, VmArtifacts};
use sivshm_tests::process::output_of;

use crate::kmod;
use crate::setup::{self, Purpose, command_path, guest_kernel};
use crate::workspace::{cargo, root, shown, target};

/// Target of programs that run in guests.
const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// How Rust programs are linked that run in any guest.
const STATIC: &str = "-C target-feature=+crt-static";

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
    let programs = guest_programs(&["sivshm-examples", "sivshm-hostile", "sivshm-cli"])?;
    c_programs(&programs)?;
    let artifacts = Artifacts {
        bin: collect(
            "bin",
            &target()?.join("release"),
            &["sivshm", "sivshm-device", "sivshm-ca"],
        )?,
        guest: collect(
            "programs",
            &programs,
            &[
                "mapper", "reducer", "hostile", "honest", "partner", "probe", "crowd", "restless",
                "echo", "say", "sivshm",
            ],
        )?,
        vm: with_vms.then(vm).transpose()?,
    };
    artifacts.write(&artifacts_file()?)?;
    Ok(artifacts)
}

/// Builds the programs of packages so that they run in any guest, and returns their folder.
pub fn guest_programs(packages: &[&str]) -> Result<PathBuf> {
    shown(guest_cargo("build")?.args(packages.iter().flat_map(|package| ["-p", package])))?;
    Ok(guest_target()?.join(GUEST_TARGET).join("release"))
}

/// Cargo's folder for what runs in guests.
fn guest_target() -> Result<PathBuf> {
    Ok(target()?.join("guest"))
}

/// A `cargo` command that builds static programs.
fn guest_cargo(subcommand: &str) -> Result<Command> {
    let mut cargo = cargo()?;
    cargo
        .args([subcommand, "--quiet", "--release", "--target", GUEST_TARGET])
        .env("RUSTFLAGS", STATIC)
        .env("CARGO_TARGET_DIR", guest_target()?);
    Ok(cargo)
}

/// Builds the C examples as their comments say, static, against the C interface of libsivshm.
fn c_programs(out: &Path) -> Result<()> {
    shown(guest_cargo("rustc")?.args(["-p", "libsivshm", "--crate-type", "staticlib"]))?;
    let root = root()?;
    for name in ["echo", "say"] {
        let source = root
            .join("guest-module/examples/c")
            .join(name)
            .with_extension("c");
        output_of(
            Command::new("cc")
                .args([
                    "-static",
                    "-Wl,--gc-sections",
                    "-Wall",
                    "-Wextra",
                    "-Werror",
                    "-I",
                ])
                .arg(root.join("guest-module/lib/include"))
                .arg("-o")
                .args([&out.join(name), &source, &out.join("libsivshm.a")])
                .arg("-lm"),
        )?;
    }
    Ok(())
}

/// The file that tells tests where the artifacts are.
pub fn artifacts_file() -> Result<PathBuf> {
    Ok(target()?.join("sivshm").join("artifacts.json"))
}

fn vm() -> Result<VmArtifacts> {
    let (kernel, modules) = guest_kernel().context("no guest kernel is installed")?;
    let out = target()?.join("sivshm").join("kmod");
    let headers = modules.join("build");
    Ok(VmArtifacts {
        qemu: command_path("qemu-system-x86_64").context("no qemu-system-x86_64 is installed")?,
        busybox: command_path("busybox").context("no busybox is installed")?,
        sivshm_ko: kmod::build(&root()?, kmod::System::Host, &headers, &out)?,
        hostile_ko: hostile_module(kmod::System::Host, &headers, &out.join("hostile"))?,
        kernel,
        modules,
        host_kernel: None,
    })
}

/// Builds the hostile guest kernel module of the security tests: plain C, by the kernel's own build.
pub fn hostile_module(system: kmod::System<'_>, headers: &Path, out: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(out)?;
    for entry in std::fs::read_dir(root()?.join("tests/hostile/kmod"))? {
        let entry = entry?;
        let (source, to) = (std::fs::read(entry.path())?, out.join(entry.file_name()));
        // What is written is built again.
        if std::fs::read(&to).ok().as_ref() != Some(&source) {
            std::fs::write(&to, source)?;
        }
    }
    system.make(headers, out)?;
    Ok(out.join("sivshm_hostile.ko"))
}

/// Copies programs out of cargo's folder, where a later build would replace them under a test.
pub fn collect(name: &str, from: &Path, programs: &[&str]) -> Result<PathBuf> {
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
