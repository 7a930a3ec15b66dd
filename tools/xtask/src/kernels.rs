//! `cargo xtask kernels`: the module, and device processes, on other kernels.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sivshm_tests::artifacts::{ARTIFACTS_VARIABLE, VmArtifacts};

use crate::debian::MIRROR;
use crate::setup::{self, Missing, Purpose, numbers_of};
use crate::workspace::{cargo, root, shown, target};
use crate::{build, hosts, kmod};

/// The release whose compiler builds for all kernels below.
const RELEASE: &str = "trixie";

/// Each line of kernels by the beginning of its versions, and the suite that has its newest build.
const LINES: [(&str, &str); 2] = [("6.12.", RELEASE), ("7.", "trixie-backports")];

/// The tests that boot a guest with the module.
const TESTS: [&str; 5] = [
    "functional_vm",
    "security_guest",
    "security_guest_kernel",
    "security_guest_root_lockdown",
    "security_guest_stopped",
];

/// Build the module for Linux 6.12 and 7.x, and run the tests of guests, and those of hosts, on each.
///
/// Sets up a Debian system with both kernels, their headers, their compiler and a newer QEMU below
/// the target folder (1.3 GB, some minutes; only the first time), builds the module in it with every warning an
/// error, boots what the guest tests boot, and a host that runs device processes. Needs root for the system of its own.
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
    for (beginning, suite) in LINES {
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
        artifacts.vm = Some(vm_artifacts(&chroot, &version, vm)?);
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
        hosts::test(&artifacts, &chroot.join(format!("boot/vmlinuz-{version}")))?;
        println!("Linux {version}: every test of hosts passes");
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
        .map(|(_, suite)| format!("deb {MIRROR} {suite} main\n"))
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
        "qemu-system-x86",
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

/// What guests of one kernel of the system need.
fn vm_artifacts(chroot: &Path, version: &str, vm: VmArtifacts) -> Result<VmArtifacts> {
    // The link of that name below `lib/modules` may be absolute.
    let headers = chroot.join(format!("usr/src/linux-headers-{version}"));
    let out = chroot.join("srv/sivshm").join(version);
    let system = kmod::System::Chroot(chroot);
    Ok(VmArtifacts {
        qemu: qemu(chroot)?,
        kernel: chroot.join(format!("boot/vmlinuz-{version}")),
        modules: chroot.join("lib/modules").join(version),
        sivshm_ko: kmod::build(&root()?, system, &headers, &out)?,
        hostile_ko: build::hostile_module(system, &headers, &out.join("hostile"))?,
        ..vm
    })
}

/// Writes a program that runs the system's QEMU outside of it: emulated by Debian 12's QEMU 7.2,
/// one boot of Linux 6.12 in five ends in an oops before a module is loaded; by 10.0 none of 40 does.
fn qemu(chroot: &Path) -> Result<PathBuf> {
    let program = chroot.join("srv/sivshm/qemu");
    let root = chroot.display();
    std::fs::write(
        &program,
        format!(
            "#!/bin/sh\n\
             export QEMU_MODULE_DIR='{root}/usr/lib/x86_64-linux-gnu/qemu'\n\
             exec '{root}/lib64/ld-linux-x86-64.so.2' --library-path '{root}/usr/lib/x86_64-linux-gnu' \
             '{root}/usr/bin/qemu-system-x86_64' -L '{root}/usr/share/seabios' -L '{root}/usr/share/qemu' \
             -L '{root}/usr/lib/ipxe/qemu' \"$@\"\n"
        ),
    )?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    Ok(program)
}
