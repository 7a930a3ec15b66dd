//! `cargo xtask kernels`: the module on the other kernels that it is for.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use sivshm_tests::artifacts::{ARTIFACTS_VARIABLE, VmArtifacts};

use crate::setup::{self, Missing, Purpose, numbers_of};
use crate::workspace::{cargo, root, shown, target};
use crate::{build, kmod};

/// Where Debian's packages are.
const MIRROR: &str = "http://deb.debian.org/debian";

/// The release whose compiler builds for all kernels below.
const RELEASE: &str = "trixie";

/// A line of kernels that the module is for.
struct Line {
    /// What its versions begin with.
    beginning: &'static str,
    /// The suite that has its newest build.
    suite: &'static str,
    /// QEMU's processor model, if not the one that `sivshm run` takes.
    cpu: Option<&'static str>,
}

const LINES: [Line; 2] = [
    Line {
        beginning: "6.12.",
        suite: RELEASE,
        // Under emulation by QEMU 7.2 with `-cpu max` one boot in five ends in a random oops, with
        // nothing of ours loaded; with this one 35 of 35 come to their end.
        cpu: Some("Nehalem"),
    },
    Line {
        beginning: "7.",
        suite: "trixie-backports",
        cpu: None,
    },
];

/// The tests that boot a guest with the module.
const TESTS: [&str; 3] = ["functional_vm", "security_guest", "security_guest_kernel"];

/// Build the module for Linux 6.12 and 7.x, and run the tests of guests on each.
///
/// Sets up a Debian system with both kernels, their headers and their compiler below the target
/// folder (1.1 GB, some minutes; only the first time), builds the module in it with every warning an
/// error, and boots what the guest tests boot. Needs root for the system of its own.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only kernels whose version begins so
    #[arg(long, value_name = "VERSION", default_value = "")]
    only: String,
    /// Build, and boot nothing
    #[arg(long)]
    no_tests: bool,
}

/// Runs the task.
pub fn run(args: &Args) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Missing::new("this task needs root: it sets up a system of its own").into());
    }
    setup::ensure(&[Purpose::Host, Purpose::Guests, Purpose::Kernels])?;
    let artifacts = build::all(true)?;
    let chroot = target()?.join("kernels").join(RELEASE);
    debootstrap(&chroot)?;
    for Line {
        beginning,
        suite,
        cpu,
    } in LINES
    {
        if !beginning.starts_with(&args.only) && !args.only.starts_with(beginning) {
            continue;
        }
        let version = match newest(&chroot, beginning) {
            Some(version) => version,
            None => {
                install(&chroot, suite)?;
                newest(&chroot, beginning)
                    .with_context(|| format!("{suite} has no kernel {beginning}x"))?
            }
        };
        println!("Linux {version}");
        let mut artifacts = artifacts.clone();
        let vm = artifacts.vm.take().context("built for VMs")?;
        artifacts.vm = Some(VmArtifacts {
            cpu: cpu.map(str::to_owned),
            ..modules(&chroot, &version, vm)?
        });
        println!("Linux {version}: the module builds without a warning");
        if args.no_tests {
            continue;
        }
        let file = target()?
            .join("sivshm")
            .join(format!("artifacts-{version}.json"));
        artifacts.write(&file)?;
        shown(
            cargo()?
                .args(["test", "-p", "sivshm-tests", "--no-fail-fast"])
                .args(TESTS.iter().flat_map(|name| ["--test", name]))
                .env(ARTIFACTS_VARIABLE, &file),
        )?;
        println!("Linux {version}: every test of guests passes");
    }
    Ok(())
}

/// Sets up the system, unless it is there; a set-up that was interrupted is not.
fn debootstrap(chroot: &Path) -> Result<()> {
    if chroot.exists() {
        return Ok(());
    }
    let unfinished = chroot.with_extension("unfinished");
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished)?;
    }
    std::fs::create_dir_all(&unfinished)?;
    shown(
        Command::new("debootstrap")
            .args(["--variant=minbase", "--include=make", RELEASE])
            .arg(&unfinished)
            .arg(MIRROR),
    )?;
    let suites: String = LINES
        .iter()
        .map(|line| format!("deb {MIRROR} {} main\n", line.suite))
        .collect();
    std::fs::write(unfinished.join("etc/apt/sources.list"), suites)?;
    Ok(std::fs::rename(&unfinished, chroot)?)
}

/// Installs the newest cloud kernel of a suite with its headers, beside those of others.
fn install(chroot: &Path, suite: &str) -> Result<()> {
    let apt = |arguments: &[&str]| {
        shown(
            Command::new("chroot")
                .arg(chroot)
                .args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"])
                .args(arguments),
        )
    };
    apt(&["update"])?;
    apt(&[
        "install",
        "--no-install-recommends",
        "-y",
        "-t",
        suite,
        "linux-image-cloud-amd64",
        "linux-headers-cloud-amd64",
    ])
}

/// The newest kernel in the system whose version begins so.
fn newest(chroot: &Path, beginning: &str) -> Option<String> {
    std::fs::read_dir(chroot.join("lib/modules"))
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|version| version.starts_with(beginning))
        .max_by_key(|version| numbers_of(version))
}

/// Builds the modules for one kernel of the system.
fn modules(chroot: &Path, version: &str, vm: VmArtifacts) -> Result<VmArtifacts> {
    // The link of that name below `lib/modules` may be absolute.
    let headers = chroot.join(format!("usr/src/linux-headers-{version}"));
    let out = chroot.join("srv/sivshm").join(version);
    let system = kmod::System::Chroot(chroot);
    Ok(VmArtifacts {
        kernel: chroot.join(format!("boot/vmlinuz-{version}")),
        modules: chroot.join("lib/modules").join(version),
        sivshm_ko: kmod::build(&root()?, system, &headers, &out)?,
        hostile_ko: build::hostile_module(system, &headers, &out.join("hostile"))?,
        ..vm
    })
}
