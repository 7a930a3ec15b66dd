//! The event loop of a device process (DESIGN sections 5 to 9): one thread, one epoll, and a
//! bounded amount of work for each wake-up.
//!
//! [`peers`] holds the links with other device processes, [`sessions`] what the guest's processes
//! were granted; [`admission`] decides about both. [`launch`] and [`port`] serve the VMM,
//! [`admin`] the operator. What they tell each other goes through [`EventLoop`].

mod admin;
pub mod admission;
pub mod bucket;
mod control;
mod inventory;
mod launch;
pub mod limits;
mod line;
pub mod outbox;
mod peer_link;
mod peers;
mod poller;
mod port;
mod sessions;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use sivshm_abi::frame::Reason;
use sivshm_abi::grant::Generation;
use sivshm_policy::plan::{Channel, ChannelIndex, Vm};
use sivshm_ring::OutOfBounds;
use sivshm_ring::frames::{ControlRings, Side};
use sivshm_sys::{clock, socket};

use crate::args::Mode;
use crate::audit::{Audit, AuditError, Blame, Decision, Entry, Event};
use crate::confined::Confined;
use crate::held::Held;
use crate::vmm::directory::DirectoryError;
use crate::vmm::port::PortClient;
use admission::{Link, Scope};
use control::Control;
use inventory::{Inventory, InventoryError};
use launch::Launcher;
use line::LineConnection;
use peers::{PeerEvent, Peers};
use poller::{ConnectionId, Door, Interest, Listener, Poller, Source};
use sessions::Sessions;

/// Connections accepted from one listening socket each time it wakes the loop.
const ACCEPTS_PER_WAKE: usize = 32;

