//! The writing end of a ring, with or without integrity.

use sivshm_abi::channel::head;
use sivshm_ring::Shared;
use sivshm_ring::line::{Fault, ReaderLine};
use sivshm_ring::slots::{self, Geometry, LoanError};
use sivshm_ring::wake::Sleeper;

use super::{KeyFault, Suite};
use crate::error::Error;

/// The writing end of a ring, over memory of the caller's.
#[derive(Debug)]
pub struct Sender {
    core: slots::Producer<Vec<ReaderLine>>,
    sealer: Option<Sealer>,
    slot_bytes: usize,
}

/// Seals payloads where nobody else can see or change them, and copies them into slots.
#[derive(Debug)]
struct Sealer {
    suite: Suite,
    /// As long as a slot's payload.
    buffer: Vec<u8>,
}

/// A slot that is being filled, in place or, with integrity, in private memory first; dropping it
/// gives it back.
#[derive(Debug)]
pub struct Loan<'a> {
    slot: slots::Loan<'a>,
    sealer: Option<&'a mut Sealer>,
}

impl Sender {
    /// Starts an epoch on a channel's range, with the lines of its readers.
    ///
    /// # Errors
    /// [`Error::TooLong`] if the range does not hold two slots; [`Error::Key`] if the suite has a
    /// key, and the range is already of this epoch: whoever was here before may have used it.
    pub fn start(
        range: Shared,
        geometry: Geometry,
        readers: Vec<ReaderLine>,
        epoch: u64,
        suite: Option<Suite>,
    ) -> Result<Self, Error> {
        let keyed = suite.as_ref().is_some_and(|suite| suite.cipher.is_some());
        if keyed && range.load_u64(head::EPOCH)? == epoch {
            return Err(KeyFault::Spent.into());
        }
        let slot_bytes = usize::try_from(geometry.slot_bytes).unwrap_or(usize::MAX);
        let core = slots::Producer::start(range, geometry, readers, epoch)?;
        let sealer = suite.map(|suite| Sealer {
            suite,
            buffer: vec![0; slot_bytes],
        });
        Ok(Self {
            core,
            sealer,
            slot_bytes,
        })
    }

    /// Slots that can be staged now.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn free(&mut self) -> Result<u64, Fault> {
        self.core.free()
    }

    /// The reader that has acknowledged least.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn slowest(&self) -> Result<usize, Fault> {
        self.core.slowest()
    }

    /// Lends the next slot; none if the ring is full.
    ///
    /// # Errors
    /// [`Error::Peer`]
    pub fn loan(&mut self) -> Result<Option<Loan<'_>>, Error> {
        match self.core.loan() {
            Ok(slot) => Ok(Some(Loan {
                slot,
                sealer: self.sealer.as_mut(),
            })),
            Err(error) => refuse(error, 0, self.slot_bytes).map(|()| None),
        }
    }

    /// Stages a slot with a payload. Whether there was one free.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Peer`], [`Error::Key`].
    pub fn stage(&mut self, payload: &[u8]) -> Result<bool, Error> {
        let staged = match &mut self.sealer {
            None => self.core.stage(payload),
            Some(_) if payload.len() > self.slot_bytes => Err(LoanError::TooLong),
            Some(sealer) => match self.core.loan() {
                Ok(slot) => return sealer.stage(slot, payload).map(|()| true),
                Err(error) => Err(error),
            },
        };
        match staged {
            Ok(()) => Ok(true),
            Err(error) => refuse(error, payload.len(), self.slot_bytes).map(|()| false),
        }
    }

    /// Publishes every staged slot. Then ring every reader for which [`ReaderLine::must_ring`].
    pub fn publish(&mut self) {
        self.core.publish();
    }

    /// The readers' lines.
    #[must_use]
    pub fn readers(&self) -> &[ReaderLine] {
        self.core.readers()
    }

    /// How to sleep until a slot is free.
    #[must_use]
    pub const fn sleeper(&self) -> Sleeper {
        self.core.sleeper()
    }
}

impl Loan<'_> {
    /// Stores bytes of the payload.
    ///
    /// # Errors
    /// [`Error::TooLong`]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let Some(sealer) = &mut self.sealer else {
            return Ok(self.slot.write(offset, bytes)?);
        };
        let needed = offset.saturating_add(bytes.len());
        let to = part(&mut sealer.buffer, offset..needed)?;
        to.copy_from_slice(bytes);
        Ok(())
    }

    /// Stages the slot with the first `length` bytes of its payload.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Key`].
    pub fn stage(self, length: usize) -> Result<(), Error> {
        match self.sealer {
            None => Ok(self.slot.stage(length)?),
            Some(sealer) => sealer.stage_buffer(self.slot, length),
        }
    }
}

impl Sealer {
    fn stage(&mut self, mut slot: slots::Loan<'_>, payload: &[u8]) -> Result<(), Error> {
        if self.suite.cipher.is_some() {
            part(&mut self.buffer, 0..payload.len())?.copy_from_slice(payload);
            return self.stage_buffer(slot, payload.len());
        }
        let seal = self.suite.seal_plain(slot.number(), payload);
        slot.write(0, payload)?;
        Ok(slot.stage_sealed(payload.len(), &seal)?)
    }

    fn stage_buffer(&mut self, mut slot: slots::Loan<'_>, length: usize) -> Result<(), Error> {
        let payload = part(&mut self.buffer, 0..length)?;
        let seal = self.suite.seal(slot.number(), payload)?;
        slot.write(0, payload)?;
        Ok(slot.stage_sealed(length, &seal)?)
    }
}

fn part(buffer: &mut [u8], range: std::ops::Range<usize>) -> Result<&mut [u8], Error> {
    let (needed, available) = (range.end, buffer.len());
    buffer
        .get_mut(range)
        .ok_or(Error::TooLong { needed, available })
}

/// The error, unless the ring is full.
fn refuse(error: LoanError, needed: usize, available: usize) -> Result<(), Error> {
    match error {
        LoanError::Full => Ok(()),
        LoanError::Fault(fault) => Err(fault.into()),
        LoanError::TooLong => Err(Error::TooLong { needed, available }),
    }
}
