//! Rings: slots of a fixed size (DESIGN section 11).
//!
//! [`Producer::stage`], [`Producer::publish`] and [`Consumer::try_receive`] make no system call
//! unless a peer sleeps, and so don't notice by themselves that a grant has ended.

use std::time::Duration;

use sivshm_abi::grant::Kind;
use sivshm_ring::line::ReaderLine;
use sivshm_ring::slots::{self, Geometry, LoanError, ReceiveError, Received};

use crate::end::{End, Look};
use crate::error::Error;
use crate::wait::Deadline;

fn geometry(end: &End) -> Result<Geometry, Error> {
    match end.kind {
        Kind::Ring {
            slot_bytes,
            overwrite,
            integrity,
        } => Ok(Geometry {
            slot_bytes,
            overwrite,
            integrity,
        }),
        Kind::Region => Err(Error::Kind("ring")),
    }
}

/// The writing end of a ring.
#[derive(Debug)]
pub struct Producer {
    core: slots::Producer<Vec<ReaderLine>>,
    end: End,
    slot_bytes: u32,
}

/// A slot that is being filled in place; dropping it gives it back.
#[derive(Debug)]
pub struct Loan<'a>(slots::Loan<'a>);

impl Loan<'_> {
    /// Stores bytes of the payload.
    ///
    /// # Errors
    /// [`Error::TooLong`]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.0.write(offset, bytes)?)
    }

    /// Stages the slot with the first `length` bytes of its payload.
    ///
    /// # Errors
    /// [`Error::TooLong`]
    pub fn stage(self, length: usize) -> Result<(), Error> {
        Ok(self.0.stage(length)?)
    }
}

impl Producer {
    pub(crate) fn new(end: End) -> Result<Self, Error> {
        let geometry = geometry(&end)?;
        let lines = (end.lines())
            .map(|line| ReaderLine::new(line, end.epoch))
            .collect::<Result<_, _>>()?;
        let core = slots::Producer::start(end.data(), geometry, lines, end.epoch)?;
        Ok(Self {
            core,
            end,
            slot_bytes: geometry.slot_bytes,
        })
    }

    /// Bytes that a payload can have.
    #[must_use]
    pub const fn slot_bytes(&self) -> u32 {
        self.slot_bytes
    }

    /// Slots that can be staged now.
    ///
    /// # Errors
    /// [`Error::Peer`]
    pub fn free(&mut self) -> Result<u64, Error> {
        let free = self.core.free();
        free.map_err(|fault| self.end.blame(fault.into()))
    }

    /// Lends the next slot; none if the ring is full.
    ///
    /// # Errors
    /// [`Error::Peer`]
    pub fn loan(&mut self) -> Result<Option<Loan<'_>>, Error> {
        let slot_bytes = self.slot_bytes;
        match self.core.loan() {
            Ok(loan) => Ok(Some(Loan(loan))),
            Err(LoanError::Full) => Ok(None),
            Err(LoanError::Fault(fault)) => Err(self.end.blame(fault.into())),
            Err(LoanError::TooLong) => Err(too_long(0, slot_bytes)),
        }
    }

    /// Stages a slot with a payload, for the next [`Self::publish`]. Whether there was one free.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Peer`].
    pub fn stage(&mut self, payload: &[u8]) -> Result<bool, Error> {
        match self.core.stage(payload) {
            Ok(()) => Ok(true),
            Err(LoanError::Full) => Ok(false),
            Err(LoanError::Fault(fault)) => Err(self.end.blame(fault.into())),
            Err(LoanError::TooLong) => Err(too_long(payload.len(), self.slot_bytes)),
        }
    }

    /// Publishes every staged slot and rings the consumers that sleep.
    ///
    /// # Errors
    /// [`Error::Revoked`], [`Error::Host`].
    pub fn publish(&mut self) -> Result<(), Error> {
        self.core.publish();
        for (reader, line) in self.core.readers().iter().enumerate() {
            if line.must_ring() {
                self.end.ring(reader)?;
            }
        }
        Ok(())
    }

    /// Waits until a slot can be staged. What is staged is published first: else the consumers
    /// could not make room.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Revoked`], [`Error::Peer`].
    pub fn wait_free(&mut self, timeout: Duration) -> Result<(), Error> {
        self.publish()?;
        let Self { core, end, .. } = self;
        let deadline = Deadline::after(timeout);
        end.wait(core.sleeper(), deadline, "a free slot", || {
            Ok(match core.free()? {
                0 => Look::WaitFor(core.slowest()?),
                _ => Look::Found(()),
            })
        })
    }

    /// Sends one payload: waits for a free slot if there is none, stages and publishes.
    ///
    /// # Errors
    /// Those of the parts.
    pub fn send(&mut self, payload: &[u8], timeout: Duration) -> Result<(), Error> {
        let deadline = Deadline::after(timeout);
        while !self.stage(payload)? {
            let left = deadline.left("a free slot")?;
            self.wait_free(left.unwrap_or(Duration::MAX))?;
        }
        self.publish()
    }
}

/// A reading end of a ring.
#[derive(Debug)]
pub struct Consumer {
    core: slots::Consumer,
    end: End,
}

impl Consumer {
    pub(crate) fn new(end: End) -> Result<Self, Error> {
        let line = end.lines().next().ok_or(Error::Revoked(None))?;
        let core = slots::Consumer::join(end.data(), line, geometry(&end)?, end.epoch)?;
        Ok(Self { core, end })
    }

    /// Copies the next payload out, if one is there. Its slot is not given back before
    /// [`Self::acknowledge`].
    ///
    /// # Errors
    /// [`Error::TooLong`] (the payload stays), [`Error::Outrun`], [`Error::Peer`].
    pub fn try_receive(&mut self, to: &mut [u8]) -> Result<Option<Received>, Error> {
        self.core.receive(to).map_err(|error| match error {
            ReceiveError::TooLong(needed) => Error::TooLong {
                needed,
                available: to.len(),
            },
            ReceiveError::Outrun => Error::Outrun,
            ReceiveError::Fault(fault) => self.end.blame(fault.into()),
        })
    }

    /// Gives every slot received so far back to the producer.
    ///
    /// # Errors
    /// [`Error::Revoked`], [`Error::Host`].
    pub fn acknowledge(&mut self) -> Result<(), Error> {
        if self.core.acknowledge() {
            self.end.ring(0)?;
        }
        Ok(())
    }

    /// Waits until a payload is there. What was received is acknowledged first: else a full ring
    /// would stay full.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Revoked`].
    pub fn wait(&mut self, timeout: Duration) -> Result<(), Error> {
        if self.core.is_ready() {
            return Ok(());
        }
        self.acknowledge()?;
        let Self { core, end } = self;
        let deadline = Deadline::after(timeout);
        end.wait(core.sleeper(), deadline, "a message", || {
            Ok(match core.is_ready() {
                true => Look::Found(()),
                false => Look::WaitFor(0),
            })
        })
    }

    /// Receives one payload, waiting for it if there is none.
    ///
    /// # Errors
    /// Those of the parts.
    pub fn receive(&mut self, to: &mut [u8], timeout: Duration) -> Result<Received, Error> {
        let deadline = Deadline::after(timeout);
        loop {
            if let Some(received) = self.try_receive(to)? {
                return Ok(received);
            }
            let left = deadline.left("a message")?;
            self.wait(left.unwrap_or(Duration::MAX))?;
        }
    }
}

fn too_long(needed: usize, slot_bytes: u32) -> Error {
    Error::TooLong {
        needed,
        available: usize::try_from(slot_bytes).unwrap_or(usize::MAX),
    }
}
