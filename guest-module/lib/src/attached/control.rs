//! The gate of an attached process, and the thread that serves it: what the kernel module's shim
//! is in a guest.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use sivshm_abi::control::CONTROL_BYTES;
use sivshm_abi::frame::{Facts, SessionId};
use sivshm_abi::grant::{Access, RingId};
use sivshm_gate::{Caller, Effect, Errno, Files, Gate, Listing, Mm, Owner, Slot, WindowNumber};

use super::bell::{Doorbell, Ears};
use super::port::Port;
use crate::mapping::{Area, Mapping, check_file};

/// Identities of this process's address space and of its table of files: it has one of each.
const OWNER: Owner = Owner {
    mm: Mm(1),
    files: Files(1),
};

/// How soon frames that did not fit the ring are tried again.
const RETRY: Duration = Duration::from_millis(5);

/// Gate, port and windows, shared by the callers and the thread.
#[derive(Debug)]
pub(crate) struct Control {
    state: Mutex<State>,
    /// Wakes those who wait for the session's state or list.
    news: Condvar,
    /// Rung at the same times, for those who wait for a peer.
    pub(crate) changed: Doorbell,
    /// Wakes the thread to end.
    quit: Doorbell,
}

/// What the lock protects.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) gate: Box<Gate>,
    pub(crate) vectors: Vec<Doorbell>,
    pub(crate) windows: Vec<OwnedFd>,
    session: SessionId,
    port: Port,
    /// What is mapped of which slot.
    areas: Vec<(Slot, Weak<Area>)>,
    closing: bool,
    /// The gate refers to it: dropped after it.
    _memory: Mapping,
}

impl Control {
    /// Hears the port's set-up, claims the windows, and opens the session.
    ///
    /// # Errors
    /// The device process broke the protocol or stopped, or the windows are not this VM's.
    pub(crate) fn new(
        mut port: Port,
        windows: Vec<(u64, OwnedFd)>,
        facts: Facts,
    ) -> io::Result<Self> {
        let refused = |errno: Errno| io::Error::from_raw_os_error(errno.code());
        port.hear_until(|port| port.memory.is_some())?;
        let file = port.memory.take().ok_or(io::ErrorKind::InvalidData)?;
        check_file(&file, CONTROL_BYTES)?;
        let memory = Mapping::new(&file, 0, CONTROL_BYTES, Access::ReadWrite)?;
        let mut gate = Box::new(Gate::new());
        gate.attach(memory.shared(), random()?).map_err(refused)?;
        let vectors = gate.directory().map_or(0, |head| usize::from(head.vectors));
        port.hear_until(|port| port.vectors.len() >= vectors)?;
        let mut files = Vec::with_capacity(windows.len());
        for (number, (bytes, file)) in (0..).zip(windows) {
            gate.claim_number(WindowNumber(number), bytes)
                .map_err(refused)?;
            files.push(file);
        }
        let session = gate.open(OWNER, facts).map_err(refused)?;
        let control = Self {
            state: Mutex::new(State {
                gate,
                vectors: std::mem::take(&mut port.vectors),
                windows: files,
                session,
                port,
                areas: Vec::new(),
                closing: false,
                _memory: memory,
            }),
            news: Condvar::new(),
            changed: Doorbell::new()?,
            quit: Doorbell::new()?,
        };
        control.carry_out(&mut control.lock());
        Ok(control)
    }

    /// Starts the thread that answers the device process, until it closes the port or
    /// [`Self::close`] is called.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<JoinHandle<()>> {
        let ears = {
            let state = self.lock();
            let control_vector = state.vectors.first().ok_or(io::ErrorKind::InvalidData)?;
            Ears::new(&[control_vector, &self.quit])?.and_file(&state.port)?
        };
        let control = Arc::clone(self);
        std::thread::Builder::new()
            .name("sivshm-control".to_owned())
            .spawn(move || control.serve(&ears))
    }

    /// The state. A caller that panicked has left nothing half done: each change is one call of
    /// the gate.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until the session has changed since its count of changes was `seen`.
    pub(crate) fn wait_change(&self, seen: u64, left: Option<Duration>) {
        let same = |state: &mut State| state.list().is_ok_and(|listing| listing.changes == seen);
        let state = self.lock();
        // Whatever has woken the caller, it looks for itself.
        match left {
            Some(left) => drop(self.news.wait_timeout_while(state, left, same)),
            None => drop(self.news.wait_while(state, same)),
        }
    }

    /// Ends the session, tells the device process, and has the thread end.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        let session = state.session;
        state.gate.close(session, OWNER.files);
        state.gate.release(session);
        self.carry_out(&mut state);
        state.closing = true;
        drop(state);
        // The thread ends at the latest when the device process closes the port.
        let _rung = self.quit.ring();
    }

    /// The thread.
    fn serve(&self, ears: &Ears) {
        loop {
            let owed = {
                let mut state = self.lock();
                let open = state.hear_port();
                if !open {
                    state.gate.detach();
                }
                while state.gate.receive() {
                    self.carry_out(&mut state);
                }
                self.carry_out(&mut state);
                if !open || state.closing {
                    return;
                }
                state.gate.frames_owed()
            };
            if ears.listen(owed.then_some(RETRY)).is_err() {
                let mut state = self.lock();
                state.gate.detach();
                self.carry_out(&mut state);
                return;
            }
        }
    }

    /// Does what the gate asks for.
    fn carry_out(&self, state: &mut State) {
        while let Some(effect) = state.gate.next_effect() {
            match effect {
                // Pages that could not be taken away are not reported as gone: the device process
                // then finds this VM not contained.
                Effect::Unmap(slot) => {
                    if state.blank(slot).is_ok() {
                        state.gate.unmapped(slot);
                    }
                }
                Effect::Wake => {
                    self.news.notify_all();
                    // An own eventfd can always be rung.
                    let _rung = self.changed.ring();
                }
                // The host's doorbell comes first in the set-up; if the device process has left,
                // the port's end says so.
                Effect::Ring(doorbell) => {
                    let _rung = state.ring(doorbell.target);
                }
                // What went wrong reaches the caller as the reason of the session's end.
                Effect::Report(_) => {}
            }
        }
    }
}

impl State {
    /// Who asks the gate.
    pub(crate) const fn caller(&self) -> Caller {
        Caller {
            session: self.session,
            mm: OWNER.mm,
        }
    }

    /// The session's state.
    pub(crate) fn list(&mut self) -> Result<Listing, Errno> {
        self.gate.list(self.caller())
    }

    /// Rings a peer, or the device process.
    ///
    /// # Errors
    /// `NotConnected` if it has left.
    pub(crate) fn ring(&self, target: RingId) -> io::Result<()> {
        match self.port.peers.get(&target) {
            Some(doorbell) => doorbell.ring(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Notes a mapping of a slot, to be blanked when the slot ends.
    pub(crate) fn remember(&mut self, slot: Slot, mapping: &Mapping) {
        self.areas.retain(|(_, area)| area.strong_count() > 0);
        self.areas.push((slot, Arc::downgrade(mapping.area())));
    }

    fn blank(&mut self, slot: Slot) -> io::Result<()> {
        let ended = self.areas.extract_if(.., |(of, _)| *of == slot);
        ended
            .filter_map(|(_, area)| area.upgrade())
            .try_for_each(|area| area.blank())
    }

    /// Hears who has joined and left. Whether the port is still there.
    fn hear_port(&mut self) -> bool {
        loop {
            match self.port.hear() {
                Ok(true) => {}
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
    }
}

/// 128 random bits.
fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
