//! Launching the VMM: who may, what it gets, and when (DESIGN section 6, [`crate::launch_wire`]).
//!
//! The windows are handed out when every peer is established, because a running VMM can't be given
//! more. They go to the VM's own VMM only; what a peer gets is decided elsewhere
//! ([`super::admission::link_terms`]).

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

use sivshm_abi::directory::{DirectoryHead, WindowEntry};
use sivshm_abi::limits::{MAX_GRANTS, MAX_PCI_WINDOWS, MAX_SESSIONS};
use sivshm_policy::plan::Window;
use sivshm_sys::socket::PeerCredentials;

use super::admission;
use super::limits::{LAUNCH_WITHIN, RIGHTS_AGAIN};
use super::line::{Heard, LineConnection};
use super::outbox::{Flushed, Right};
use super::poller::{ConnectionId, Interest, Source};
use super::port::process;
use super::{EventLoop, RunError};
use crate::audit::{Blame, Decision, Entry, Event};
use crate::held::Held;
use crate::launch_wire::{
    LAUNCH_VERSION, LaunchAnswer, LaunchPlace, LaunchRequest, LaunchWindow, MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES, VmmKind,
};
use crate::vmm::directory::{self, DirectoryError};
use crate::vmm::place;
use crate::vmm::port::PortError;

/// Connections on the launch socket: the VMM's sign of life, one launch that waits, and some that
/// are refused. All are root's.
const MAX_CONNECTIONS: usize = 8;

/// Launch connections and the VMM behind one of them.
#[derive(Debug, Default)]
pub(super) struct Launcher<'h> {
    connections: BTreeMap<ConnectionId, LineConnection<'h>>,
    waiting: Option<Waiting>,
    vmm: Option<Vmm>,
    directories: u64,
    port_again: Option<Instant>,
}

/// A launch that waits for peers.
#[derive(Debug)]
struct Waiting {
    connection: ConnectionId,
    request: LaunchRequest,
    until: Instant,
}

/// A VMM that was launched.
#[derive(Debug)]
pub(super) struct Vmm {
    connection: ConnectionId,
    /// The process that launched it, and became it.
    pub(super) pid: i32,
    /// What the launcher said it would execute.
    pub(super) program: String,
    /// For each peer, the run whose slices the VMM was given.
    peers: Vec<Option<[u8; 16]>>,
    head: DirectoryHead,
    windows: Vec<WindowEntry>,
}

impl Launcher<'_> {
    /// The VMM that was launched, while it lives.
    pub(super) const fn vmm(&self) -> Option<&Vmm> {
        self.vmm.as_ref()
    }

    /// The run of a peer whose slices the VMM has.
    pub(super) fn launched_with(&self, peer: usize) -> Option<[u8; 16]> {
        *self.vmm.as_ref()?.peers.get(peer)?
    }

    fn stay(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stay();
        }
    }

    /// When something has to be done although nothing is ready.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let silent = self.connections.values();
        let silent = silent.filter_map(LineConnection::deadline);
        let waiting = self.waiting.as_ref().map(|waiting| waiting.until);
        silent.chain(waiting).chain(self.port_again).min()
    }

    /// Notes whether the port's descriptors have to be sent again later.
    pub(super) fn try_port_again(&mut self, flushed: Flushed, now: Instant) {
        self.port_again = (flushed == Flushed::TooManyRights).then(|| now + RIGHTS_AGAIN);
    }

    /// Writes the directory of the launched VMM; a guest may have written over it.
    pub(super) fn publish(&self, held: &Held) -> Result<(), DirectoryError> {
        match &self.vmm {
            Some(vmm) => {
                let memory = held.control.mapping.shared();
                directory::publish(memory, &vmm.head, &vmm.windows)
            }
            None => directory::erase(held.control.mapping.shared()),
        }
    }
}

/// Everything that a launched VMM is told.
struct Windows<'h> {
    answer: Vec<LaunchWindow>,
    lines: Vec<WindowEntry>,
    rights: Vec<Right<'h>>,
}

impl<'h> EventLoop<'h> {
    /// A process connects to the launch socket.
    pub(super) fn welcome_launcher(
        &mut self,
        connection: OwnedFd,
        who: PeerCredentials,
        id: ConnectionId,
        now: Instant,
    ) -> Result<(), RunError> {
        let full = self.launcher.connections.len() >= MAX_CONNECTIONS;
        if full || !admission::may_operate(who, self.held) {
            let reason = "only root may launch, and only a few times at once";
            return self.launch_denied(&process(who), reason, now);
        }
        self.poller
            .watch(&connection, Source::Launch(id), Interest::Read)?;
        let bounds = (MAX_REQUEST_BYTES, MAX_ANSWER_BYTES + MAX_ANSWER_BYTES);
        let connection = LineConnection::new(connection, who, bounds.0, bounds.1, now);
        self.launcher.connections.insert(id, connection);
        Ok(())
    }

