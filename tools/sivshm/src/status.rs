//! `sivshm status`: what runs, and what needs attention.

use std::collections::BTreeSet;

use serde::Serialize;
use sivshm_device::admin_wire::{
    AdminAnswer, AdminRequest, ChannelState, MAX_ANSWER_BYTES, PairingState, PeerStatus, Status,
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
/// sessions of its guest (proved by an SVID / open), the channels that are granted, when the SVID of
/// its device process ends, and what needs attention: revoked channels, a guest that is not
/// contained, a VM that needs a restart (`sivshm run` again) because its device process was lost.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sivshm status
  sivshm status --detail      sessions, and who is paired with whom
  sivshm status --json | jq '.vms[] | select(.needs_restart) | .name'

Exit codes: 0 shown, 1 nothing runs or the host failed, 2 wrong usage.")]
pub struct Args {
    #[command(flatten)]
    at: Where,
    /// Show each session and each pairing of a channel, too
    #[arg(long, conflicts_with = "json")]
    detail: bool,
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
    crate::output::text(&report.as_text())?;
    if args.detail {
        crate::output::text(&report.sessions())?;
        crate::output::text(&report.pairings())?;
    }
    Ok(())
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
            "VM",
            "device",
            "peers",
            "VMM",
            "guest",
            "sessions",
            "granted",
            "SVID until",
            "notes",
        ]);
        for vm in &self.vms {
            table.row(vm.cells());
        }
        let devices = || self.vms.iter().filter_map(|vm| vm.device.as_ref());
        let serials: BTreeSet<_> = devices().map(|device| device.policy_serial).collect();
        let serials: Vec<_> = serials.iter().map(u64::to_string).collect();
        let serials = match serials.as_slice() {
            [] => String::new(),
            [serial] => format!(", serial {serial}"),
            mixed => format!(", SERIALS {}: `sivshm reload`", mixed.join(" and ")),
        };
        let crl = devices()
            .map(|device| device.crl.next_update.as_str())
            .min();
        let crl = crl.map_or_else(String::new, |until| format!("; CRL until {until}"));
        let supervisor = if self.supervised {
            format!("supervisor pid {}", self.supervisor)
        } else {
            "THE SUPERVISOR IS GONE: run `sivshm down`, then `sivshm up`".to_owned()
        };
        format!(
            "{} (policy {}{serials}{crl}; {supervisor})\n{table}",
            self.trust_domain, self.policy
        )
    }
}

impl Report {
    /// The sessions of all guests.
    fn sessions(&self) -> String {
        let mut table = Table::new(["VM", "session", "service", "proved", "SVID until", "grants"]);
        for (vm, device) in self.devices() {
            for session in &device.sessions {
                let proved = if session.proved { "yes" } else { "no" };
                table.row([
                    vm.to_owned(),
                    session.session.to_string(),
                    session.service.clone(),
                    proved.to_owned(),
                    session.svid_not_after.clone().unwrap_or_else(dash),
                    session.grants.to_string(),
                ]);
            }
        }
        format!("\n{table}")
    }

    /// Who is paired with whom, as each side sees it.
    fn pairings(&self) -> String {
        let mut table = Table::new(["VM", "channel", "from", "to", "state", "epoch", "handshake"]);
        for (vm, device) in self.devices() {
            for channel in &device.channels {
                for pairing in &channel.pairings {
                    let micros = pairing.handshake_us;
                    table.row([
                        vm.to_owned(),
                        channel.name.clone(),
                        channel.from.clone(),
                        pairing.reader.clone(),
                        word(pairing.state).to_owned(),
                        pairing.epoch.clone().unwrap_or_else(dash),
                        micros.map_or_else(dash, |micros| format!("{micros} us")),
                    ]);
                }
            }
        }
        format!("\n{table}")
    }

