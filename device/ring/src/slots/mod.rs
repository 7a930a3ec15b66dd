//! The `ring` kind of channel: slots of a fixed size, one producer, any number of consumers with a
//! line each (DESIGN section 11, `docs/channels.md`).
//!
//! Slots are numbered from 1 in each epoch; slot `n` lies at place `(n - 1) % count`. Without
//! overwriting, the producer waits for its slowest consumer. With it, the producer never waits, and
//! a consumer notices by the slots' own numbers what it has lost.
//!
//! With integrity each slot carries a [`Seal`]. The caller makes it and proves it; a [`Consumer`]
//! judges the numbers of slots that are proved ([`IntegrityFault`]).

mod consumer;
mod integrity;
mod producer;
#[cfg(test)]
mod tests;

use sivshm_abi::channel::slot::NUMBER;
use sivshm_abi::channel::{HEAD_BYTES, slot_count, slot_header_bytes, slot_stride};
use sivshm_abi::grant::Integrity;

use crate::shared::{OutOfBounds, Shared, Word64};

pub use consumer::{Consumer, ReceiveError, Received};
pub use integrity::{Header, IntegrityFault, Seal};
pub use producer::{Loan, LoanError, Producer};

/// Geometry of a ring, as its grant states it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Geometry {
    /// Bytes of payload in each slot.
    pub slot_bytes: u32,
    /// Whether the producer overwrites the oldest slot instead of waiting.
    pub overwrite: bool,
    /// What protects each slot, and so what its header has.
    pub integrity: Integrity,
}

/// The slots behind a head page.
#[derive(Clone, Copy, Debug)]
struct Slots {
    memory: Shared,
    stride: usize,
    /// A power of two.
    count: u64,
    /// Bytes in front of a payload.
    header: usize,
    /// Bytes of a payload.
    payload: usize,
}

/// One slot.
#[derive(Clone, Copy, Debug)]
struct Slot {
    header: Shared,
    number: Word64,
    payload: Shared,
}

impl Slots {
    fn new(range: Shared, geometry: Geometry) -> Result<Self, OutOfBounds> {
        let refused = OutOfBounds {
            offset: 0,
            bytes: usize::MAX,
            len: range.len(),
        };
        let Geometry {
            slot_bytes,
            integrity,
            ..
        } = geometry;
        let bytes = |bytes: u64| usize::try_from(bytes).map_err(|_| refused);
        let length = u64::try_from(range.len()).map_err(|_| refused)?;
        let head = bytes(HEAD_BYTES)?;
        Ok(Self {
            count: slot_count(length, slot_bytes, integrity).ok_or(refused)?,
            memory: range.sub(head, range.len() - head)?,
            stride: bytes(slot_stride(slot_bytes, integrity))?,
            header: bytes(slot_header_bytes(integrity))?,
            payload: bytes(slot_bytes.into())?,
        })
    }

    /// The slot with this number, which counts from 1.
    fn slot(&self, number: u64) -> Result<Slot, OutOfBounds> {
        let place = number.wrapping_sub(1) & (self.count - 1);
        let offset = usize::try_from(place)
            .unwrap_or(usize::MAX)
            .saturating_mul(self.stride);
        let memory = self.memory.sub(offset, self.header + self.payload)?;
        Ok(Slot {
            header: memory.sub(0, self.header)?,
            number: memory.word64(NUMBER)?,
            payload: memory.sub(self.header, self.payload)?,
        })
    }
}
