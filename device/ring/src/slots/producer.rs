//! The writing end of a ring.

use core::fmt;

use sivshm_abi::channel::slot::{CRC, IDENTIFIER, LENGTH, TAG};

use super::{Geometry, Seal, Slot, Slots};
use crate::line::{Fault, HEAD, OwnPage, ReaderLine, slowest};
use crate::shared::{OutOfBounds, Shared};
use crate::sync::store_store_fence;
use crate::wake::Sleeper;

/// Why a producer can't have another slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LoanError {
    /// Every slot is staged or not acknowledged: publish, or wait for the consumers.
    Full,
    /// The payload is longer than a slot.
    TooLong,
    /// A consumer broke the protocol.
    Fault(Fault),
}

impl fmt::Display for LoanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the ring is full: wait for its consumers"),
            Self::TooLong => f.write_str("the payload is longer than the channel's slots"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for LoanError {}

impl From<Fault> for LoanError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<OutOfBounds> for LoanError {
    fn from(_: OutOfBounds) -> Self {
        Self::TooLong
    }
}

/// The writing end.
#[derive(Debug)]
pub struct Producer<L> {
    slots: Slots,
    own: OwnPage,
    readers: L,
    overwrite: bool,
    /// Slots published.
    published: u64,
    /// Slots published or staged.
    staged: u64,
    /// Slots that may be staged before the consumers' lines must be looked at again.
    limit: u64,
}

impl<L: AsRef<[ReaderLine]>> Producer<L> {
    /// Starts an epoch on a channel's range, or goes on in it after a restart, with the lines of its
    /// readers in the policy's order.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range does not hold two slots.
    pub fn start(
        range: Shared,
        geometry: Geometry,
        readers: L,
        epoch: u64,
    ) -> Result<Self, OutOfBounds> {
        let slots = Slots::new(range, geometry)?;
        let (own, published) = OwnPage::start(range, HEAD, epoch)?;
        Ok(Self {
            slots,
            own,
            readers,
            overwrite: geometry.overwrite,
            published,
            staged: published,
            limit: published,
        })
    }

    /// Slots that can be staged now.
    ///
    /// # Errors
    /// [`Fault`] if a consumer acknowledges what was never published.
    pub fn free(&mut self) -> Result<u64, Fault> {
        let done = match self.overwrite {
            true => self.published,
            false => slowest(self.readers.as_ref(), self.published)?.1, // SYNC POINT: slot-consumed
        };
        self.limit = done.saturating_add(self.slots.count);
        // A consumer that took back an acknowledgement leaves less than nothing.
        Ok(self.limit.saturating_sub(self.staged))
    }

    /// The consumer, by its number, that has acknowledged least: a full ring waits for it.
    ///
    /// # Errors
    /// As [`Self::free`].
    pub fn slowest(&self) -> Result<usize, Fault> {
        Ok(slowest(self.readers.as_ref(), self.published)?.0)
    }

    /// Lends the next slot, to be filled in place. Dropping the loan gives it back.
    ///
    /// # Errors
    /// [`LoanError`]
    pub fn loan(&mut self) -> Result<Loan<'_>, LoanError> {
        if self.staged >= self.limit && self.free()? == 0 {
            return Err(LoanError::Full);
        }
        let number = self.staged.saturating_add(1);
        let slot = self.slots.slot(number)?;
        if self.overwrite {
            slot.number.store(0); // SYNC POINT: slot-overwritten
            store_store_fence();
        }
        Ok(Loan {
            slot,
            number,
            staged: &mut self.staged,
        })
    }

    /// Stages a slot with a payload: a loan, filled at once.
    ///
    /// # Errors
    /// [`LoanError`]; nothing is staged then.
    pub fn stage(&mut self, payload: &[u8]) -> Result<(), LoanError> {
        if payload.len() > self.slots.payload {
            return Err(LoanError::TooLong);
        }
        let mut loan = self.loan()?;
        loan.write(0, payload)?;
        loan.stage(payload.len())?;
        Ok(())
    }

    /// Publishes every staged slot at once and returns how many were published in this epoch. Then
    /// ring every reader for which [`ReaderLine::must_ring`].
    pub fn publish(&mut self) -> u64 {
        self.published = self.staged;
        self.own.advance(self.published); // SYNC POINT: slot-published
        self.published
    }

    /// The readers' lines.
    pub fn readers(&self) -> &[ReaderLine] {
        self.readers.as_ref()
    }

    /// How to sleep until a slot is free.
    #[must_use]
    pub const fn sleeper(&self) -> Sleeper {
        self.own.sleeper()
    }
}

/// A slot being filled.
#[derive(Debug)]
pub struct Loan<'a> {
    slot: Slot,
    number: u64,
    staged: &'a mut u64,
}

impl Loan<'_> {
    /// The slot's number, which a seal covers.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Stores bytes of the payload.
    ///
    /// # Errors
    /// [`OutOfBounds`] if they do not fit the slot.
    pub fn write(&mut self, offset: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        self.slot.payload.copy_in(offset, from)
    }

    /// Stages the slot with the first `length` bytes of its payload.
    ///
    /// # Errors
    /// [`OutOfBounds`] if a slot has fewer; nothing is staged then.
    pub fn stage(self, length: usize) -> Result<(), OutOfBounds> {
        let payload = self.slot.payload.sub(0, length)?.len();
        let length = u32::try_from(payload).unwrap_or(u32::MAX);
        self.slot.header.store_u32(LENGTH, length)?;
        self.slot.number.store(self.number); // SYNC POINT: slot-overwritten
        *self.staged = self.number;
        Ok(())
    }

    /// As [`Self::stage`], with the seal of a ring that has integrity.
    ///
    /// # Errors
    /// As [`Self::stage`]; also if the ring has none, whose headers have no room for it.
    pub fn stage_sealed(self, length: usize, seal: &Seal) -> Result<(), OutOfBounds> {
        self.slot.header.store_u64(IDENTIFIER, seal.identifier)?;
        self.slot.header.store_u32(CRC, seal.crc)?;
        if self.slot.header.len() > TAG {
            self.slot.header.copy_in(TAG, &seal.tag)?;
        }
        self.stage(length)
    }
}
