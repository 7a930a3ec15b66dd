//! The `ring` kind of channel: slots of a fixed size, one producer, any number of consumers with a
//! line each (DESIGN section 11, `docs/channels.md`).
//!
//! Slots are numbered from 1 in each epoch; slot `n` lies at place `(n - 1) % count`. Without
//! overwriting, the producer waits for its slowest consumer. With it, the producer never waits, and
//! a consumer notices by the slots' own numbers what it has lost.

mod consumer;
mod producer;

use sivshm_abi::channel::slot::NUMBER;
use sivshm_abi::channel::{HEAD_BYTES, slot_count, slot_header_bytes, slot_stride};
use sivshm_abi::grant::Integrity;

use crate::shared::{OutOfBounds, Shared, Word64};

pub use consumer::{Consumer, ReceiveError, Received};
pub use producer::{Loan, LoanError, Producer};

/// Offset of the payload within a slot.
const PAYLOAD: usize = 1 << slot_header_bytes(Integrity::None).ilog2();
const _: () = assert!(PAYLOAD as u64 == slot_header_bytes(Integrity::None));

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
        let count = slot_count(length, geometry.slot_bytes, Integrity::None).ok_or(refused)?;
        let stride = usize::try_from(slot_stride(geometry.slot_bytes, Integrity::None))
            .map_err(|_| refused)?;
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

impl Slot {
    fn payload(&self) -> Result<Shared, OutOfBounds> {
        self.memory
            .sub(PAYLOAD, self.memory.len().saturating_sub(PAYLOAD))
    }
}
