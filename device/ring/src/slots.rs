//! The `ring` kind of channel: slots of a fixed size, one producer, any number of consumers with a
//! line each (DESIGN section 11, `docs/channels.md`).
//!
//! Slots are numbered from 1 in each epoch; slot `n` lies at place `(n - 1) % count`. Without
//! overwriting, the producer waits for its slowest consumer. With it, the producer never waits, and
//! a consumer notices by the slots' own numbers what it has lost.

use core::fmt;

use sivshm_abi::channel::slot::{LENGTH, NUMBER};
use sivshm_abi::channel::{HEAD_BYTES, SLOT_HEADER_BYTES, slot_count, slot_stride};

use crate::line::{ACK, Fault, HEAD, OwnPage, PeerPage, ReaderLine, slowest};
use crate::shared::{OutOfBounds, Shared, Word64};
use crate::sync::{load_load_fence, store_store_fence};
use crate::wake::Sleeper;

/// Most slots that one call of [`Consumer::receive`] gives up as lost, before it lets its caller
/// decide: a producer that laps the consumer that often outruns it for good.
const MAX_ATTEMPTS: u32 = 4;

/// Offset of the payload within a slot.
const PAYLOAD: usize = 1 << SLOT_HEADER_BYTES.ilog2();
const _: () = assert!(PAYLOAD as u64 == SLOT_HEADER_BYTES);

/// Geometry of a ring, as its grant states it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Geometry {
    /// Bytes of payload in each slot.
    pub slot_bytes: u32,
    /// Whether the producer overwrites the oldest slot instead of waiting.
    pub overwrite: bool,
}

/// The slots behind a head page.
#[derive(Clone, Copy, Debug)]
struct Slots {
    memory: Shared,
    stride: usize,
    /// A power of two.
    count: u64,
    payload: usize,
}

/// One slot.
#[derive(Clone, Copy, Debug)]
struct Slot {
    memory: Shared,
    number: Word64,
}

impl Slots {
    fn new(range: Shared, geometry: Geometry) -> Result<Self, OutOfBounds> {
        let refused = OutOfBounds {
            offset: 0,
            bytes: usize::MAX,
            len: range.len(),
        };
        let length = u64::try_from(range.len()).map_err(|_| refused)?;
        let count = slot_count(length, geometry.slot_bytes).ok_or(refused)?;
        let stride = usize::try_from(slot_stride(geometry.slot_bytes)).map_err(|_| refused)?;
        let head = usize::try_from(HEAD_BYTES).map_err(|_| refused)?;
        Ok(Self {
            memory: range.sub(head, range.len() - head)?,
            stride,
            count,
            payload: usize::try_from(geometry.slot_bytes).map_err(|_| refused)?,
        })
    }

    /// The slot with this number, which counts from 1.
    fn slot(&self, number: u64) -> Result<Slot, OutOfBounds> {
        let place = number.wrapping_sub(1) & (self.count - 1);
        let offset = usize::try_from(place)
            .unwrap_or(usize::MAX)
            .saturating_mul(self.stride);
        let memory = self.memory.sub(offset, PAYLOAD + self.payload)?;
        let number = memory.word64(NUMBER)?;
        Ok(Slot { memory, number })
    }
}

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
    /// Starts an epoch on a channel's range, or goes on in it after a restart, with the lines of its readers in the policy's order.
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
    /// Stores bytes of the payload.
    ///
    /// # Errors
    /// [`OutOfBounds`] if they do not fit the slot.
    pub fn write(&mut self, offset: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        self.slot.payload()?.copy_in(offset, from)
    }

    /// Stages the slot with the first `length` bytes of its payload.
    ///
    /// # Errors
    /// [`OutOfBounds`] if a slot has fewer; nothing is staged then.
    pub fn stage(self, length: usize) -> Result<(), OutOfBounds> {
        let refused = OutOfBounds {
            offset: 0,
            bytes: length,
            len: self.slot.payload()?.len(),
        };
        let bytes = u32::try_from(length).map_err(|_| refused)?;
        if length > refused.len {
            return Err(refused);
        }
        self.slot.memory.store_u32(LENGTH, bytes)?;
        self.slot.number.store(self.number); // SYNC POINT: slot-overwritten
        *self.staged = self.number;
        Ok(())
    }
}

impl Slot {
    fn payload(&self) -> Result<Shared, OutOfBounds> {
        self.memory
            .sub(PAYLOAD, self.memory.len().saturating_sub(PAYLOAD))
    }
}

