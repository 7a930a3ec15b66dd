//! The state of a device process, as an operator sees it.

use std::time::{Duration, Instant, SystemTime};

use sivshm_abi::frame::Reason;
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_policy::plan::{Channel, ChannelIndex, ServiceRef};

use crate::admin_wire::{
    ChannelState, ChannelStatus, CrlStatus, LinkStatus, PairingState, PairingStatus, PeerStatus,
    SessionStatus, Status, VmmStatus,
};
use crate::args::Mode;
use crate::audit::{hex, rfc3339};
use crate::run::EventLoop;
use crate::run::mediation::Pairing;

impl EventLoop<'_> {
    pub(super) fn status(&self, now: Instant) -> Status {
        let sessions = &self.control.sessions;
        let service = |at| self.vm.services.get(at);
        let plan = &self.held.plan;
        let (serial, digest) = self.held.policy_in_force();
        Status {
            vm: self.vm.name.as_str().to_owned(),
            trust_domain: plan.trust_domain.as_str().to_owned(),
            instance: hex(&self.held.instance),
            uptime_ms: millis(now.saturating_duration_since(self.started)),
            development: self.held.config.mode == Mode::Development,
            policy_serial: serial,
            policy_digest: digest.to_string(),
            svid_not_after: date(self.held.credentials().not_after()),
            crl: self.crl(),
            out_of_service: self.lifetime.over().map(|reason| reason.words().to_owned()),
            vmm: self.launcher.vmm().map(|vmm| VmmStatus {
                pid: vmm.pid,
                program: vmm.program.clone(),
                port: self.port.is_some(),
                driver: sessions.driver(),
            }),
            sessions: sessions
                .live()
                .map(|(id, session)| SessionStatus {
                    session: id.0,
                    service: service(session.service)
                        .map(|service| service.name.as_str().to_owned())
                        .unwrap_or_default(),
                    proved: session.proof().is_some(),
                    svid_not_after: session.proof().map(|proof| date(proof.not_after())),
                    pid: session.facts.pid,
                    uid: session.facts.uid,
                    grants: u32::try_from(session.grants()).unwrap_or(u32::MAX),
                })
                .collect(),
            channels: self
                .own_channels()
                .map(|(at, channel)| ChannelStatus {
                    name: channel.name.as_str().to_owned(),
                    from: self.service_name(&channel.from),
                    to: channel.to.iter().map(|to| self.service_name(to)).collect(),
                    state: self.channel_state(at, channel),
                    pairings: self.mediation.of_channel(at).map(pairing_status).collect(),
                })
                .collect(),
            peers: self
                .peers
                .list()
                .enumerate()
                .map(|(at, (vm, dials, link, error))| PeerStatus {
                    vm: vm.as_str().to_owned(),
                    dials,
                    link: link.map(|link| LinkStatus {
                        ring_id: link.ring.0,
                        handshake_us: micros(link.handshake),
                        age_ms: millis(now.saturating_duration_since(link.since)),
                        needs_relaunch: self
                            .launcher
                            .launched_with(at)
                            .is_some_and(|launched| launched != link.instance),
                    }),
                    last_error: error.map(str::to_owned),
                })
                .collect(),
            contained: sessions.contained(now),
        }
    }

    fn channel_state(&self, at: ChannelIndex, channel: &Channel) -> ChannelState {
        match self.mediation.over(at) {
            Some(Reason::Policy) => return ChannelState::Ended,
            Some(_) => return ChannelState::Revoked,
            None => {}
        }
        let here = |end: &ServiceRef| end.vm == self.held.me;
        let writes = here(&channel.from);
        let waits = self.vm.peers.iter().enumerate().any(|(number, peer)| {
            let other = match writes {
                true => channel.to.iter().any(|to| to.vm == peer.vm),
                false => channel.from.vm == peer.vm,
            };
            other && self.peers.link(number).is_none()
        });
        let mut pairings = self.mediation.of_channel(at);
        if pairings.any(|pairing| pairing.live().is_some()) {
            ChannelState::Granted
        } else if waits {
            ChannelState::WaitingForPeer
        } else {
            ChannelState::Ready
        }
    }

    fn crl(&self) -> CrlStatus {
        let until = self.held.credentials().crl_next_update();
        CrlStatus {
            next_update: until.map(date).unwrap_or_default(),
        }
    }

    fn service_name(&self, of: &ServiceRef) -> String {
        let vm = self.held.plan.vm_at(of.vm);
        let vm = vm.map(|vm| vm.name.as_str()).unwrap_or_default();
        format!("{vm}/{}", of.service)
    }
}

fn pairing_status(pairing: &Pairing) -> PairingStatus {
    let live = pairing.live();
    PairingStatus {
        reader: name(pairing.planned().reader),
        state: match live {
            Some(_) => PairingState::Open,
            None if pairing.is_opening() => PairingState::Opening,
            None if pairing.is_wanted() => PairingState::Wanted,
            None => PairingState::Idle,
        },
        epoch: live.map(|live| format!("{:016x}", live.agreement.epoch())),
        handshake_us: live.and_then(|live| live.handshake).map(micros),
    }
}

/// A service as `VM/SERVICE`.
fn name(id: SpiffeId) -> String {
    match id.subject {
        Subject::Device(vm) => vm.to_string(),
        Subject::Service(vm, service) => format!("{vm}/{service}"),
    }
}

/// A time in words. One that has no date was never judged to be valid.
fn date(of: SystemTime) -> String {
    rfc3339(of).unwrap_or_default()
}

/// Whole microseconds.
fn micros(of: Duration) -> u64 {
    u64::try_from(of.as_micros()).unwrap_or(u64::MAX)
}

/// Whole milliseconds.
fn millis(of: Duration) -> u64 {
    u64::try_from(of.as_millis()).unwrap_or(u64::MAX)
}
