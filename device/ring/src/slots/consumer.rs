//! The reading end of a ring.

use core::fmt;

use sivshm_abi::channel::slot::LENGTH;

use super::{Geometry, Slots};
use crate::line::{ACK, Fault, HEAD, OwnPage, PeerPage};
use crate::shared::{OutOfBounds, Shared};
use crate::sync::load_load_fence;
use crate::wake::Sleeper;

/// Most slots that one call of [`Consumer::receive`] gives up as lost, before it lets its caller
/// decide: a producer that laps the consumer that often outruns it for good.
const MAX_ATTEMPTS: u32 = 4;

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
            // SYNC POINT: slot-published
            let Some(published) = self.peer.count() else {
                return Ok(None);
            };
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
