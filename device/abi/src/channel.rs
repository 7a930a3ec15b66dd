//! Layout of a channel inside its slices (DESIGN section 11, `docs/channels.md`).
//!
//! A channel's range in the writer's slice starts with one *head page*, written by the writer;
//! bytes of a `region` or slots of a `ring` follow. Each reader's acknowledgement line is one page
//! in a slice that this reader writes. Nothing here is read from shared memory: geometry comes
//! from the grant.

use crate::grant::Integrity;
use crate::limits::PAGE_BYTES;

/// Fields of a writer's head page, as byte offsets. All are 64-bit.
pub mod head {
    /// `region`: number of the message that the bytes hold; 0 before the first.
    /// `ring`: slots published since the epoch began.
    pub const SEQUENCE: usize = 0;
    /// `region`: bytes that the message has; a reader clamps it to what the grant holds.
    pub const LENGTH: usize = 64;
    /// Non-zero while the writer sleeps for an acknowledgement.
    pub const WAITING: usize = 128;
    /// Epoch for which the fields above are valid; a reader ignores the page until it is its own.
    pub const EPOCH: usize = 192;
}

/// Fields of a reader's acknowledgement line, as byte offsets. All are 64-bit.
pub mod ack {
    /// `region`: last sequence that this reader is done with. `ring`: slots consumed.
    pub const SEEN: usize = 0;
    /// Non-zero while the reader sleeps for something new.
    pub const WAITING: usize = 64;
    /// Epoch for which the fields above are valid.
    pub const EPOCH: usize = 128;
}

/// Fields in front of a slot's payload, as byte offsets.
pub mod slot {
    /// Bytes of the payload, 32-bit; a consumer clamps it to what the grant holds.
    pub const LENGTH: usize = 0;
    /// With integrity: CRC-32C, 32-bit; of the whole slot with `crc32c`, of its header with `aead`.
    pub const CRC: usize = 4;
    /// Number of the slot, 64-bit, from 1 in each epoch; 0 while it is being overwritten.
    pub const NUMBER: usize = 8;
    /// With integrity: identifier of channel and epoch, 64-bit.
    pub const IDENTIFIER: usize = 16;
    /// `aead`: the tag.
    pub const TAG: usize = 32;
    /// Bytes of the tag: those of AES-GCM.
    pub const TAG_BYTES: usize = 16;
}

/// Bytes of the head page.
pub const HEAD_BYTES: u64 = PAGE_BYTES;

/// Bytes of an acknowledgement line: a page of its own, so that a grant can cover exactly it.
pub const ACK_BYTES: u64 = PAGE_BYTES;

/// Bytes in front of each slot's payload: the fields of [`slot`] that its integrity suite has,
/// rounded up so that payloads begin at multiples of 16.
#[must_use]
pub const fn slot_header_bytes(integrity: Integrity) -> u64 {
    match integrity {
        Integrity::None => 16,
        Integrity::Crc32c => 32,
        Integrity::Aead => 48,
    }
}

/// Slots start at multiples of this, one cache line.
pub const SLOT_ALIGN: u64 = 64;

/// Bytes from one slot to the next for payloads of `slot_bytes`.
#[must_use]
pub const fn slot_stride(slot_bytes: u32, integrity: Integrity) -> u64 {
    (slot_header_bytes(integrity) + slot_bytes as u64).next_multiple_of(SLOT_ALIGN)
}

/// Slots that fit a channel's range of `length` bytes: a power of two, or none if not even two fit.
#[must_use]
pub const fn slot_count(length: u64, slot_bytes: u32, integrity: Integrity) -> Option<u64> {
    let slots = length.saturating_sub(HEAD_BYTES) / slot_stride(slot_bytes, integrity);
    if slots < 2 {
        None
    } else {
        Some(1 << slots.ilog2())
    }
}

/// Bytes that a `region` of a range of `length` bytes holds.
#[must_use]
pub const fn region_bytes(length: u64) -> u64 {
    length.saturating_sub(HEAD_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_fit_their_range() {
        const NONE: Integrity = Integrity::None;
        assert_eq!(slot_stride(48, NONE), 64);
        assert_eq!(slot_stride(48, Integrity::Crc32c), 128);
        assert_eq!(slot_stride(16, Integrity::Aead), 64);
        assert_eq!(slot_stride(49, NONE), 128);
        assert_eq!(slot_count(HEAD_BYTES + 4 * 64, 48, NONE), Some(4));
        assert_eq!(slot_count(HEAD_BYTES + 7 * 64, 48, NONE), Some(4));
        assert_eq!(slot_count(HEAD_BYTES + 64, 48, NONE), None);
        assert_eq!(slot_count(0, 48, NONE), None);
        assert_eq!(region_bytes(100), 0);
    }
}
