//! The live attacks of the demo: the hostile program in a guest and in place of a VMM, and services
//! that are not what they say.

mod services;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::attack::{Attack, attacks};
use crate::deployment::{Deployment, Identity};
use crate::job::{Afterwards, SERVICE_USER};
use crate::process::{Process, output_of};
use crate::vm::FOREIGN_FUNCTIONS;

pub use services::{NEIGHBOUR, as_service};

/// Longest time for all attempts of one party, under TCG on a loaded machine of two cores.
pub const SIEGE_LIMIT: Duration = Duration::from_secs(120);

/// What a worker's guest tries after its job: as the user of its service, then as root. The foreign
/// functions and the other driver are what the same attempts succeed on.
pub const IN_GUEST: Afterwards<'static> = Afterwards {
    script: "/bin/hostile guest-user\n/bin/hostile guest-root",
    programs: &["hostile"],
    modules: &["uio_pci_generic"],
    qemu_args: &FOREIGN_FUNCTIONS,
};

/// A service at the other end of a hostile VM's channels, which is there whenever they are opened: on
/// the host, in place of its own VM. It writes and reads channels, each with the service that is given.
///
/// # Errors
/// If it can't be started.
pub fn partner(
    deployment: &Deployment,
    vm: &str,
    service: &str,
    writes: &[(&str, &str)],
    reads: &[(&str, &str)],
) -> Result<Process> {
    let mut command = deployment.run(vm);
    command.args(["--attach", "--guest-uid", &SERVICE_USER.to_string()]);
    command.args(["--service", service, "--"]);
    command.arg(deployment.artifacts().guest.join("partner"));
    command.args(["--identity", service]);
    for (option, ends) in [("--writes", writes), ("--reads", reads)] {
        for (channel, peer) in ends {
            command.args([option, &format!("{channel}={peer}")]);
        }
    }
    let mut partner = Process::start(vm, command)?;
    partner.wait_event("partner", SIEGE_LIMIT)?;
    Ok(partner)
}

/// The SVID of a service as another authority issues it, which has made up the trust domain's name.
///
/// # Errors
/// If it can't be issued.
pub fn forged(deployment: &Deployment, vm: &str, service: &str) -> Result<Identity> {
    let folder = deployment.root().join("forged").join(vm);
    let svid = folder.join(service).with_extension("pem");
    if !svid.exists() {
        std::fs::create_dir_all(&folder)?;
        let ca = folder.join("ca");
        let tool = || Command::new(deployment.artifacts().bin.join("sivshm-ca"));
        let domain = ["init", "--domain", deployment.domain(), "--dir"];
        output_of(tool().args(domain).arg(&ca))?;
        let mut issue = tool();
        issue.args(["issue", "--dir"]).arg(&ca);
        output_of(issue.args(["service", vm, service, "--out"]).arg(&folder))?;
    }
    Ok(Identity {
        key: svid.with_extension("key"),
        svid,
        ..deployment.identity(vm, service)
    })
}

/// Tries what the VMM of `vm` can try by itself, while the VMM of `other` runs, and gives both, the
/// hostile one first, which has come to its end. Needs users of their own for both: in development
/// mode a VMM is not confined.
///
/// # Errors
/// If one of the two can't be started or does not come to its end.
pub fn as_vmm(deployment: &Deployment, vm: &str, other: &str) -> Result<[Process; 2]> {
    let mut victim = hostile(deployment, other, &["hold"])?;
    victim.wait_event("holding", SIEGE_LIMIT)?;
    let status = deployment.status()?;
    let arguments = [
        "alone",
        "--run-dir",
        &deployment.run_dir().display().to_string(),
        "--vm",
        vm,
        "--other",
        other,
        "--other-vmm",
        &victim.id().to_string(),
        "--other-device",
        &device(&status, other)?,
        "--own-device",
        &device(&status, vm)?,
    ];
    let mut party = hostile(deployment, vm, &arguments)?;
    party.wait_event("tried", SIEGE_LIMIT)?;
    Ok([party, victim])
}

/// Tries to be taken for a peer by the device process of `victim`, as a process that has the user of
/// another VM's device process but not its key: once of `dialer`, which has a link with it, and once
/// of `stranger`, which has none. Needs root, to become those users.
///
/// # Errors
/// If the attempts can't be made.
pub fn as_peer(
    deployment: &Deployment,
    victim: &str,
    dialer: &str,
    stranger: Option<&str>,
) -> Result<Vec<Attack>> {
    let status = deployment.status()?;
    let socket = deployment
        .run_dir()
        .join("peer")
        .join(victim)
        .with_extension("sock");
    let parties = [
        (Some(dialer), "key-less-peer"),
        (stranger, "unplanned-peer"),
    ];
    let mut found = Vec::new();
    for (vm, name) in parties
        .into_iter()
        .filter_map(|(vm, name)| Some((vm?, name)))
    {
        let proc = format!("/proc/{}", device(&status, vm)?);
        let text = std::fs::read_to_string(format!("{proc}/status"))
            .with_context(|| format!("can't look at {proc}"))?;
        let id = |field: &str| {
            let line = text.lines().find(|line| line.starts_with(field));
            line.and_then(|line| line.split_whitespace().nth(1))
                .map(str::to_owned)
        };
        let uid = id("Uid:").context("a process has a user")?;
        let gid = id("Gid:").context("a process has a group")?;
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &uid, "--regid", &gid, "--clear-groups", "--"]);
        command.arg(deployment.artifacts().guest.join("hostile"));
        command.args(["peer", name]).arg(&socket);
        let mut party = Process::start(name, command)?;
        party.finish(SIEGE_LIMIT)?;
        found.extend(attacks(party.lines()));
    }
    Ok(found)
}

/// The hostile program in place of a VM's VMM.
///
/// # Errors
/// If it can't be started.
pub fn hostile(deployment: &Deployment, vm: &str, arguments: &[&str]) -> Result<Process> {
    let mut command = deployment.run(vm);
    command
        .args(["--attach", "--"])
        .arg(deployment.artifacts().guest.join("hostile"));
    command.arg("vmm").args(arguments);
    Process::start(vm, command)
}

/// The process id of a VM's device process.
fn device(status: &Value, vm: &str) -> Result<String> {
    let vms = status
        .get("vms")
        .and_then(Value::as_array)
        .context("the status lists no VMs")?;
    let line = vms
        .iter()
        .find(|line| line.get("name").and_then(Value::as_str) == Some(vm));
    let pid = line
        .and_then(|line| line.get("device_pid"))
        .and_then(Value::as_i64);
    pid.map(|pid| pid.to_string())
        .with_context(|| format!("{vm} has no device process"))
}
