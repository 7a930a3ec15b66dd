//! What an operator may ask: the state, and the end of a channel ([`crate::admin_wire`]).

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use sivshm_abi::name::ChannelName;
use sivshm_policy::plan::{Channel, ChannelIndex, ServiceRef};
use sivshm_sys::socket::PeerCredentials;

use super::admission::{self, Scope};
use super::line::{Heard, LineConnection};
use super::outbox::Flushed;
use super::poller::{ConnectionId, Interest, Source};
use super::port::process;
use super::{EventLoop, RunError};
use crate::admin_wire::{
    AdminAnswer, AdminRequest, ChannelState, ChannelStatus, LinkStatus, MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES, PeerStatus, SessionStatus, Status, VmmStatus,
};
use crate::args::Mode;
use crate::audit::{Blame, Decision, Entry, Event, hex};

/// Operators at a time; each is answered at once.
const MAX_CONNECTIONS: usize = 8;

impl EventLoop<'_> {
    /// A process connects to the admin socket.
    pub(super) fn welcome_operator(
        &mut self,
        connection: OwnedFd,
        who: PeerCredentials,
        id: ConnectionId,
        now: Instant,
    ) -> Result<(), RunError> {
        if self.admin.len() >= MAX_CONNECTIONS || !admission::may_operate(who, self.held) {
            return Ok(self.audit.record_limited(
                Entry {
                    event: Event::Admin,
                    decision: Decision::Deny,
                    blame: Blame::Host,
                    who: &process(who),
                    what: "admin socket",
                    reason: "only root may administer, and only a few at once",
                },
                now,
            )?);
        }
        self.poller
            .watch(&connection, Source::Admin(id), Interest::Read)?;
        let (question, answer) = (MAX_REQUEST_BYTES, MAX_ANSWER_BYTES);
        let connection = LineConnection::new(connection, who, question, answer, now);
        self.admin.insert(id, connection);
        Ok(())
    }

    /// An admin connection is ready.
    pub(super) fn on_admin_ready(
        &mut self,
        id: ConnectionId,
        now: Instant,
    ) -> Result<(), RunError> {
        let Some(connection) = self.admin.get_mut(&id) else {
            return Ok(());
        };
        let who = process(connection.who());
        match connection.read() {
            Heard::Part => {}
            Heard::End => {
                self.admin.remove(&id);
            }
            Heard::Line(line) => {
                let answer = match serde_json::from_slice(&line) {
                    Ok(AdminRequest::Status {}) => AdminAnswer::Status(self.status(now)),
                    Ok(AdminRequest::Revoke { channel }) => {
                        self.revoke_asked(&who, channel, now)?
                    }
                    Err(error) => AdminAnswer::Refused {
                        reason: format!("the request can't be read: {error}"),
                    },
                };
                self.answer_operator(id, &answer)?;
            }
        }
        self.flush_operator(id)
    }

    fn answer_operator(&mut self, id: ConnectionId, answer: &AdminAnswer) -> Result<(), RunError> {
        let line = serde_json::to_vec(answer).map_err(std::io::Error::other)?;
        if let Some(connection) = self.admin.get_mut(&id) {
            let answered = connection.answer(line, &[]);
            answered.map_err(std::io::Error::other)?;
        }
        Ok(())
    }

    fn flush_operator(&mut self, id: ConnectionId) -> Result<(), RunError> {
        let Some(connection) = self.admin.get_mut(&id) else {
            return Ok(());
        };
        match connection.flush() {
            Ok(Flushed::All) if !connection.heard() => {}
            Ok(Flushed::Full) => {
                let source = Source::Admin(id);
                self.poller
                    .change(&*connection, source, Interest::ReadWrite)?;
            }
            // Answered, or gone.
            Ok(_) | Err(_) => {
                self.admin.remove(&id);
            }
        }
        Ok(())
    }

    /// Revokes a channel because an operator asks for it.
    fn revoke_asked(
        &mut self,
        who: &str,
        name: String,
        now: Instant,
    ) -> Result<AdminAnswer, RunError> {
        let channel = ChannelName::new(&name).ok().and_then(|name| {
            let mut own = self.own_channels();
            own.find(|(_, channel)| channel.name == name)
        });
        let Some((channel, _)) = channel else {
            let reason = "this VM has no channel of that name".to_owned();
            return Ok(AdminAnswer::Refused { reason });
        };
        self.audit.record(Entry {
            event: Event::Admin,
            decision: Decision::Allow,
            blame: Blame::Nobody,
            who,
            what: &format!("revoke {name}"),
            reason: "it may administer this VM",
        })?;
        let grants = self.revoke_for_good(channel, None, now)?;
        Ok(AdminAnswer::Revoked {
            channel: name,
            grants,
        })
    }

    /// Channels that this VM takes part in.
    fn own_channels(&self) -> impl Iterator<Item = (ChannelIndex, &Channel)> {
        let me = self.held.me;
        let numbers = (0..=u16::MAX).map(ChannelIndex);
        numbers
            .zip(&self.held.plan.channels)
            .filter(move |(_, channel)| {
                channel.from.vm == me || channel.to.iter().any(|to| to.vm == me)
            })
    }

    fn status(&self, now: Instant) -> Status {
        let sessions = &self.control.sessions;
        let service = |at| self.vm.services.get(at);
        let plan = &self.held.plan;
        Status {
            vm: self.vm.name.as_str().to_owned(),
            trust_domain: plan.trust_domain.as_str().to_owned(),
            instance: hex(&self.held.instance),
            uptime_ms: millis(now.saturating_duration_since(self.started)),
            development: self.held.config.mode == Mode::Development,
            policy_serial: plan.serial,
            policy_digest: plan.digest.to_string(),
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
                        handshake_us: u64::try_from(link.handshake.as_micros()).unwrap_or(u64::MAX),
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
        let scope = Scope {
            plan: &self.held.plan,
            vm: self.vm,
            links: &self.links,
        };
        let here = |end: &ServiceRef| end.vm == self.held.me;
        let writes = here(&channel.from);
        let waits = self.vm.peers.iter().enumerate().any(|(number, peer)| {
            let other = match writes {
                true => channel.to.iter().any(|to| to.vm == peer.vm),
                false => channel.from.vm == peer.vm,
            };
            other && self.peers.link(number).is_none()
        });
        if self.control.sessions.is_revoked(at) {
            ChannelState::Revoked
        } else if self.control.sessions.is_granted(&scope, at) {
            ChannelState::Granted
        } else if waits {
            ChannelState::WaitingForPeer
        } else {
            ChannelState::Ready
        }
    }

    fn service_name(&self, of: &ServiceRef) -> String {
        let vm = self.held.plan.vm_at(of.vm);
        let vm = vm.map(|vm| vm.name.as_str()).unwrap_or_default();
        format!("{vm}/{}", of.service)
    }
}

/// Whole milliseconds.
fn millis(of: Duration) -> u64 {
    u64::try_from(of.as_millis()).unwrap_or(u64::MAX)
}
