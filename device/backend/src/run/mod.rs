//! The event loop of a device process (DESIGN sections 5 to 9): one thread, one epoll, and a
//! bounded amount of work for each wake-up.
//!
//! [`peers`] holds the links with other device processes, [`sessions`] the guest's services and what
//! they were granted, [`mediation`] the pairings between them; [`admission`] decides who gets what.
//! [`launch`] and [`port`] serve the VMM, [`admin`] the operator. What they tell each other goes
//! through [`EventLoop`].

mod admin;
pub mod admission;
pub mod bucket;
mod carry;
mod control;
mod doors;
mod inventory;
mod launch;
mod lifetime;
pub mod limits;
mod line;
mod links;
mod mediation;
pub mod outbox;
mod peer_link;
mod peers;
mod poller;
mod port;
mod sessions;
mod view;

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use sivshm_abi::frame::Reason;
use sivshm_abi::grant::Generation;
use sivshm_policy::plan::Vm;
use sivshm_ring::OutOfBounds;
use sivshm_ring::frames::{ControlRings, Side};
use sivshm_sys::clock;

use crate::args::Mode;
use crate::audit::{Audit, AuditError, Blame, Decision, Entry, Event};
use crate::confined::Confined;
use crate::held::Held;
use crate::vmm::directory::DirectoryError;
use crate::vmm::port::PortClient;
use control::Control;
use inventory::{Inventory, InventoryError};
use launch::Launcher;
use lifetime::Lifetime;
use line::LineConnection;
use mediation::Mediation;
use peers::Peers;
use poller::{ConnectionId, Door, Interest, Listener, Poller, Source};
use sessions::Sessions;
use view::View;

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
    mediation: Mediation,
    view: View<'h>,
    port: Option<PortClient<'h>>,
    launcher: Launcher<'h>,
    admin: BTreeMap<ConnectionId, LineConnection<'h>>,
    lifetime: Lifetime,
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
        let mut audit = Audit::new(
            &held.audit,
            &held.clock,
            vm.name,
            held.host_boot,
            held.instance,
            now,
        );
        record_start(held, &mut audit)?;
        let poller = Poller::new()?;
        poller.watch(&held.signals, Source::Signals, Interest::Read)?;
        poller.watch(&held.kick, Source::Kick, Interest::Edge)?;
        poller.watch(&held.clock.set, Source::ClockSet, Interest::Read)?;
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
        let mut this = Self {
            held,
            vm,
            started: now,
            audit,
            peers: Peers::new(held, vm, Inventory::new(held, vm)?, now),
            control: Control::new(sessions, rings, &held.kick, vector, now),
            mediation: Mediation::new(&held.plan, vm, now),
            view: View::new(held, vm),
            port: None,
            launcher: Launcher::default(),
            admin: BTreeMap::new(),
            lifetime: Lifetime::default(),
            doors,
            poller,
            last_connection: ConnectionId::ZERO,
            ending: false,
        };
        this.begin_lifetime(now)?;
        Ok(this)
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
            // Deadlines are computed again before the next wait.
            Source::ClockSet => Ok(self.held.clock.set.take().map(drop)?),
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
            self.mediation.deadline(),
            self.launcher.deadline(),
            self.lifetime_deadline(Instant::now()),
        ];
        doors.chain(admin).chain(others.into_iter().flatten()).min()
    }

    fn on_time(&mut self, now: Instant) -> Result<(), RunError> {
        for door in &mut self.doors {
            door.on_time(&self.poller, now)?;
        }
        self.admin.retain(|_, connection| !connection.expired(now));
        let events = self.peers.on_time(&self.poller, &mut self.audit, now)?;
        self.on_peer_events(events, now)?;
        self.on_launch_time(now)?;
        let due = [self.control.deadline(), self.mediation.deadline()];
        if due.into_iter().flatten().any(|at| at <= now) {
            self.on_pairing_time(now)?;
        }
        self.on_lifetime_time(now)
    }

    /// The end: the guest and the peers are told, as far as they listen.
    fn leave(&mut self, now: Instant) -> Result<(), RunError> {
        let _ticking = self.held.tick.start()?;
        let revoked = self.end_pairings(|_| true, Reason::PeerGone, now);
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