/// A slot's payload has been copied out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received {
    /// The slot's number.
    pub number: u64,
    /// Bytes of the payload, clamped to what a slot holds.
    pub length: usize,
    /// Slots lost just before this one, because the producer overwrote them.
    pub lost: u64,
}

/// Why nothing was received although something was published.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReceiveError {
    /// The payload has this many bytes, more than the caller's buffer; it stays in the ring.
    TooLong(usize),
    /// The producer overwrites slots faster than they can be copied; trying again is in order.
    Outrun,
    /// The producer broke the protocol.
    Fault(Fault),
}

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(length) => {
                write!(f, "the buffer is too small for a payload of {length} bytes")
            }
            Self::Outrun => f.write_str("the peer overwrites slots faster than they can be read"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for ReceiveError {}

impl From<Fault> for ReceiveError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A reading end.
#[derive(Debug)]
pub struct Consumer {
    slots: Slots,
    peer: PeerPage,
    own: OwnPage,
    overwrite: bool,
    /// Slots received or lost.
    taken: u64,
    /// Slots lost since the last one received.
    lost: u64,
}

impl Consumer {
    /// Joins an epoch, or goes on in it after a restart: `range` is the channel's, `line` this consumer's acknowledgement line.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range does not hold two slots, or the line is smaller than a page.
    pub fn join(
        range: Shared,
        line: Shared,
        geometry: Geometry,
        epoch: u64,
    ) -> Result<Self, OutOfBounds> {
        let slots = Slots::new(range, geometry)?;
        let (own, taken) = OwnPage::start(line, ACK, epoch)?;
        Ok(Self {
            slots,
            peer: PeerPage::new(range, HEAD, epoch)?,
            own,
            overwrite: geometry.overwrite,
            taken,
            lost: 0,
        })
    }

    /// Copies the next payload out. Its slot stays the consumer's until it is acknowledged.
    ///
    /// # Errors
    /// [`ReceiveError`]
    pub fn receive(&mut self, to: &mut [u8]) -> Result<Option<Received>, ReceiveError> {
        for _ in 0..MAX_ATTEMPTS {
            let published = self.peer.count().unwrap_or_default(); // SYNC POINT: slot-published
            let pending = published.checked_sub(self.taken).ok_or(Fault::Backwards)?;
            if pending == 0 {
                return Ok(None);
            }
            match pending.checked_sub(self.slots.count) {
                None | Some(0) => {}
                Some(_) if !self.overwrite => return Err(Fault::Overrun.into()),
                Some(lapped) => self.lose(lapped),
            }
            let number = self.taken.saturating_add(1);
            match self.copy(number, to) {
                Some(length) if length > to.len() => return Err(ReceiveError::TooLong(length)),
                Some(length) => {
                    self.taken = number;
                    let lost = core::mem::take(&mut self.lost);
                    return Ok(Some(Received {
                        number,
                        length,
                        lost,
                    }));
                }
                None if !self.overwrite => return Err(Fault::Slot.into()),
                None => self.lose(1),
            }
        }
        Err(ReceiveError::Outrun)
    }

    /// Gives every slot received so far back to the producer, and says whether it must be rung.
    #[must_use = "a producer that sleeps must be rung"]
    pub fn acknowledge(&mut self) -> bool {
        self.own.advance(self.taken); // SYNC POINT: slot-consumed
        self.peer.must_ring()
    }

    /// Whether a slot is waiting to be received.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.peer.count().is_some_and(|count| count != self.taken)
    }

    /// How to sleep until something is published.
    #[must_use]
    pub const fn sleeper(&self) -> Sleeper {
        self.own.sleeper()
    }

    fn lose(&mut self, slots: u64) {
        self.taken = self.taken.saturating_add(slots);
        self.lost = self.lost.saturating_add(slots);
    }

    /// Copies what fits `to` of a slot's payload and returns the payload's length, or nothing if
    /// the slot did not carry `number` all the while.
    fn copy(&self, number: u64, to: &mut [u8]) -> Option<usize> {
        let slot = self.slots.slot(number).ok()?;
        if slot.number.load() != number {
            return None;
        }
        let length = usize::try_from(slot.memory.load_u32(LENGTH).ok()?)
            .unwrap_or(usize::MAX)
            .min(self.slots.payload);
        let fits = length.min(to.len());
        slot.payload().ok()?.copy_out(0, to.get_mut(..fits)?).ok()?;
        load_load_fence();
        (slot.number.load() == number).then_some(length) // SYNC POINT: slot-overwritten
    }
}
