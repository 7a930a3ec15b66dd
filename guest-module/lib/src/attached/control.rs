//! The gate of an attached process, and how the control thread serves it: what the kernel module's
//! shim is in a guest.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sivshm_abi::control::CONTROL_BYTES;
use sivshm_abi::frame::{Facts, SessionId};
use sivshm_abi::grant::{Access, RingId};
use sivshm_gate::{Caller, Effect, Errno, Files, Gate, Listing, Mm, Owner, Slot, WindowNumber};

use super::bell::Ears;
use super::port::Port;
use crate::backend::Awaited;
use crate::doorbell::Doorbell;
use crate::mapping::{Area, Mapping, check_file};

/// Identities of this process's address space and of its table of files: it has one of each.
const OWNER: Owner = Owner {
    mm: Mm(1),
    files: Files(1),
};

/// How soon frames that did not fit the ring are tried again.
const RETRY: Duration = Duration::from_millis(5);

/// Gate, port and windows, shared by the callers and the control thread.
#[derive(Debug)]
pub(crate) struct Control {
    state: Mutex<State>,
    /// Rung when the session's state or list has changed, for those who wait for a peer.
    pub(crate) changed: Doorbell,
    /// Ends the control thread's sleep.
    woken: Doorbell,
    /// What the control thread listens to while the session lives.
    all: Ears,
    /// And afterwards.
    own: Ears,
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
    /// Whether the control thread was woken since its last sleep.
    woken: bool,
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
        let mut gate = Box::<Gate>::default();
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
        let woken = Doorbell::new()?;
        let control_vector = port.vectors.first().ok_or(io::ErrorKind::InvalidData)?;
        let all = Ears::new(&[control_vector, &woken])?.and_file(&port)?;
        let control = Self {
            changed: Doorbell::new()?,
            own: Ears::new(&[&woken])?,
            all,
            woken,
            state: Mutex::new(State {
                gate,
                vectors: std::mem::take(&mut port.vectors),
                windows: files,
                session,
                port,
                areas: Vec::new(),
                woken: false,
                _memory: memory,
            }),
        };
        control.carry_out(&mut control.lock());
        Ok(control)
    }

    /// The state. A caller that panicked has left nothing half done: each change is one call of
    /// the gate.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the control thread's sleep, or its next one.
    pub(crate) fn wake(&self) {
        self.lock().woken = true;
        // An own eventfd can always be rung.
        let _rung = self.woken.ring();
    }

    /// Ends the session and tells the device process.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        let session = state.session;
        state.gate.close(session, OWNER.files);
        state.gate.release(session);
        self.carry_out(&mut state);
    }

    /// Serves the gate until something that is awaited has come, or somebody has called
    /// [`Self::wake`].
    pub(crate) fn sleep(&self, awaited: Awaited) -> io::Result<()> {
        loop {
            let owed = {
                let mut state = self.lock();
                self.serve(&mut state);
                if std::mem::take(&mut state.woken) || state.has(awaited) {
                    return Ok(());
                }
                state.gate.frames_owed()
            };
            // A port that the device process has closed would be heard for ever.
            let ears = if awaited.news { &self.all } else { &self.own };
            match (owed, awaited.left) {
                (true, _) => ears.listen(Some(RETRY))?,
                (false, left) => return ears.listen(left),
            }
        }
    }

    /// Takes in what the device process has said, and does what follows.
    fn serve(&self, state: &mut State) {
        if !state.hear_port() {
            state.gate.detach();
        }
        while state.gate.receive() {
            self.carry_out(state);
        }
        self.carry_out(state);
    }

    /// Does what the gate asks for.
    pub(crate) fn carry_out(&self, state: &mut State) {
        while let Some(effect) = state.gate.next_effect() {
            match effect {
                // Pages that could not be taken away are not reported as gone: the device process
                // then finds this VM not contained.
                Effect::Unmap(slot) => {
                    if state.blank(slot).is_ok() {
                        state.gate.unmapped(slot);
                    }
                }
                // An own eventfd can always be rung.
                Effect::Wake => {
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

    /// Whether something that is awaited is there.
    fn has(&self, awaited: Awaited) -> bool {
        // A session that can't be asked has ended, which is news.
        (self.gate.readiness(self.caller())).map_or(awaited.news, |ready| {
            awaited.news && (ready.data || ready.changed) || awaited.room && ready.room
        })
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
