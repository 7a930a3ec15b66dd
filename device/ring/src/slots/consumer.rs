//! The reading end of a ring.

use core::fmt;

use sivshm_abi::channel::slot::{CRC, IDENTIFIER, LENGTH, TAG, TAG_BYTES};

use super::integrity::History;
use super::{Geometry, Header, IntegrityFault, Seal, Slots};
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
    /// Slots lost since the last one received, because the producer overwrote them.
    pub lost: u64,
}

/// Why nothing was received although something was published.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReceiveError {
    /// The payload has this many bytes, more than the caller's buffer; it stays in the ring.
    TooLong(usize),
    /// The producer overwrites slots faster than they can be copied; trying again is in order.
    Outrun,
    /// The slot that was due is not there, and is given up. The next call goes on behind it.
    Integrity(IntegrityFault),
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
            Self::Integrity(fault) => fault.fmt(f),
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
    /// Slots overwritten since the last one received.
    lost: u64,
    history: History,
}

/// What was found at the place of a slot.
enum Found {
    /// The slot, or what passes for it, copied whole.
    Slot(Header),
    /// A length that no slot has.
    Corrupt,
    /// Nothing: no slot was written there yet, or it went away while it was copied.
    Nothing,
}

/// What a slot of the channel is to its consumer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Turn {
    /// The one that is due.
    Due,
    /// A later one, which has overwritten it as it may.
    Later,
}