    /// A launch connection has become readable.
    pub(super) fn on_launch_ready(
        &mut self,
        id: ConnectionId,
        now: Instant,
    ) -> Result<(), RunError> {
        let Some(connection) = self.launcher.connections.get_mut(&id) else {
            return Ok(());
        };
        let who = process(connection.who());
        match connection.read() {
            Heard::Part => self.flush_launch(id),
            Heard::End => self.end_launch(id, now),
            Heard::Line(line) => match self.check_launch(&line) {
                Ok(request) => {
                    // From now on the launch has a time limit of its own, and then the VMM lives.
                    self.launcher.stay(id);
                    self.launcher.waiting = Some(Waiting {
                        connection: id,
                        request,
                        until: now + LAUNCH_WITHIN,
                    });
                    self.answer_waiting_launch(now)
                }
                Err(reason) => {
                    self.launch_denied(&who, &reason, now)?;
                    self.refuse_launch(id, reason, Vec::new())
                }
            },
        }
    }

    /// Whether a request can be served at all.
    fn check_launch(&self, line: &[u8]) -> Result<LaunchRequest, String> {
        let request: LaunchRequest = serde_json::from_slice(line)
            .map_err(|error| format!("the request can't be read: {error}"))?;
        if request.version != LAUNCH_VERSION {
            return Err(format!(
                "only version {LAUNCH_VERSION} of a launch is spoken"
            ));
        }
        if let Some(vmm) = &self.launcher.vmm {
            return Err(format!("process {} runs this VM already", vmm.pid));
        }
        if self.launcher.waiting.is_some() {
            return Err("another launch of this VM waits for its peers".to_owned());
        }
        if request.vmm == VmmKind::Qemu && self.vm.windows.len() > MAX_PCI_WINDOWS {
            return Err(format!(
                "the policy gives this VM {} windows, and a VMM can show {MAX_PCI_WINDOWS}",
                self.vm.windows.len()
            ));
        }
        Ok(request)
    }

    /// Answers the launch that waits, if every peer is established now.
    pub(super) fn answer_waiting_launch(&mut self, now: Instant) -> Result<(), RunError> {
        let complete = (0..self.vm.peers.len()).all(|peer| self.peers.link(peer).is_some());
        let Some(waiting) = self.launcher.waiting.take_if(|_| complete) else {
            return Ok(());
        };
        let id = waiting.connection;
        let Some(windows) = self.windows() else {
            return self.refuse_launch(id, "a peer did not give its slices".into(), Vec::new());
        };
        let Some(who) = self.launcher.connections.get(&id).map(LineConnection::who) else {
            return Ok(());
        };
        let answer = LaunchAnswer::Launched {
            vm: self.vm.name.as_str().to_owned(),
            vectors: u16::try_from(self.held.vectors.len()).unwrap_or(u16::MAX),
            windows: windows.answer,
        };
        self.audit.record(Entry {
            event: Event::Launch,
            decision: Decision::Allow,
            blame: Blame::Nobody,
            who: &process(who),
            what: &format!(
                "{} windows for {}",
                windows.lines.len(),
                waiting.request.program
            ),
            reason: "it may operate this VM, and every peer is established",
        })?;
        self.launcher.directories += 1;
        let peers = (0..self.vm.peers.len()).map(|peer| Some(self.peers.link(peer)?.instance));
        self.launcher.vmm = Some(Vmm {
            connection: id,
            pid: who.pid,
            program: waiting.request.program,
            peers: peers.collect(),
            head: self.directory_head(windows.lines.len()),
            windows: windows.lines,
        });
        self.launcher.publish(self.held)?;
        self.answer_launch(id, &answer, &windows.rights)?;
        self.renew_links(now)
    }

    fn directory_head(&self, windows: usize) -> DirectoryHead {
        let count = |of: usize| u16::try_from(of).unwrap_or(u16::MAX);
        DirectoryHead {
            vm: self.vm.name,
            instance: self.held.instance,
            generation: self.launcher.directories,
            vectors: count(self.held.vectors.len()),
            windows: count(windows),
            max_sessions: count(MAX_SESSIONS),
            max_grants: count(MAX_GRANTS),
        }
    }

