//! A trust domain on this host, below a temporary folder: policy, keys, device processes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::artifacts::Artifacts;
use crate::process::{Process, output_of};

/// Longest time for all device processes of a deployment to answer: 256 of them, 100 ms each on two
/// cores, with as much again for a loaded machine.
const UP_LIMIT: Duration = Duration::from_secs(60);

/// Longest time for a deployment to end everything it started.
const DOWN_LIMIT: Duration = Duration::from_secs(60);

/// Lines that are shown of the end of each log of a deployment that was not taken down.
const LOG_LINES: usize = 40;

/// The user that stands for "not root" where a test needs one.
pub const PLAIN_USER: u32 = 1000;

/// The files by which a service proves who it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The service's name within its VM.
    pub service: String,
    /// Its SVID with the intermediate, PEM.
    pub svid: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The trust bundle.
    pub bundle: PathBuf,
    /// The CRLs.
    pub crl: PathBuf,
}

/// A running trust domain. Dropping it ends its device processes and VMMs and removes its folder.
#[derive(Debug)]
pub struct Deployment {
    artifacts: Artifacts,
    domain: String,
    vms: Vec<String>,
    /// Each with its VM.
    services: Vec<(String, String)>,
    /// Set where everything runs as this user: development mode.
    user: Option<u32>,
    up: Option<Process>,
    root: tempfile::TempDir,
}

impl Deployment {
    /// Writes the policy and issues a certificate to each device process and service. `user` runs
    /// everything as that user, in development mode; only root can choose one.
    ///
    /// # Errors
    /// If the policy is refused or a key can't be issued.
    pub fn new(artifacts: &Artifacts, policy: &str, user: Option<u32>) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("sivshm-").tempdir()?;
        // VMMs reach their port's socket below it under their own uid.
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o711))?;
        let draft = root.path().join("policy.toml");
        std::fs::write(&draft, policy)?;
        let mut this = Self {
            artifacts: stage(artifacts, &root.path().join("opt"))?,
            domain: String::new(),
            vms: Vec::new(),
            services: Vec::new(),
            user,
            up: None,
            root,
        };
        let shown = output_of(this.sivshm().args(["policy", "show", "--json"]).arg(&draft))?;
        let plan: Value = serde_json::from_str(&shown)?;
        this.domain = text(&plan, "trust_domain")?;
        for vm in list(&plan, "vms")? {
            let name = text(vm, "name")?;
            for service in list(vm, "services")? {
                this.services.push((name.clone(), text(service, "name")?));
            }
            this.vms.push(name);
        }
        std::fs::create_dir_all(this.etc())?;
        std::fs::rename(&draft, this.etc().join("policy.toml"))?;
        this.issue_keys()?;
        if let Some(user) = user {
            output_of(
                Command::new("chown")
                    .arg("-R")
                    .arg(format!("{user}:{user}"))
                    .arg(this.root()),
            )?;
        }
        Ok(this)
    }

    /// Starts `sivshm up` and waits until every device process answers.
    ///
    /// # Errors
    /// If that takes too long or fails; the error carries what it printed.
    pub fn up(&mut self) -> Result<()> {
        let mut command = self.command("up");
        command.arg("--json");
        let mut up = Process::start("sivshm up", command)?;
        up.wait_for("word that all device processes answer", UP_LIMIT, |line| {
            let ready: Value = serde_json::from_str(&line.text).ok()?;
            ready.get("ready_ms").map(drop)
        })?;
        self.up = Some(up);
        Ok(())
    }

    /// Ends everything as an operator would, and says what is left.
    ///
    /// # Errors
    /// If `sivshm up` does not end by itself and cleanly, or leaves a socket behind.
    pub fn down(&mut self) -> Result<()> {
        let Some(mut up) = self.up.take() else {
            return Ok(());
        };
        output_of(&mut self.command("down"))?;
        let status = up.finish(DOWN_LIMIT)?;
        if !status.success() {
            bail!("sivshm up ended with {status}\n{}", up.tail());
        }
        let run = self.root().join("run/sivshm").join(&self.domain);
        if run.exists() {
            bail!("{} is left behind", run.display());
        }
        Ok(())
    }

    /// A command line `sivshm run VM OPTIONS...`; the caller appends `--` and a program.
    #[must_use]
    pub fn run(&self, vm: &str) -> Command {
        let mut command = self.command("run");
        command.arg(vm);
        command
    }

    /// What `sivshm status --json` says.
    ///
    /// # Errors
    /// If it fails or prints no JSON.
    pub fn status(&self) -> Result<Value> {
        let text = output_of(self.command("status").arg("--json"))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The supervisor, while the deployment is up.
    pub fn supervisor(&mut self) -> Option<&mut Process> {
        self.up.as_mut()
    }

    /// The folder that stands for `/`.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The domain's configuration.
    #[must_use]
    pub fn etc(&self) -> PathBuf {
        self.root().join("etc/sivshm").join(&self.domain)
    }

    /// The domain's sockets and state.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.root().join("run/sivshm").join(&self.domain)
    }

    /// The domain's logs.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.root().join("var/log/sivshm").join(&self.domain)
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The VMs, sorted by name.
    #[must_use]
    pub fn vms(&self) -> &[String] {
        &self.vms
    }

    /// The folder with the SVIDs and keys of a VM's services.
    #[must_use]
    pub fn services_dir(&self, vm: &str) -> PathBuf {
        self.etc().join("vm").join(vm).join("svc")
    }

    /// What a service of a VM proves itself by.
    #[must_use]
    pub fn identity(&self, vm: &str, service: &str) -> Identity {
        let folder = self.services_dir(vm);
        Identity {
            service: service.to_owned(),
            svid: folder.join(format!("{service}.pem")),
            key: folder.join(format!("{service}.key")),
            bundle: self.etc().join("bundle.pem"),
            crl: self.etc().join("crl.pem"),
        }
    }

    /// The built binaries that this deployment runs.
    #[must_use]
    pub const fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// A command line of the operator's tool, under the deployment's user.
    #[must_use]
    pub fn sivshm(&self) -> Command {
        self.as_user(self.artifacts.bin.join("sivshm"))
    }

    /// A command line of one of its subcommands for this deployment.
    #[must_use]
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = self.sivshm();
        command
            .args([subcommand, "--root"])
            .arg(self.root())
            .args(["--domain", &self.domain]);
        command
    }

    /// The ends of the logs of all device processes: who reads of a failed test has nothing else.
    fn logs(&self) -> String {
        let mut shown = String::new();
        for vm in &self.vms {
            for end in ["log", "audit.jsonl"] {
                let path = self.log_dir().join(format!("{vm}.{end}"));
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                shown += &format!("{}, of {} lines:\n", path.display(), lines.len());
                for line in lines.iter().skip(lines.len().saturating_sub(LOG_LINES)) {
                    shown += &format!("  {line}\n");
                }
            }
        }
        shown
    }

    fn as_user(&self, program: PathBuf) -> Command {
        let Some(user) = self.user else {
            return Command::new(program);
        };
        let mut command = Command::new("setpriv");
        let (reuid, regid) = (format!("--reuid={user}"), format!("--regid={user}"));
        command
            .args([reuid.as_str(), regid.as_str(), "--clear-groups", "--"])
            .arg(program);
        command
    }

    fn issue_keys(&self) -> Result<()> {
        let ca = self.etc().join("ca");
        let tool = || Command::new(self.artifacts.bin.join("sivshm-ca"));
        output_of(
            tool()
                .args(["init", "--domain", &self.domain, "--dir"])
                .arg(&ca),
        )?;
        for name in ["bundle.pem", "crl.pem"] {
            std::fs::copy(ca.join(name), self.etc().join(name))?;
        }
        let issue = |party: &[&str], out: &Path| {
            let mut command = tool();
            command.args(["issue", "--dir"]).arg(&ca).args(party);
            output_of(command.arg("--out").arg(out)).map(drop)
        };
        for vm in &self.vms {
            issue(&["device", vm], &self.etc().join("vm").join(vm))?;
        }
        for (vm, service) in &self.services {
            issue(&["service", vm, service], &self.services_dir(vm))?;
        }
        Ok(())
    }
}

