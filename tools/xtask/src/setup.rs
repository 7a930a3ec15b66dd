//! What the machine must have, and how it gets it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::debian;
use crate::workspace::shown;

/// The machine lacks something that this task may not install.
#[derive(Debug)]
pub struct Missing(String);

impl Missing {
    /// Says what is missing and what to do.
    pub fn new(what: &str) -> Self {
        Self(what.to_owned())
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// What a task needs beyond the Rust toolchain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Programs of the host.
    Host,
    /// A guest kernel with headers, QEMU, and what makes an initramfs.
    Guests,
    /// Other kernels than the machine's own, in a system of their own.
    Kernels,
    /// A checker of protocols, and a compiler for what it generates.
    Model,
}

/// How to see that a package is there.
enum Sign {
    Command(&'static str),
    File(&'static str),
    GuestKernel,
}

/// Package names by distribution; Debian's first, Ubuntu's where it differs.
struct Need {
    sign: Sign,
    debian: &'static str,
    ubuntu: &'static str,
    why: &'static str,
}

const HOST: &[Need] = &[
    Need {
        sign: Sign::Command("cc"),
        debian: "gcc",
        ubuntu: "gcc",
        why: "links programs",
    },
    Need {
        sign: Sign::Command("make"),
        debian: "make",
        ubuntu: "make",
        why: "builds the kernel module",
    },
    Need {
        sign: Sign::Command("setpriv"),
        debian: "util-linux",
        ubuntu: "util-linux",
        why: "runs tests as another user",
    },
    Need {
        sign: Sign::Command("openssl"),
        debian: "openssl",
        ubuntu: "openssl",
        why: "verifies certificates in tests",
    },
];

const GUESTS: &[Need] = &[
    Need {
        sign: Sign::Command("qemu-system-x86_64"),
        debian: "qemu-system-x86",
        ubuntu: "qemu-system-x86",
        why: "runs VMs",
    },
    Need {
        sign: Sign::GuestKernel,
        debian: "linux-image-cloud-amd64 linux-headers-cloud-amd64",
        ubuntu: "linux-image-virtual linux-headers-virtual",
        why: "the guests' kernel and what builds a module for it",
    },
    Need {
        sign: Sign::Command("busybox"),
        debian: "busybox-static",
        ubuntu: "busybox-static",
        why: "the guests' user land",
    },
    Need {
        sign: Sign::Command("cpio"),
        debian: "cpio",
        ubuntu: "cpio",
        why: "packs guest images",
    },
    Need {
        sign: Sign::File(debian::KEYS),
        debian: "debian-archive-keyring",
        ubuntu: "debian-archive-keyring",
        why: "verifies the kernel of hosts that are guests",
    },
];

const KERNELS: &[Need] = &[Need {
    sign: Sign::Command("debootstrap"),
    debian: "debootstrap",
    ubuntu: "debootstrap",
    why: "sets up the system that has other kernels and builds for them",
}];

const MODEL: &[Need] = &[
    Need {
        sign: Sign::Command("spin"),
        debian: "spin",
        ubuntu: "spin",
        why: "checks the model of the service handshake",
    },
    Need {
        sign: Sign::Command("gcc"),
        debian: "gcc",
        ubuntu: "gcc",
        why: "spin's preprocessor, and compiles the checker that spin writes",
    },
];

/// Oldest host kernel that has every step of confinement (DESIGN section 15).
const OLDEST_KERNEL: (u32, u32) = (6, 12);

/// Says what is missing for `purposes` and installs it, if it may.
pub fn ensure(purposes: &[Purpose]) -> Result<()> {
    host_kernel()?;
    let ubuntu = std::fs::read_to_string("/etc/os-release")
        .is_ok_and(|text| text.lines().any(|line| line == "ID=ubuntu"));
    let needs = purposes.iter().flat_map(|purpose| match purpose {
        Purpose::Host => HOST,
        Purpose::Guests => GUESTS,
        Purpose::Kernels => KERNELS,
        Purpose::Model => MODEL,
    });
    let mut packages = Vec::new();
    for need in needs.filter(|need| !need.sign.seen()) {
        let package = if ubuntu { need.ubuntu } else { need.debian };
        eprintln!("missing: {package} ({})", need.why);
        packages.extend(package.split(' '));
    }
    if packages.is_empty() {
        return Ok(());
    }
    let prefix: &[&str] = if nix::unistd::geteuid().is_root() {
        &["env"]
    } else if Command::new("sudo")
        .args(["-n", "true"])
        .output()
        .is_ok_and(|o| o.status.success())
    {
        &["sudo", "-n", "env"]
    } else {
        let list = packages.join(" ");
        return Err(Missing(format!(
            "this user may not install packages; run\n  sudo apt-get update && sudo apt-get install --no-install-recommends -y {list}\nand try again"
        ))
        .into());
    };
    let apt = |arguments: &[&str]| {
        let (program, rest) = prefix.split_first().context("a prefix has a program")?;
        shown(
            Command::new(program)
                .args(rest)
                .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"])
                .args(arguments),
        )
    };
    eprintln!("installing: {}", packages.join(" "));
    apt(&["update"])?;
    let mut install = vec!["install", "--no-install-recommends", "-y"];
    install.extend(packages);
    apt(&install)
}

/// The newest installed kernel that has an image and headers: `(image, modules folder)`.
pub fn guest_kernel() -> Option<(PathBuf, PathBuf)> {
    let mut versions: Vec<String> = std::fs::read_dir("/lib/modules")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|version| {
            Path::new("/lib/modules")
                .join(version)
                .join("build/Makefile")
                .exists()
                && Path::new("/boot")
                    .join(format!("vmlinuz-{version}"))
                    .exists()
        })
        .collect();
    // Cloud kernels boot fastest; among equals the newest.
    versions.sort_by_key(|version| (version.contains("cloud"), numbers_of(version)));
    let version = versions.pop()?;
    Some((
        Path::new("/boot").join(format!("vmlinuz-{version}")),
        Path::new("/lib/modules").join(version),
    ))
}

/// The numbers that a kernel's version begins with, to compare it by.
pub fn numbers_of(version: &str) -> Vec<u32> {
    version
        .split(['.', '-', '+'])
        .map_while(|part| part.parse().ok())
        .collect()
}

/// Full path of a command.
pub fn command_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

impl Sign {
    fn seen(&self) -> bool {
        match self {
            Self::Command(name) => command_path(name).is_some(),
            Self::File(path) => Path::new(path).exists(),
            Self::GuestKernel => guest_kernel().is_some(),
        }
    }
}

fn host_kernel() -> Result<()> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("can't read the host kernel's release")?;
    let mut numbers = numbers_of(&release).into_iter();
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST_KERNEL {
        let (major, minor) = OLDEST_KERNEL;
        return Err(Missing(format!(
            "the host kernel is {}, device processes need {major}.{minor} or newer (MFD_NOEXEC_SEAL, Landlock ABI 6); \
             Debian 12 has one in bookworm-backports",
            release.trim()
        ))
        .into());
    }
    Ok(())
}
