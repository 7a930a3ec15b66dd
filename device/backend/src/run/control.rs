//! The control rings of the VM's port: moving frames between the guest and its sessions (DESIGN
//! section 7). A guest that floods, or does not read, only hurts itself.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use sivshm_abi::frame::LONGEST_PAYLOAD_BYTES;
use sivshm_abi::limits::MAX_FRAMES_PER_WAKE;
use sivshm_ring::frames::{ControlRings, RingFault, SendError};
use sivshm_sys::eventfd;

use crate::audit::{Audit, AuditError, Blame, Decision, Entry, Event};
use crate::run::admission::Scope;
use crate::run::bucket::{TokenBucket, interval};
use crate::run::limits::{FRAMES_AT_ONCE, FRAMES_PER_SECOND};
use crate::run::sessions::{Fault, Sessions};

/// Time until a guest that has not read its frames, or was throttled, is looked at again. It may
/// ring earlier.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// One end of the control rings, and the sessions behind it.
#[derive(Debug)]
pub struct Control<'h> {
    /// The sessions.
    pub sessions: Sessions,
    rings: ControlRings,
    kick: &'h OwnedFd,
    vector: &'h OwnedFd,
    frames: TokenBucket,
    /// Set when the guest broke the protocol; until a VMM connects to the port again.
    stopped: bool,
    again: Option<Instant>,
}

impl<'h> Control<'h> {
    /// Takes up the host's end.
    #[must_use]
    pub const fn new(
        sessions: Sessions,
        rings: ControlRings,
        kick: &'h OwnedFd,
        vector: &'h OwnedFd,
        now: Instant,
    ) -> Self {
        Self {
            sessions,
            rings,
            kick,
            vector,
            frames: TokenBucket::new(FRAMES_AT_ONCE, interval(FRAMES_PER_SECOND), now),
            stopped: true,
            again: None,
        }
    }

    /// A VMM connects to the port: empties the rings and forgets all sessions.
    pub fn start(&mut self) {
        self.rings.reset();
        self.sessions.forget();
        self.stopped = false;
        self.again = None;
    }

    /// The VMM is gone: forgets all sessions and reads no more frames.
    pub fn stop(&mut self) {
        self.sessions.forget();
        self.stopped = true;
        self.again = None;
    }

    /// When [`Self::read`] or [`Self::write`] has something to do although nobody rang, or a session
    /// has.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let deadlines = [self.again, self.sessions.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Reads some of the guest's frames.
    ///
    /// # Errors
    /// The audit failed. What the guest does wrong stops its rings and is no error.
    pub fn read(&mut self, scope: &Scope<'_>, audit: &mut Audit<'_>) -> Result<(), AuditError> {
        self.again = None;
        // Drained before the rings are read: what is produced later rings again.
        if let Err(error) = eventfd::drain(self.kick) {
            tracing::warn!(%error, "can't drain the guest's doorbell");
        }
        if self.stopped {
            return Ok(());
        }
        let read = self.receive(scope, audit);
        self.judge(read, audit, scope.now)
    }

    /// Hands frames to the guest as far as they fit, and rings it if there were any.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn write(&mut self, audit: &mut Audit<'_>, now: Instant) -> Result<(), AuditError> {
        if self.stopped {
            return Ok(());
        }
        let written = self.flush(now);
        self.judge(written, audit, now)
    }

    fn judge(
        &mut self,
        served: Result<(), Fault>,
        audit: &mut Audit<'_>,
        now: Instant,
    ) -> Result<(), AuditError> {
        match served {
            Ok(()) => Ok(()),
            Err(Fault::Audit(error)) => Err(error),
            Err(Fault::Guest(reason)) => {
                self.stop();
                audit.record_limited(
                    Entry {
                        event: Event::Driver,
                        decision: Decision::End,
                        blame: Blame::Guest,
                        who: "guest driver",
                        what: "control rings",
                        reason,
                    },
                    now,
                )
            }
        }
    }

    fn receive(&mut self, scope: &Scope<'_>, audit: &mut Audit<'_>) -> Result<(), Fault> {
        let now = scope.now;
        let mut space = [0; LONGEST_PAYLOAD_BYTES];
        for _ in 0..MAX_FRAMES_PER_WAKE {
            if !self.sessions.ready() {
                // As soon as the answers fit; `flush` says when to look again if they don't.
                self.again = Some(now);
                return Ok(());
            }
            if !self.frames.take(now) {
                self.again = Some(now + LOOK_AGAIN);
                return Ok(());
            }
            let Some((session, payload)) = self.rings.receive(&mut space)? else {
                return Ok(());
            };
            self.sessions.receive(session, payload, scope, audit)?;
        }
        self.again = Some(now);
        Ok(())
    }

    fn flush(&mut self, now: Instant) -> Result<(), Fault> {
        self.sessions.pack();
        let mut sent = false;
        while let Some((session, frame)) = self.sessions.outgoing.front() {
            match self.rings.send(*session, &frame.payload()) {
                Ok(()) => {
                    self.sessions.outgoing.pop_front();
                    sent = true;
                }
                Err(SendError::Full) => {
                    self.again = Some(now + LOOK_AGAIN);
                    break;
                }
                Err(SendError::Fault(fault)) => return Err(fault.into()),
            }
        }
        if sent {
            self.ring();
        }
        Ok(())
    }

    fn ring(&self) {
        let rung: io::Result<()> = eventfd::ring(self.vector);
        if let Err(error) = rung {
            tracing::warn!(%error, "can't ring the guest");
        }
    }
}

impl From<RingFault> for Fault {
    fn from(fault: RingFault) -> Self {
        Self::Guest(match fault {
            RingFault::Index => "a ring index that is out of range",
            RingFault::Frame(_) => "a frame that can't be read",
        })
    }
}
