//! Who may take the VM's port, and what that starts and ends (DESIGN section 6).

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

use sivshm_sys::socket::PeerCredentials;

use super::poller::{Interest, Source};
use super::{EventLoop, RunError};
use crate::audit::{Blame, Decision, Entry, Event};
use crate::run::outbox::Flushed;
use crate::vmm::port::{PortClient, PortError, SetUp};

impl EventLoop<'_> {
    /// A process connects to the port: only the one that launched may, and only once at a time.
    pub(super) fn welcome_vmm(
        &mut self,
        connection: OwnedFd,
        who: PeerCredentials,
        now: Instant,
    ) -> Result<(), RunError> {
        let reason = match self.launcher.vmm() {
            _ if who.uid != self.held.my_ids.vmm_uid => "it is not the user of this VM's VMM",
            None => "no VMM was launched: start it with `sivshm run`",
            Some(vmm) if vmm.pid != who.pid => "it is not the process that was launched",
            Some(_) if self.port.is_some() => "the port is taken",
            Some(_) => return self.take_port(connection, who, now),
        };
        Ok(self.audit.record_limited(
            Entry {
                event: Event::Port,
                decision: Decision::Deny,
                blame: Blame::Guest,
                who: &process(who),
                what: "port",
                reason,
            },
            now,
        )?)
    }

    /// Starts the conversation with the VMM; everything that was before it is forgotten.
    fn take_port(
        &mut self,
        connection: OwnedFd,
        who: PeerCredentials,
        now: Instant,
    ) -> Result<(), RunError> {
        self.audit.record(Entry {
            event: Event::Port,
            decision: Decision::Allow,
            blame: Blame::Nobody,
            who: &process(who),
            what: "port",
            reason: "it is the process that was launched",
        })?;
        self.launcher.publish(self.held)?;
        self.control.start();
        let vectors: Vec<_> = self.held.vectors.iter().map(|fd| fd.as_fd()).collect();
        let links = (0..self.vm.peers.len()).filter_map(|peer| self.peers.link(peer));
        let set_up = SetUp {
            memory: self.held.control.file.as_fd(),
            kick: self.held.kick.as_fd(),
            peers: links.map(|link| (link.ring, link.doorbell())).collect(),
            vectors: &vectors,
        };
        match PortClient::new(connection, set_up) {
            Ok(client) => {
                self.poller.watch(&client, Source::Port, Interest::Read)?;
                self.port = Some(client);
                self.after_port(Ok(()), now)
            }
            Err(error) => self.end_port(&error),
        }
    }

    /// The VMM's socket is ready.
    pub(super) fn on_port_ready(&mut self, now: Instant) -> Result<(), RunError> {
        match &self.port {
            Some(port) => {
                let state = port.readable();
                self.after_port(state, now)
            }
            None => Ok(()),
        }
    }

    /// Sends what waits for the VMM, or ends the conversation if `said` has failed.
    pub(super) fn after_port(
        &mut self,
        said: Result<(), PortError>,
        now: Instant,
    ) -> Result<(), RunError> {
        let Some(port) = &mut self.port else {
            return Ok(());
        };
        match said.and_then(|()| port.flush()) {
            Ok(flushed) => {
                let interest = match flushed {
                    Flushed::Full => Interest::ReadWrite,
                    Flushed::All | Flushed::TooManyRights => Interest::Read,
                };
                self.poller.change(&*port, Source::Port, interest)?;
                self.launcher.try_port_again(flushed, now);
                Ok(())
            }
            Err(error) => self.end_port(&error),
        }
    }

    /// The VMM has left the port: its guest's sessions are gone.
    pub(super) fn end_port(&mut self, why: &PortError) -> Result<(), RunError> {
        self.port = None;
        self.control.stop();
        Ok(self.audit.record(Entry {
            event: Event::Port,
            decision: Decision::End,
            blame: match why {
                PortError::Closed => Blame::Nobody,
                _ => Blame::Guest,
            },
            who: "VMM",
            what: "port",
            reason: &why.to_string(),
        })?)
    }
}

/// A process of the host in words.
pub(super) fn process(who: PeerCredentials) -> String {
    format!("process {} of user {}", who.pid, who.uid)
}