    fn devices(&self) -> impl Iterator<Item = (&str, &Status)> {
        let vms = self.vms.iter();
        vms.filter_map(|vm| Some((vm.name.as_str(), vm.device.as_ref()?)))
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
            Ok(AdminAnswer::Status(status)) => (Some(*status), None),
            Ok(AdminAnswer::Refused { reason }) => (None, Some(reason)),
            Ok(_) => (None, Some("answered another question".into())),
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

    fn cells(&self) -> [String; 9] {
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
            format!(
                "{}/{}",
                device.sessions.iter().filter(|s| s.proved).count(),
                device.sessions.len()
            ),
            format!(
                "{}/{}",
                count(device, ChannelState::Granted),
                device.channels.len()
            ),
            device.svid_not_after.clone(),
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
            if let Some(reason) = &device.out_of_service {
                notes.push(format!("OUT OF SERVICE: {reason}"));
            }
            let revoked = count(device, ChannelState::Revoked);
            if revoked > 0 {
                notes.push(format!("{revoked} revoked"));
            }
            let ended = count(device, ChannelState::Ended);
            if ended > 0 {
                notes.push(format!("{ended} ended by the policy"));
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

fn dash() -> String {
    "-".to_owned()
}

const fn word(state: PairingState) -> &'static str {
    match state {
        PairingState::Idle => "idle",
        PairingState::Wanted => "wanted",
        PairingState::Opening => "opening",
        PairingState::Open => "open",
    }
}

fn count(device: &Status, state: ChannelState) -> usize {
    let channels = device.channels.iter();
    channels.filter(|channel| channel.state == state).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sivshm_device::admin_wire::{
        ChannelStatus, CrlStatus, PairingStatus, SessionStatus, Status,
    };

    fn device(serial: u64) -> Status {
        Status {
            vm: "ivi".into(),
            trust_domain: "car.example".into(),
            instance: String::new(),
            uptime_ms: 1,
            development: true,
            policy_serial: serial,
            policy_digest: String::new(),
            svid_not_after: "2030-01-02T03:04:05Z".into(),
            crl: CrlStatus {
                next_update: "2029-01-01T00:00:00Z".into(),
            },
            out_of_service: None,
            vmm: None,
            sessions: vec![SessionStatus {
                session: 7,
                service: "camera".into(),
                proved: true,
                svid_not_after: Some("2028-01-01T00:00:00Z".into()),
                pid: 1,
                uid: 2,
                grants: 2,
            }],
            channels: vec![ChannelStatus {
                name: "picture-1".into(),
                from: "ivi/camera".into(),
                to: vec!["hud/screen".into()],
                state: ChannelState::Granted,
                pairings: vec![PairingStatus {
                    reader: "hud/screen".into(),
                    state: PairingState::Open,
                    epoch: Some("00000000000000ff".into()),
                    handshake_us: Some(1234),
                }],
            }],
            peers: Vec::new(),
            contained: true,
        }
    }

    fn report(devices: Vec<Status>) -> Report {
        let vms = devices.into_iter().map(|device| VmReport {
            name: device.vm.clone(),
            device_pid: Some(1),
            restarts: 0,
            vmm_pid: None,
            needs_restart: false,
            device: Some(device),
            error: None,
        });
        Report {
            trust_domain: "car.example".into(),
            supervisor: 1,
            supervised: true,
            development: true,
            policy: "/p.toml".into(),
            vms: vms.collect(),
        }
    }

    #[test]
    fn what_needs_attention_is_in_the_notes() {
        let mut late = device(8);
        late.out_of_service = Some("an SVID has ended; renew it".into());
        late.contained = false;
        late.channels[0].state = ChannelState::Ended;
        let text = report(vec![device(7), late]).as_text();
        for said in [
            "SERIALS 7 and 8",
            "CRL until 2029-01-01T00:00:00Z",
            "1/1",
            "2030-01-02T03:04:05Z",
            "OUT OF SERVICE: an SVID has ended",
            "1 ended by the policy",
            "NOT CONTAINED",
        ] {
            assert!(text.contains(said), "{said} is not in\n{text}");
        }
    }

    #[test]
    fn the_details_name_sessions_and_pairings() {
        let report = report(vec![device(7)]);
        let sessions = report.sessions();
        assert!(
            sessions.contains("ivi  7        camera   yes     2028-01-01T00:00:00Z  2"),
            "{sessions}"
        );
        let pairings = report.pairings();
        assert!(
            pairings.contains("open   00000000000000ff  1234 us"),
            "{pairings}"
        );
    }
}