/// A text of a plan.
fn text(of: &Value, key: &str) -> Result<String> {
    let text = of.get(key).and_then(Value::as_str);
    Ok(text
        .with_context(|| format!("the plan says no {key}"))?
        .to_owned())
}

/// A list of a plan.
fn list<'a>(of: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    let list = of.get(key).and_then(Value::as_array);
    list.with_context(|| format!("the plan lists no {key}"))
}

/// Copies the programs to where every user can start them, wherever they were built.
fn stage(artifacts: &Artifacts, opt: &Path) -> Result<Artifacts> {
    let mut staged = artifacts.clone();
    for (from, to) in [
        (&artifacts.bin, &mut staged.bin),
        (&artifacts.guest, &mut staged.guest),
    ] {
        *to = opt.join(
            from.file_name()
                .context("a folder of programs has a name")?,
        );
        std::fs::create_dir_all(&*to)?;
        for entry in std::fs::read_dir(from)? {
            let path = entry?.path();
            if let (true, Some(name)) = (path.is_file(), path.file_name()) {
                std::fs::copy(&path, to.join(name))?;
            }
        }
    }
    Ok(staged)
}

impl Drop for Deployment {
    fn drop(&mut self) {
        let Some(mut up) = self.up.take() else { return };
        // The supervisor ends what it started; killing it at once would orphan that.
        let _ = up.signal(Signal::SIGTERM);
        if let Err(error) = up.finish(DOWN_LIMIT) {
            eprintln!("{error:#}");
        }
        eprintln!("{}", self.logs());
    }
}
