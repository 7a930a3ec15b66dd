//! Services on the host in place of their VMs, and what their device processes say about them.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::deployment::Deployment;
use crate::job::SERVICE_USER;
use crate::process::{Line, Process};

/// Longest time for anything that a service and its device process do at once, on a loaded machine of
/// two cores.
pub const SERVICE_LIMIT: Duration = Duration::from_secs(30);

/// Pause between two looks at a file, or at the status: a person does not see it, and others need
/// the processor.
const LOOK: Duration = Duration::from_millis(10);

/// How a program is started in place of a VM.
#[derive(Clone, Copy, Debug)]
pub struct Attached<'a> {
    /// The VM.
    pub vm: &'a str,
    /// The service whose SVID and key the program gets.
    pub service: &'a str,
    /// The user that the program says it has.
    pub user: u32,
    /// The program's name.
    pub program: &'a str,
}

impl<'a> Attached<'a> {
    /// A service by its own SVID and user.
    #[must_use]
    pub const fn new(vm: &'a str, service: &'a str) -> Self {
        Self {
            vm,
            service,
            user: SERVICE_USER,
            program: "probe",
        }
    }

    /// Starts the program.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(&self, deployment: &Deployment, arguments: &[&str]) -> Result<Process> {
        Process::start(&self.name(), self.command(deployment, arguments))
    }

    /// The process's name in error messages.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.vm, self.service)
    }

    /// The command line that starts the program.
    #[must_use]
    pub fn command(&self, deployment: &Deployment, arguments: &[&str]) -> Command {
        let mut command = deployment.run(self.vm);
        command.args(["--attach", "--guest-uid", &self.user.to_string()]);
        command.args(["--service", self.service, "--"]);
        command.arg(deployment.artifacts().guest.join(self.program));
        if self.program.starts_with("probe") {
            command.args(["--identity", self.service]);
        }
        command.args(arguments);
        command
    }
}

/// Waits for the next event of a service about a channel after the first `seen` of its lines, and
/// gives what it says; `seen` is then behind it.
///
/// # Errors
/// As [`Process::wait_for`].
pub fn next(process: &mut Process, seen: &mut usize, name: &str, channel: &str) -> Result<Value> {
    let mut at = 0;
    let from = *seen;
    let is_it = |line: &Line| {
        at += 1;
        let event = line.event().filter(|_| at > from)?;
        let is_it = event.get("event")? == name && event.get("channel")? == channel;
        is_it.then(|| (at, event.get("what").cloned().unwrap_or_default()))
    };
    let (at, what) = process.wait_for(&format!("`{name}` of {channel}"), SERVICE_LIMIT, is_it)?;
    *seen = at;
    Ok(what)
}

/// Asks for the status until it is as wanted.
///
/// # Errors
/// If it does not become so within `limit`; the error quotes it.
pub fn wait_status(
    deployment: &Deployment,
    what: &str,
    limit: Duration,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let deadline = Instant::now() + limit;
    loop {
        let status = deployment.status()?;
        if wanted(&status) {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            bail!("the status does not show within {limit:?}: {what}\n{status:#}");
        }
        std::thread::sleep(LOOK);
    }
}

/// What the status says about a VM; null if nothing.
#[must_use]
pub fn vm<'a>(status: &'a Value, name: &str) -> &'a Value {
    named(status.get("vms"), name)
}

/// What the device process of a VM says about a channel; null if nothing.
#[must_use]
pub fn channel<'a>(status: &'a Value, vm: &str, name: &str) -> &'a Value {
    let device = self::vm(status, vm).get("device");
    named(device.and_then(|device| device.get("channels")), name)
}

/// How far the device process of a VM is with a channel's first reader, or with the one given.
#[must_use]
pub fn pairing<'a>(status: &'a Value, vm: &str, name: &str, reader: Option<&str>) -> &'a Value {
    let pairings = channel(status, vm, name).get("pairings");
    let mut pairings = pairings.and_then(Value::as_array).into_iter().flatten();
    let found = pairings.find(|pairing| {
        let of = pairing.get("reader").and_then(Value::as_str);
        reader.is_none_or(|reader| of == Some(reader))
    });
    found.unwrap_or(&Value::Null)
}

/// Grants of all sessions of a VM's guest; none if its device process does not answer.
#[must_use]
pub fn grants(status: &Value, vm: &str) -> Option<u64> {
    let device = self::vm(status, vm).get("device")?;
    let sessions = device.get("sessions")?.as_array()?;
    let grants = sessions
        .iter()
        .map(|session| session.get("grants")?.as_u64());
    grants.sum()
}

fn named<'a>(list: Option<&'a Value>, name: &str) -> &'a Value {
    let mut list = list.and_then(Value::as_array).into_iter().flatten();
    let found = list.find(|entry| entry.get("name").and_then(Value::as_str) == Some(name));
    found.unwrap_or(&Value::Null)
}

/// The audit log of a device process, from some moment on.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    from: u64,
}

impl AuditLog {
    /// What comes from now on.
    #[must_use]
    pub fn of(deployment: &Deployment, vm: &str) -> Self {
        let path = deployment.log_dir().join(format!("{vm}.audit.jsonl"));
        let from = std::fs::metadata(&path).map_or(0, |found| found.len());
        Self { path, from }
    }

    /// The records so far.
    ///
    /// # Errors
    /// If the log can't be read.
    pub fn records(&self) -> Result<Vec<Value>> {
        let mut file = File::open(&self.path)
            .with_context(|| format!("can't open {}", self.path.display()))?;
        file.seek(SeekFrom::Start(self.from))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?)
    }

    /// Waits for the record of a denial, or of an end, with this blame and these words in its reason.
    ///
    /// # Errors
    /// If it does not come in time; the error quotes the records that came.
    pub fn wait_blame(&self, event: &str, blame: &str, reason: &str) -> Result<Value> {
        let is = |record: &Value, key: &str, value: &str| {
            record.get(key).and_then(Value::as_str) == Some(value)
        };
        let deadline = Instant::now() + SERVICE_LIMIT;
        loop {
            let records = self.records()?;
            let found = records.iter().find(|record| {
                let why = record.get("reason").and_then(Value::as_str).unwrap_or("");
                is(record, "event", event)
                    && !is(record, "decision", "allow")
                    && is(record, "blame", blame)
                    && why.contains(reason)
            });
            if let Some(found) = found {
                return Ok(found.clone());
            }
            if Instant::now() >= deadline {
                bail!("no {event} with blame {blame} and `{reason}` among\n{records:#?}");
            }
            std::thread::sleep(LOOK);
        }
    }
}