impl Consumer {
    /// Joins an epoch, or goes on in it after a restart: `range` is the channel's, `line` this
    /// consumer's acknowledgement line.
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
            history: History::default(),
        })
    }

    /// Copies the next payload out. Its slot stays the consumer's until it is acknowledged.
    ///
    /// # Errors
    /// [`ReceiveError`]
    pub fn receive(&mut self, to: &mut [u8]) -> Result<Option<Received>, ReceiveError> {
        for _ in 0..MAX_ATTEMPTS {
            let Some((number, _)) = self.due()? else {
                return Ok(None);
            };
            match self.copy(number, to) {
                Some(length) if length > to.len() => return Err(ReceiveError::TooLong(length)),
                Some(length) => return Ok(Some(self.take(number, length))),
                None if !self.overwrite => return Err(Fault::Slot.into()),
                None => self.lose(1),
            }
        }
        Err(ReceiveError::Outrun)
    }

    /// As [`Self::receive`], for a ring with integrity: `open` proves the seal of the header and
    /// the payload that were copied to the start of `space`, and may decrypt them there. A payload
    /// of more than `room` bytes stays in the ring. Whatever fails, nothing of it stays in `space`.
    ///
    /// # Errors
    /// [`ReceiveError`]; [`ReceiveError::TooLong`] also if `space` is smaller than a slot's payload.
    pub fn receive_sealed(
        &mut self,
        space: &mut [u8],
        room: usize,
        mut open: impl FnMut(&Header, &mut [u8]) -> Result<(), IntegrityFault>,
    ) -> Result<Option<Received>, ReceiveError> {
        let needed = self.slots.payload;
        let space = space
            .get_mut(..needed)
            .ok_or(ReceiveError::TooLong(needed))?;
        for _ in 0..MAX_ATTEMPTS {
            let Some((number, published)) = self.due()? else {
                return Ok(None);
            };
            let found = self.copy_sealed(number, space);
            let (copied, verdict) = match found.ok_or(Fault::Slot)? {
                Found::Slot(header) => {
                    let length = usize::try_from(header.length).unwrap_or(needed).min(needed);
                    let (payload, _) = space.split_at_mut(length);
                    let proved = open(&header, payload);
                    let judged = proved.and_then(|()| self.judge(number, header.number, published));
                    (length, judged)
                }
                Found::Corrupt => (needed, Err(IntegrityFault::Corruption)),
                Found::Nothing if self.overwrite => (needed, Ok(Turn::Later)),
                Found::Nothing => (needed, Err(IntegrityFault::Loss)),
            };
            if verdict == Ok(Turn::Due) && copied <= room {
                return Ok(Some(self.take(number, copied)));
            }
            space.split_at_mut(copied).0.fill(0);
            match verdict {
                Ok(Turn::Due) => return Err(ReceiveError::TooLong(copied)),
                Ok(Turn::Later) => self.lose(1),
                Err(fault) => {
                    self.taken = number;
                    self.history.given_up(1);
                    return Err(ReceiveError::Integrity(fault));
                }
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

    /// The number of the slot that is due, if it is published, and how many are.
    fn due(&mut self) -> Result<Option<(u64, u64)>, Fault> {
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
            Some(_) if !self.overwrite => return Err(Fault::Overrun),
            Some(lapped) => self.lose(lapped),
        }
        Ok(Some((self.taken.saturating_add(1), published)))
    }

    fn take(&mut self, number: u64, length: usize) -> Received {
        self.taken = number;
        self.history.received();
        Received {
            number,
            length,
            lost: core::mem::take(&mut self.lost),
        }
    }

    fn lose(&mut self, slots: u64) {
        self.taken = self.taken.saturating_add(slots);
        self.lost = self.lost.saturating_add(slots);
        self.history.given_up(slots);
    }

    /// Copies what fits `to` of a slot's payload and returns the payload's length, or nothing if
    /// the slot did not carry `number` all the while.
    fn copy(&self, number: u64, to: &mut [u8]) -> Option<usize> {
        let slot = self.slots.slot(number).ok()?;
        if slot.number.load() != number {
            return None;
        }
        let length = usize::try_from(slot.header.load_u32(LENGTH).ok()?)
            .unwrap_or(usize::MAX)
            .min(self.slots.payload);
        let fits = length.min(to.len());
        slot.payload.copy_out(0, to.get_mut(..fits)?).ok()?;
        load_load_fence();
        (slot.number.load() == number).then_some(length) // SYNC POINT: slot-overwritten
    }

    /// Copies what is at the place of slot `number`, header and payload; nothing if the place is
    /// not within the ring.
    fn copy_sealed(&self, number: u64, space: &mut [u8]) -> Option<Found> {
        let slot = self.slots.slot(number).ok()?;
        let number = slot.number.load();
        let length = slot.header.load_u32(LENGTH).ok()?;
        let crc = slot.header.load_u32(CRC).ok()?;
        let identifier = slot.header.load_u64(IDENTIFIER).ok()?;
        let mut tag = [0; TAG_BYTES];
        if slot.header.len() > TAG {
            slot.header.copy_out(TAG, &mut tag).ok()?;
        }
        let claimed = usize::try_from(length).unwrap_or(usize::MAX);
        let copied = claimed.min(self.slots.payload);
        slot.payload.copy_out(0, space.get_mut(..copied)?).ok()?;
        load_load_fence();
        // SYNC POINT: slot-overwritten
        let changed = slot.number.load() != number;
        Some(if number == 0 || changed {
            Found::Nothing
        } else if claimed > copied {
            Found::Corrupt
        } else {
            let seal = Seal {
                crc,
                identifier,
                tag,
            };
            Found::Slot(Header {
                number,
                length,
                seal,
            })
        })
    }

    /// Judges the number of a slot of this channel, found where `due` was to be.
    fn judge(&self, due: u64, found: u64, published: u64) -> Result<Turn, IntegrityFault> {
        if found == due {
            return Ok(Turn::Due);
        }
        if found < due {
            return Err(self.history.fault(self.taken.saturating_sub(found)));
        }
        if self.overwrite && (found - due).is_multiple_of(self.slots.count) {
            // The producer may have gone on since, and fills slots before it publishes them.
            let latest = self.peer.count().unwrap_or(published);
            if found <= latest.saturating_add(self.slots.count) {
                return Ok(Turn::Later);
            }
        }
        Err(match found <= published {
            true => IntegrityFault::Loss,
            false => IntegrityFault::Insertion,
        })
    }
}