    /// All windows of the VM with their descriptors; none while a slice of a peer is not there.
    fn windows(&self) -> Option<Windows<'h>> {
        let mut windows = Windows {
            answer: Vec::new(),
            lines: Vec::new(),
            rights: Vec::new(),
        };
        for (number, window) in self.vm.windows.iter().enumerate() {
            let (generation, right) = self.window_right(*window)?;
            let bytes = self.held.plan.slice(window.slice)?.bytes;
            let place = place::window(number);
            windows.answer.push(LaunchWindow {
                slice: window.slice.0,
                bytes,
                writable: window.access.writable(),
                place: place.map(|place| LaunchPlace {
                    root: place.root,
                    function: place.function,
                }),
            });
            windows.lines.push(WindowEntry {
                slice: window.slice,
                access: window.access,
                place,
                bytes,
                generation,
            });
            windows.rights.push(right);
        }
        Some(windows)
    }

    fn window_right(&self, window: Window) -> Option<(sivshm_abi::grant::Generation, Right<'h>)> {
        if !window.access.writable() {
            return self.peers.slice(window.slice);
        }
        let mut own = self.held.slices.iter();
        let own = own.find(|slice| slice.id == window.slice)?;
        Some((own.generation, Right::Own(own.file.as_fd())))
    }

    /// Ends launches that wait too long, and connections that say nothing.
    pub(super) fn on_launch_time(&mut self, now: Instant) -> Result<(), RunError> {
        let late = |waiting: &mut Waiting| waiting.until <= now;
        if let Some(waiting) = self.launcher.waiting.take_if(late) {
            let missing = self.peers.list().filter(|(_, _, link, _)| link.is_none());
            let missing: Vec<_> = missing.map(|(vm, ..)| vm.as_str().to_owned()).collect();
            let reason = format!(
                "not established within {} s: {}; see `sivshm status`",
                LAUNCH_WITHIN.as_secs(),
                missing.join(", ")
            );
            self.launch_denied(&waiting.request.program, &reason, now)?;
            self.refuse_launch(waiting.connection, reason, missing)?;
        }
        let connections = &mut self.launcher.connections;
        connections.retain(|_, connection| !connection.expired(now));
        if self.launcher.port_again.is_some_and(|at| at <= now) {
            self.launcher.port_again = None;
            self.after_port(Ok(()), now)?;
        }
        Ok(())
    }

    /// A launch connection has closed: if it was the VMM's, the VMM is gone.
    fn end_launch(&mut self, id: ConnectionId, now: Instant) -> Result<(), RunError> {
        self.launcher.connections.remove(&id);
        self.launcher
            .waiting
            .take_if(|waiting| waiting.connection == id);
        let Some(vmm) = self.launcher.vmm.take_if(|vmm| vmm.connection == id) else {
            return Ok(());
        };
        if self.port.is_some() {
            self.end_port(&PortError::Closed)?;
        }
        self.launcher.publish(self.held)?;
        self.audit.record(Entry {
            event: Event::Launch,
            decision: Decision::End,
            blame: Blame::Nobody,
            who: &format!("process {}", vmm.pid),
            what: &vmm.program,
            reason: "the VMM is gone",
        })?;
        self.renew_links(now)
    }

    fn launch_denied(&mut self, who: &str, reason: &str, now: Instant) -> Result<(), RunError> {
        Ok(self.audit.record_limited(
            Entry {
                event: Event::Launch,
                decision: Decision::Deny,
                blame: Blame::Host,
                who,
                what: "windows",
                reason,
            },
            now,
        )?)
    }

    fn refuse_launch(
        &mut self,
        id: ConnectionId,
        reason: String,
        missing: Vec<String>,
    ) -> Result<(), RunError> {
        self.answer_launch(id, &LaunchAnswer::Refused { reason, missing }, &[])?;
        self.launcher.connections.remove(&id);
        Ok(())
    }

    fn answer_launch(
        &mut self,
        id: ConnectionId,
        answer: &LaunchAnswer,
        rights: &[Right<'h>],
    ) -> Result<(), RunError> {
        if let Some(connection) = self.launcher.connections.get_mut(&id) {
            let line = serde_json::to_vec(answer).map_err(std::io::Error::other)?;
            let answered = connection.answer(line, rights);
            answered.map_err(std::io::Error::other)?;
        }
        self.flush_launch(id)
    }

    /// Sends what waits for a launcher; one that is gone is noticed when its socket is read.
    fn flush_launch(&mut self, id: ConnectionId) -> Result<(), RunError> {
        if let Some(connection) = self.launcher.connections.get_mut(&id) {
            let interest = match connection.flush() {
                Ok(Flushed::All) | Err(_) => Interest::Read,
                Ok(Flushed::Full | Flushed::TooManyRights) => Interest::ReadWrite,
            };
            self.poller
                .change(&*connection, Source::Launch(id), interest)?;
        }
        Ok(())
    }
}
