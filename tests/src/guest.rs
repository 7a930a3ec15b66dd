//! Guest images: an initramfs made of busybox, kernel modules, programs and one script.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::artifacts::VmArtifacts;
use crate::deployment::Identity;

/// What every guest does before its own script: the file systems, and an event that says when.
const PROLOGUE: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/shm /tmp && chmod 1777 /tmp
ip link set lo up
# What a test types is no output.
stty -echo
event() { echo "{\"event\":\"$1\",\"uptime\":\"$(cut -d' ' -f1 /proc/uptime)\"}"; }
as_user() { user=$1; shift; setpriv_as "$user" "$@"; }
setpriv_as() { user=$1; program=$2; shift 2; start-stop-daemon -S -q -c "$user:$user" -x "$program" -- "$@"; }
finish() { echo "{\"event\":\"exit\",\"code\":$1}"; poweroff -f; }
"#;

/// Users of a guest: root and the one that services run as.
const PASSWD: &str =
    "root:x:0:0::/:/bin/sh\nservice:x:1000:1000::/:/bin/sh\nother:x:1001:1001::/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nservice:x:1000:\nother:x:1001:\n";

/// An initramfs under construction.
#[derive(Debug)]
pub struct Image<'a> {
    vm: &'a VmArtifacts,
    folder: tempfile::TempDir,
    modules: Vec<String>,
    wanted: BTreeSet<PathBuf>,
    /// Files that are not root's, with their users.
    owners: Vec<(String, u32)>,
}

impl<'a> Image<'a> {
    /// Starts with busybox and nothing else.
    ///
    /// # Errors
    /// If the temporary folder can't be filled.
    pub fn new(vm: &'a VmArtifacts) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sivshm-image-").tempdir()?;
        let this = Self {
            vm,
            folder,
            modules: Vec::new(),
            wanted: BTreeSet::new(),
            owners: Vec::new(),
        };
        for dir in ["bin", "dev", "etc/sivshm/svc", "proc", "sys", "lib", "tmp"] {
            fs::create_dir_all(this.path(dir))?;
        }
        fs::copy(&vm.busybox, this.path("bin/busybox"))?;
        fs::write(this.path("etc/passwd"), PASSWD)?;
        fs::write(this.path("etc/group"), GROUP)?;
        Ok(this)
    }

    /// Adds a program under `/bin`.
    ///
    /// # Errors
    /// If it can't be copied.
    pub fn program(self, from: &Path) -> Result<Self> {
        let name = from.file_name().context("a program has a name")?;
        let to = self.path("bin").join(name);
        fs::copy(from, &to).with_context(|| format!("can't copy {}", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
        Ok(self)
    }

    /// Adds a file of any kind at an absolute path in the guest.
    ///
    /// # Errors
    /// If it can't be copied.
    pub fn file(self, from: &Path, to: &str) -> Result<Self> {
        let to = self.path(to.trim_start_matches('/'));
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(from, to).with_context(|| format!("can't copy {}", from.display()))?;
        Ok(self)
    }

    /// Adds what a service that runs as `user` proves itself by, where libsivshm looks for it.
    ///
    /// # Errors
    /// If it can't be copied.
    pub fn identity(mut self, identity: &Identity, user: u32) -> Result<Self> {
        let place = |suffix: &str| format!("/etc/sivshm/svc/{}.{suffix}", identity.service);
        let key = place("key");
        self = self
            .file(&identity.svid, &place("pem"))?
            .file(&identity.key, &key)?
            .file(&identity.bundle, "/etc/sivshm/bundle.pem")?
            .file(&identity.crl, "/etc/sivshm/crl.pem")?;
        // The file has the mode of its original, 0600.
        self.owners.push((key, user));
        Ok(self)
    }

    /// Adds a module of the guest kernel and what it depends on, to be loaded before the script,
    /// unless the kernel has it built in.
    ///
    /// # Errors
    /// If the kernel has none of that name.
    pub fn kernel_module(mut self, name: &str) -> Result<Self> {
        let read = |table: &str| {
            let table = self.vm.modules.join(table);
            fs::read_to_string(&table).with_context(|| format!("can't read {}", table.display()))
        };
        let built_in = read("modules.builtin")?;
        if built_in.lines().any(|path| module_name(path) == name) {
            return Ok(self);
        }
        let table = read("modules.dep")?;
        let line = table
            .lines()
            .find(|line| module_name(line.split(':').next().unwrap_or_default()) == name)
            .with_context(|| format!("the guest kernel has no module `{name}`"))?;
        let (module, needs) = line.split_once(':').unwrap_or((line, ""));
        // `modules.dep` lists dependencies in the reverse of the order to load them in.
        for path in needs.split_whitespace().rev().chain([module]) {
            if self.wanted.insert(PathBuf::from(path)) {
                let file = format!("lib/{}.ko", module_name(path));
                self.unpack(&self.vm.modules.join(path), &self.path(&file))?;
                self.modules.push(file);
            }
        }
        Ok(self)
    }

    /// Finishes the image: `script` runs after the modules are loaded, as root, in busybox's shell,
    /// with the functions `event NAME`, `as_user UID PROGRAM ARGS...` and `finish CODE`.
    ///
    /// # Errors
    /// If `cpio` is missing or fails.
    pub fn build(self, script: &str, to: &Path) -> Result<()> {
        let loads: String = self
            .modules
            .iter()
            .map(|file| format!("insmod /{file}\n"))
            .collect();
        let owners: String = self
            .owners
            .iter()
            .map(|(file, user)| format!("chown {user}:{user} {file}\n"))
            .collect();
        let init = self.path("init");
        fs::write(&init, format!("{PROLOGUE}{owners}{loads}{script}\n"))?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        let mut names = String::new();
        list(self.folder.path(), self.folder.path(), &mut names)?;
        let mut cpio = Command::new("cpio")
            .args(["--quiet", "-o", "-H", "newc", "-R", "0:0"])
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(File::create(to)?)
            .spawn()
            .context("can't start cpio")?;
        cpio.stdin
            .take()
            .context("cpio has an input")?
            .write_all(names.as_bytes())?;
        let status = cpio.wait()?;
        if !status.success() {
            bail!("cpio failed: {status}");
        }
        Ok(())
    }

    /// Copies a module of the guest kernel as the kernel itself takes it: some distributions compress
    /// them, and `insmod` unpacks them then, but no other program that loads one.
    fn unpack(&self, module: &Path, to: &Path) -> Result<()> {
        if module.extension().is_none_or(|end| end != "xz") {
            fs::copy(module, to)?;
            return Ok(());
        }
        let mut unpack = Command::new(&self.vm.busybox);
        let unpacked = unpack.arg("xzcat").arg(module).stdout(File::create(to)?);
        let status = unpacked.status().context("can't start busybox")?;
        if !status.success() {
            bail!("can't unpack {}: {status}", module.display());
        }
        Ok(())
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

fn list(top: &Path, folder: &Path, names: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .strip_prefix(top)?
            .to_str()
            .context("names in an image are UTF-8")?;
        names.push_str(name);
        names.push('\n');
        if path.is_dir() && !path.is_symlink() {
            list(top, &path, names)?;
        }
    }
    Ok(())
}
