//! `sivshm status`: what runs, and what needs attention.

use serde::Serialize;
use sivshm_device::admin_wire::{
    AdminAnswer, AdminRequest, ChannelState, MAX_ANSWER_BYTES, PeerStatus, Status,
};
use sivshm_device::paths::SocketDir;

use crate::ask::{ANSWER_TIMEOUT, ask};
use crate::failure::Outcome;
use crate::layout::{Layout, Where, vm_name};
use crate::process::Process;
use crate::state::{State, VmState};
use crate::table::Table;
use crate::up::DEVELOPMENT;

/// Show what runs for a trust domain
///
/// One line for each VM: its device process, how many of its peers are established, its VMM, the
/// sessions of its guest, revoked channels, and whether it needs a restart (`sivshm run` again)
/// because its device process was lost.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sivshm status
  sivshm status --json | jq '.vms[] | select(.needs_restart) | .name'

Exit codes: 0 shown, 1 nothing runs or the host failed, 2 wrong usage.")]
pub struct Args {
    #[command(flatten)]
    at: Where,
    /// Print one JSON object, with everything the device processes tell
    #[arg(long)]
    json: bool,
}

/// All of it.
#[derive(Debug, Serialize)]
struct Report {
    trust_domain: String,
    supervisor: i32,
    /// False if the supervisor was killed: nobody restarts device processes or ends VMMs then.
    supervised: bool,
    development: bool,
    policy: String,
    vms: Vec<VmReport>,
}

#[derive(Debug, Serialize)]
struct VmReport {
    name: String,
    device_pid: Option<i32>,
    restarts: u32,
    vmm_pid: Option<i32>,
    /// Its VMM was ended, or holds memory of an earlier run of a peer: `sivshm run` it again.
    needs_restart: bool,
    /// What its device process says; none if it does not answer.
    device: Option<Status>,
    /// Why it does not answer.
    error: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// See the exit codes of its help.
pub fn run(args: &Args) -> Outcome {
    let layout = args.at.layout()?;
    let report = Report::of(&layout, &layout.running()?)?;
    if args.json {
        return crate::output::json(&report);
    }
    if report.development {
        eprintln!("sivshm: {DEVELOPMENT}");
    }
    crate::output::text(&report.as_text())
}

impl Report {
    fn of(layout: &Layout, state: &State) -> Outcome<Self> {
        let vms = state.vms.iter().map(|vm| VmReport::of(layout, vm));
        Ok(Self {
            trust_domain: state.trust_domain.clone(),
            supervisor: state.supervisor.pid,
            supervised: Process::find(state.supervisor).is_some(),
            development: state.development,
            policy: state.policy.display().to_string(),
            vms: vms.collect::<Outcome<_>>()?,
        })
    }

    fn as_text(&self) -> String {
        let mut table = Table::new([
            "VM", "device", "peers", "VMM", "guest", "sessions", "granted", "notes",
        ]);
        for vm in &self.vms {
            table.row(vm.cells());
        }
        let serial = self.vms.iter().find_map(|vm| vm.device.as_ref());
        let serial = serial.map_or_else(String::new, |s| format!(", serial {}", s.policy_serial));
        let supervisor = if self.supervised {
            format!("supervisor pid {}", self.supervisor)
        } else {
            "THE SUPERVISOR IS GONE: run `sivshm down`, then `sivshm up`".to_owned()
        };
        format!(
            "{} (policy {}{serial}; {supervisor})\n{table}",
            self.trust_domain, self.policy
        )
    }
}

impl VmReport {
    fn of(layout: &Layout, vm: &VmState) -> Outcome<Self> {
        let name = vm_name(&vm.name)?;
        let path = layout.paths.socket(SocketDir::Admin, name);
        let answer = ask(
            &path,
            &AdminRequest::Status {},
            MAX_ANSWER_BYTES,
            ANSWER_TIMEOUT,
        );
        let (device, error) = match answer {
            Ok(AdminAnswer::Status(status)) => (Some(status), None),
            Ok(AdminAnswer::Refused { reason }) => (None, Some(reason)),
            Ok(AdminAnswer::Revoked { .. }) => (None, Some("answered another question".into())),
            Err(error) => (None, Some(error.to_string())),
        };
        let mut peers = device.iter().flat_map(|device| &device.peers);
        let stale = peers.any(is_stale);
        Ok(Self {
            name: vm.name.clone(),
            device_pid: vm.device.map(|process| process.pid),
            restarts: vm.restarts,
            vmm_pid: vm.vmm.map(|process| process.pid),
            needs_restart: vm.needs_restart || stale,
            device,
            error,
        })
    }

    fn cells(&self) -> [String; 8] {
        let dash = || "-".to_owned();
        let pid = |pid: Option<i32>| pid.map_or_else(dash, |pid| pid.to_string());
        let Some(device) = &self.device else {
            let device = self
                .device_pid
                .map_or_else(|| "down".into(), |pid| format!("{pid}?"));
            let name = self.name.clone();
            let vmm = pid(self.vmm_pid);
            return [
                name,
                device,
                dash(),
                vmm,
                dash(),
                dash(),
                dash(),
                self.notes(),
            ];
        };
        let established = device
            .peers
            .iter()
            .filter(|peer| peer.link.is_some())
            .count();
        let guest = match &device.vmm {
            None => dash(),
            Some(vmm) if vmm.driver => "driver".into(),
            Some(vmm) if vmm.port => "port".into(),
            Some(_) => "starting".into(),
        };
        [
            self.name.clone(),
            pid(self.device_pid),
            format!("{established}/{}", device.peers.len()),
            pid(device.vmm.as_ref().map(|vmm| vmm.pid)),
            guest,
            device.sessions.len().to_string(),
            format!(
                "{}/{}",
                count(device, ChannelState::Granted),
                device.channels.len()
            ),
            self.notes(),
        ]
    }

    fn notes(&self) -> String {
        let mut notes = Vec::new();
        if self.needs_restart {
            notes.push("needs restart".to_owned());
        }
        let peers = self.device.iter().flat_map(|device| &device.peers);
        for peer in peers.filter(|peer| is_stale(peer)) {
            notes.push(format!("{} was restarted", peer.vm));
        }
        if self.restarts > 0 {
            notes.push(format!("device process restarted {}x", self.restarts));
        }
        if let Some(error) = &self.error {
            notes.push(format!("no answer: {error}"));
        }
        if let Some(device) = &self.device {
            let revoked = count(device, ChannelState::Revoked);
            if revoked > 0 {
                notes.push(format!("{revoked} revoked"));
            }
            if !device.contained {
                notes.push("NOT CONTAINED: the guest does not confirm a revocation".into());
            }
            let broken = device.peers.iter().find(|peer| peer.link.is_none());
            if let Some((peer, error)) =
                broken.and_then(|peer| Some((peer, peer.last_error.as_ref()?)))
            {
                notes.push(format!("{}: {error}", peer.vm));
            }
        }
        notes.join("; ")
    }
}

/// Whether the VMM holds memory of an earlier run of this peer.
fn is_stale(peer: &PeerStatus) -> bool {
    peer.link.as_ref().is_some_and(|link| link.needs_relaunch)
}

fn count(device: &Status, state: ChannelState) -> usize {
    let channels = device.channels.iter();
    channels.filter(|channel| channel.state == state).count()
}