/// Why the device process had to end. All are faults of the host or of its operator; what peers
/// and guests do wrong ends their connections and rings only.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A record could not be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The host refused a system call that can't be done without.
    #[error("host: the event loop can't go on")]
    Host(#[from] io::Error),
    /// What was opened is not what the policy needs.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// The control memory is smaller than its layout.
    #[error("host: the control memory is too small for its rings")]
    Control(#[from] OutOfBounds),
    /// The directory could not be written.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The policy does not have the VM, or not all of its vectors were made.
    #[error("host: the device process was not given what its VM needs; start it again")]
    Incomplete,
}

/// Serves a VM until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`]; everything that was shared is taken back then, because the process ends.
pub fn run(confined: Confined) -> Result<(), RunError> {
    let held = confined.into_held();
    let mut event_loop = EventLoop::new(&held, Instant::now())?;
    let ended = event_loop.serve();
    event_loop.leave(Instant::now())?;
    ended
}

/// Everything that changes while a device process runs.
struct EventLoop<'h> {
    held: &'h Held,
    vm: &'h Vm,
    started: Instant,
    poller: Poller,
    audit: Audit<'h>,
    peers: Peers<'h>,
    control: Control<'h>,
    /// For each peer, its link if grants may use it.
    links: Vec<Option<Link>>,
    port: Option<PortClient<'h>>,
    launcher: Launcher<'h>,
    admin: BTreeMap<ConnectionId, LineConnection<'h>>,
    doors: [Listener<'h>; 4],
    last_connection: ConnectionId,
    ending: bool,
}

impl<'h> EventLoop<'h> {
    fn new(held: &'h Held, now: Instant) -> Result<Self, RunError> {
        let vm = held.plan.vm_at(held.me).ok_or(RunError::Incomplete)?;
        let vector = held.vectors.first().ok_or(RunError::Incomplete)?;
        if held.vectors.len() != 1 + vm.peers.len() {
            return Err(RunError::Incomplete);
        }
        let mut audit = Audit::new(&held.audit, &held.clock, vm.name, held.host_boot, held.instance, now);
        record_start(held, &mut audit)?;
        let poller = Poller::new()?;
        poller.watch(&held.signals, Source::Signals, Interest::Read)?;
        poller.watch(&held.kick, Source::Kick, Interest::Edge)?;
        let rings = ControlRings::new(held.control.mapping.shared(), Side::Host)?;
        let sessions = Sessions::new(Generation(clock::since_boot()?), now);
        let listeners = &held.listeners;
        let door = |socket, door| Listener::new(socket, door, &poller);
        let doors = [
            door(&listeners.peer, Door::Peer)?,
            door(&listeners.port, Door::Port)?,
            door(&listeners.launch, Door::Launch)?,
            door(&listeners.admin, Door::Admin)?,
        ];
        Ok(Self {
            held,
            vm,
            started: now,
            audit,
            peers: Peers::new(held, vm, Inventory::new(held, vm)?, now),
            control: Control::new(sessions, rings, &held.kick, vector, now),
            links: vec![None; vm.peers.len()],
            port: None,
            launcher: Launcher::default(),
            admin: BTreeMap::new(),
            doors,
            poller,
            last_connection: ConnectionId::ZERO,
            ending: false,
        })
    }

    fn serve(&mut self) -> Result<(), RunError> {
        self.on_time(Instant::now())?;
        while !self.ending {
            let deadline = self.deadline();
            let ready = self.poller.wait(deadline)?;
            // What peers sent may be dropped by whatever is done next.
            let _ticking = self.held.tick.start()?;
            let now = Instant::now();
            for source in ready {
                self.on_ready(source, now)?;
            }
            self.on_time(now)?;
        }
        Ok(())
    }

    fn on_ready(&mut self, source: Source, now: Instant) -> Result<(), RunError> {
        match source {
            Source::Signals => {
                self.ending = matches!(self.held.signals.read_signal(), Ok(Some(_)));
                Ok(())
            }
            Source::Kick => self.serve_guest(now),
            Source::Listener(door) => self.accept(door, now),
            Source::Peer(id) => {
                let events = self
                    .peers
                    .on_ready(id, &self.poller, &mut self.audit, now)?;
                self.on_peer_events(events, now)
            }
            Source::Port => self.on_port_ready(now),
            Source::Launch(id) => self.on_launch_ready(id, now),
            Source::Admin(id) => self.on_admin_ready(id, now),
        }
    }

    /// The next moment at which something has to be done although nothing is ready.
    fn deadline(&self) -> Option<Instant> {
        let doors = self.doors.iter().filter_map(Listener::deadline);
        let admin = self.admin.values();
        let admin = admin.filter_map(LineConnection::deadline);
        let others = [
            self.peers.deadline(),
            self.control.deadline(),
            self.launcher.deadline(),
        ];
        doors.chain(admin).chain(others.into_iter().flatten()).min()
    }

    fn on_time(&mut self, now: Instant) -> Result<(), RunError> {
        for door in &mut self.doors {
            door.on_time(&self.poller, now)?;
        }
        self.admin
            .retain(|_, connection| !connection.expired(now));
        let events = self.peers.on_time(&self.poller, &mut self.audit, now)?;
        self.on_peer_events(events, now)?;
        self.on_launch_time(now)?;
        if self.control.deadline().is_some_and(|at| at <= now) {
            self.serve_guest(now)?;
        }
        Ok(())
    }

    fn accept(&mut self, door: Door, now: Instant) -> Result<(), RunError> {
        for _ in 0..ACCEPTS_PER_WAKE {
            let at = match door {
                Door::Peer => 0,
                Door::Port => 1,
                Door::Launch => 2,
                Door::Admin => 3,
            };
            let Some(listener) = self.doors.get_mut(at) else {
                return Ok(());
            };
            let Some(socket) = listener.accept(&self.poller, now)? else {
                return Ok(());
            };
            self.last_connection = self.last_connection.next();
            self.welcome(door, socket, self.last_connection, now)?;
        }
        Ok(())
    }

    fn welcome(
        &mut self,
        door: Door,
        connection: OwnedFd,
        id: ConnectionId,
        now: Instant,
    ) -> Result<(), RunError> {
        // A connection whose other end can't be named is dropped.
        let Ok(who) = socket::peer_credentials(&connection) else {
            return Ok(());
        };
        match door {
            Door::Peer => {
                let (poller, audit) = (&self.poller, &mut self.audit);
                Ok(self.peers.accept(connection, who, poller, audit, now)?)
            }
            Door::Port => self.welcome_vmm(connection, who, now),
            Door::Launch => self.welcome_launcher(connection, who, id, now),
            Door::Admin => self.welcome_operator(connection, who, id, now),
        }
    }

    fn on_peer_events(&mut self, events: Vec<PeerEvent>, now: Instant) -> Result<(), RunError> {
        for event in events {
            match event {
                PeerEvent::Established(peer) => self.on_peer_established(peer, now)?,
                PeerEvent::Lost(peer, ring) => {
                    if let Some(link) = self.links.get_mut(peer) {
                        *link = None;
                    }
                    if let Some(port) = &mut self.port {
                        let told = port.leave(ring);
                        self.after_port(told, now)?;
                    }
                    self.revoke_with_peer(peer, now)?;
                }
                PeerEvent::Revoke(peer, channel) => self.on_peer_revoked(peer, channel, now)?,
            }
        }
        Ok(())
    }

    fn on_peer_established(&mut self, peer: usize, now: Instant) -> Result<(), RunError> {
        if let (Some(port), Some(link)) = (&mut self.port, self.peers.link(peer)) {
            let told = port.join(link.ring, link.doorbell());
            self.after_port(told, now)?;
        }
        for (at, channel) in self.channels_with(peer) {
            if self.control.sessions.is_revoked(at) {
                self.peers.revoke(peer, channel.name, &self.poller, now);
            }
        }
        self.renew_links(now)?;
        self.answer_waiting_launch(now)
    }

    /// A peer's operator has ended a channel: it ends here too.
    fn on_peer_revoked(
        &mut self,
        peer: usize,
        channel: ChannelIndex,
        now: Instant,
    ) -> Result<(), RunError> {
        let name = self.held.plan.channel(channel).map(|channel| channel.name);
        let who = self.peers.link(peer).map(|link| link.peer.id());
        if let (Some(name), Some(who), false) =
            (name, who, self.control.sessions.is_revoked(channel))
        {
            self.audit.record(Entry {
                event: Event::Revoke,
                decision: Decision::End,
                blame: Blame::Nobody,
                who: &who.to_string(),
                what: &format!("channel {name}"),
                reason: "the peer's operator revoked it",
            })?;
        }
        self.revoke_for_good(channel, Some(peer), now)?;
        Ok(())
    }

    /// Notes which links grants may use, and grants what has become possible.
    ///
    /// A VMM can't be given another memory while it runs: a peer that has started again since the
    /// launch is of no use to it.
    fn renew_links(&mut self, now: Instant) -> Result<(), RunError> {
        for (at, usable) in self.links.iter_mut().enumerate() {
            let launched = self.launcher.launched_with(at);
            *usable = self
                .peers
                .link(at)
                .filter(|link| launched == Some(link.instance))
                .map(|link| Link {
                    ring: link.ring,
                    epochs: link.epochs.clone(),
                });
        }
        let scope = Scope {
            plan: &self.held.plan,
            vm: self.vm,
            links: &self.links,
        };
        self.control.sessions.grant(&scope, &mut self.audit)?;
        self.serve_guest(now)
    }

    fn serve_guest(&mut self, now: Instant) -> Result<(), RunError> {
        let scope = Scope {
            plan: &self.held.plan,
            vm: self.vm,
            links: &self.links,
        };
        Ok(self.control.serve(&scope, &mut self.audit, now)?)
    }

    /// Takes back every grant of the channels with a peer that is gone.
    fn revoke_with_peer(&mut self, peer: usize, now: Instant) -> Result<(), RunError> {
        let ended: Vec<_> = self.channels_with(peer).map(|(at, _)| at).collect();
        self.revoke(|channel| ended.contains(&channel), Reason::PeerGone, now)?;
        Ok(())
    }

    fn revoke(
        &mut self,
        ended: impl Fn(ChannelIndex) -> bool,
        reason: Reason,
        now: Instant,
    ) -> Result<u32, RunError> {
        let scope = Scope {
            plan: &self.held.plan,
            vm: self.vm,
            links: &self.links,
        };
        let sessions = &mut self.control.sessions;
        let revoked = sessions.revoke(&scope, ended, reason, &mut self.audit, now);
        // The guest is told even if the record could not be written.
        self.serve_guest(now)?;
        Ok(revoked?)
    }

    /// Ends a channel for the life of this process, and tells the peers at its other ends, but not
    /// the one that said so. Returns how many grants that ended.
    fn revoke_for_good(
        &mut self,
        channel: ChannelIndex,
        said_by: Option<usize>,
        now: Instant,
    ) -> Result<u32, RunError> {
        if self.control.sessions.is_revoked(channel) {
            return Ok(0);
        }
        self.control.sessions.never_again(channel);
        let revoked = self.revoke(|ended| ended == channel, Reason::Admin, now);
        for peer in 0..self.vm.peers.len() {
            let mut shared = self.channels_with(peer);
            let shared = shared.find(|(at, _)| *at == channel);
            if let Some((_, channel)) = shared.filter(|_| said_by != Some(peer)) {
                self.peers.revoke(peer, channel.name, &self.poller, now);
            }
        }
        revoked
    }

    /// The channels that this VM shares with one of its peers.
    fn channels_with(
        &self,
        peer: usize,
    ) -> impl Iterator<Item = (ChannelIndex, &'h Channel)> + use<'h> {
        let (held, me) = (self.held, self.held.me);
        let peer = self.vm.peers.get(peer).map(|peer| peer.vm);
        admission::channels_between(&held.plan, me, peer)
    }

    /// The end: the guest and the peers are told, as far as they listen.
    fn leave(&mut self, now: Instant) -> Result<(), RunError> {
        let _ticking = self.held.tick.start()?;
        let revoked = self.revoke(|_| true, Reason::Closed, now);
        self.peers.leave();
        self.audit.record_uncounted()?;
        self.audit.record(Entry {
            event: Event::Process,
            decision: Decision::End,
            blame: Blame::Nobody,
            who: &self.held.plan.device_id(self.vm).to_string(),
            what: "device process",
            reason: "it was told to end, or can't go on",
        })?;
        revoked.map(|_| ())
    }
}

fn record_start(held: &Held, audit: &mut Audit<'_>) -> Result<(), RunError> {
    let vm = held.plan.vm_at(held.me).ok_or(RunError::Incomplete)?;
    let who = held.plan.device_id(vm).to_string();
    let mode = match held.config.mode {
        Mode::Production => "confined with users of its own",
        Mode::Development => "development mode: one user, a compromised VMM is not confined",
    };
    audit.record(Entry {
        event: Event::Process,
        decision: Decision::Allow,
        blame: Blame::Nobody,
        who: &who,
        what: "device process",
        reason: mode,
    })?;
    let what = format!(
        "policy serial {} digest {}",
        held.plan.serial, held.plan.digest
    );
    Ok(audit.record(Entry {
        event: Event::Policy,
        decision: Decision::Allow,
        blame: Blame::Nobody,
        who: &who,
        what: &what,
        reason: "the policy was read and compiled without an error",
    })?)
}

#[cfg(test)]
mod tests;
