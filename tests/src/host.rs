//! A host of its own: a machine under QEMU on which test programs, device processes and services run,
//! with a kernel that the test chooses and a clock that it may set.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::artifacts::{ARTIFACTS_VARIABLE, Artifacts};
use crate::guest::Image;
use crate::process::{Process, output_of};
use crate::vm::{accelerator, machine};

/// Word of the kernel's command line by which a test knows that the host is there for it alone.
const MARK: &str = "sivshm.own-host";

/// Memory in MiB: the programs twice, packed and unpacked, and what a deployment copies of them.
const MEMORY_MIB: u32 = 1024;

/// Processors: a service and a device process do something at the same time.
const CPUS: u32 = 2;

/// Longest time for a host to switch itself off.
const OFF_LIMIT: Duration = Duration::from_secs(60);

/// Where the built binaries, the guest programs and the test programs are on that host.
const BIN: &str = "/opt/bin";
const GUEST: &str = "/opt/guest";
const TESTS: &str = "/opt/tests";
const ARTIFACTS: &str = "/opt/artifacts.json";

/// What tests call by name, beyond busybox.
const TOOLS: [&str; 1] = ["/usr/bin/setpriv"];

/// Device processes leave their root by pivot_root(2), which the kernel refuses in the file system
/// that an initramfs is unpacked to: everything moves to another one.
const MOVE: &str = r#"
if [ ! -d /own ]; then
    mkdir /own && mount -t tmpfs -o mode=755 own /own && mkdir /own/own
    for part in /*; do
        case $part in /dev|/own|/proc|/sys) mkdir -p /own$part ;; *) cp -a $part /own/ ;; esac
    done
    umount /sys /proc /dev
    exec switch_root /own /init
fi
event up
mkdir /dev/pts && mount -t devpts devpts /dev/pts
export PATH=/usr/bin:/bin
"#;

/// Whether this process runs on a host of its own, whose clock it may set.
#[must_use]
pub fn is_own() -> bool {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_whitespace().any(|word| word == MARK)
}

/// What a host of its own runs.
#[derive(Debug)]
pub struct OwnHost<'a> {
    artifacts: &'a Artifacts,
    image: Image<'a>,
    /// Libraries that are in the image.
    libraries: BTreeSet<PathBuf>,
    script: String,
}

impl<'a> OwnHost<'a> {
    /// A host with SIVSHM's binaries and those of the guest programs that its tests start.
    ///
    /// # Errors
    /// If these artifacts have nothing to boot, or a program is missing.
    pub fn new(artifacts: &'a Artifacts, programs: &[&str]) -> Result<Self> {
        let mut this = Self {
            artifacts,
            image: Image::new(artifacts.vm()?)?,
            libraries: BTreeSet::new(),
            script: format!("{MOVE}export {ARTIFACTS_VARIABLE}={ARTIFACTS}\n"),
        };
        let there = Artifacts {
            bin: BIN.into(),
            guest: GUEST.into(),
            vm: None,
        };
        let list = tempfile::NamedTempFile::new()?;
        there.write(list.path())?;
        this.image = this.image.file(list.path(), ARTIFACTS)?;
        for name in ["sivshm", "sivshm-device", "sivshm-ca"] {
            this = this.program(&artifacts.bin.join(name), BIN)?;
        }
        for tool in TOOLS {
            this = this.program(Path::new(tool), "/usr/bin")?;
        }
        // They are static.
        for name in programs {
            let to = format!("{GUEST}/{name}");
            this.image = this.image.file(&artifacts.guest.join(name), &to)?;
        }
        Ok(this)
    }

    /// Has it run a test program after those before; the first that fails is the last.
    ///
    /// # Errors
    /// If the program is missing.
    pub fn test(mut self, program: &Path, arguments: &[&str]) -> Result<Self> {
        self = self.program(program, TESTS)?;
        let name = file_name(program)?;
        let arguments = arguments.join(" ");
        self.script += &format!("{TESTS}/{name} {arguments} || finish $?\n");
        Ok(self)
    }

    /// Starts the host with a kernel, waits until it has run everything, and returns what it printed.
    ///
    /// # Errors
    /// If it does not come to its end within `limit`, or a program fails; the error has what was printed.
    pub fn run(self, kernel: &Path, limit: Duration) -> Result<String> {
        let folder = tempfile::tempdir()?;
        let initramfs = folder.path().join("initramfs");
        self.image.build(&(self.script + "finish 0"), &initramfs)?;
        let mut host = Process::start("own host", command(self.artifacts, kernel, &initramfs)?)?;
        let (_, exit) = host.wait_event("exit", limit)?;
        host.finish(OFF_LIMIT)?;
        let lines = host.lines().iter();
        let text: String = lines.map(|line| format!("{}\n", line.text)).collect();
        match exit.get("code").and_then(Value::as_i64) {
            Some(0) => Ok(text),
            code => bail!("a program on the own host ended with {code:?}\n{text}"),
        }
    }

    /// Adds a program with the libraries that it is linked with.
    fn program(mut self, from: &Path, to: &str) -> Result<Self> {
        let libraries = output_of(Command::new("ldd").arg(from))?;
        let paths = libraries
            .split_whitespace()
            .filter(|it| it.starts_with('/'));
        for path in paths {
            if self.libraries.insert(path.into()) {
                self.image = self.image.file(Path::new(path), path)?;
            }
        }
        self.image = self
            .image
            .file(from, &format!("{to}/{}", file_name(from)?))?;
        Ok(self)
    }
}

fn file_name(of: &Path) -> Result<&str> {
    let name = of.file_name().and_then(|name| name.to_str());
    name.with_context(|| format!("{} is no name of a program", of.display()))
}

fn command(artifacts: &Artifacts, kernel: &Path, initramfs: &Path) -> Result<Command> {
    let mut command = Command::new(&artifacts.vm()?.qemu);
    // Emulated by QEMU 7.2, `cmpxchg16b` now and then leaves wrong flags, which ends Linux 6.12 in an
    // oops of its allocator; that does without it where there is none.
    let (accelerator, cpu) = match accelerator()? {
        "kvm" => ("kvm", "host"),
        _ => ("tcg,thread=multi", "max,-cx16"),
    };
    machine(&mut command, MEMORY_MIB, CPUS, MARK);
    command.args(["-accel", accelerator, "-cpu", cpu]);
    command.arg("-kernel").arg(kernel);
    command.arg("-initrd").arg(initramfs);
    Ok(command)
}
