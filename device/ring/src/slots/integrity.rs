//! What the header of a protected slot carries, and how its number is judged (`docs/channels.md`,
//! section 6). Seals are made and proved by the caller: this crate has no key and no checksum.

use core::fmt;

use sivshm_abi::channel::slot::TAG_BYTES;

/// What integrity adds to a slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seal {
    /// The CRC-32C.
    pub crc: u32,
    /// The identifier of channel and epoch.
    pub identifier: u64,
    /// The tag of `aead`; zeros with `crc32c`, whose slots have no place for it.
    pub tag: [u8; TAG_BYTES],
}

/// A slot's header, loaded once. Until its seal is proved it is whatever a peer stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// Number of the slot.
    pub number: u64,
    /// Bytes of the payload; not more than a slot has.
    pub length: u32,
    /// The seal.
    pub seal: Seal,
}

/// What a consumer found instead of the slot that was due, in the words of AUTOSAR's end-to-end
/// protection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IntegrityFault {
    /// Bytes of the slot changed after it was sealed.
    Corruption,
    /// A whole slot, but of another channel or epoch, or sealed without the channel's key.
    Masquerading,
    /// A slot of this channel that was received before.
    Repetition,
    /// A slot of this channel that was given up before: it comes too late.
    WrongSequence,
    /// A slot of this channel that was never published.
    Insertion,
    /// No slot, or one of this channel whose turn is later.
    Loss,
}

impl IntegrityFault {
    /// Every fault.
    pub const ALL: [Self; 6] = [
        Self::Corruption,
        Self::Masquerading,
        Self::Repetition,
        Self::WrongSequence,
        Self::Insertion,
        Self::Loss,
    ];

    /// The name of the fault in `docs/channels.md`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Corruption => "corruption",
            Self::Masquerading => "masquerading",
            Self::Repetition => "repetition",
            Self::WrongSequence => "wrong sequence",
            Self::Insertion => "insertion",
            Self::Loss => "loss",
        }
    }
}

impl fmt::Display for IntegrityFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::Corruption => "its bytes changed after it was sealed",
            Self::Masquerading => "it was not sealed for this channel and epoch",
            Self::Repetition => "it was received before",
            Self::WrongSequence => "it comes after later ones",
            Self::Insertion => "it was never published",
            Self::Loss => "it is missing",
        };
        write!(f, "{}: {words}", self.name())
    }
}

impl core::error::Error for IntegrityFault {}

/// Which of the last numbers were given up and not received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct History(u64);

impl History {
    /// Numbers that are remembered. It takes a peer that copies whole slots to show an older one,
    /// and such a slot is called repeated.
    const NUMBERS: u64 = u64::BITS as u64;

    /// The next number was received.
    pub(super) const fn received(&mut self) {
        self.0 <<= 1;
    }

    /// The next `count` numbers were given up.
    pub(super) const fn given_up(&mut self, count: u64) {
        self.0 = if count < Self::NUMBERS {
            self.0 << count | ((1 << count) - 1)
        } else {
            u64::MAX
        };
    }

    /// The fault of a slot whose number is `age` below the last received or given up.
    pub(super) const fn fault(self, age: u64) -> IntegrityFault {
        if age < Self::NUMBERS && self.0 >> age & 1 == 1 {
            IntegrityFault::WrongSequence
        } else {
            IntegrityFault::Repetition
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_given_up_are_told_from_those_received() {
        use IntegrityFault::{Repetition, WrongSequence};
        let mut history = History::default();
        history.given_up(2);
        history.received();
        let faults = [0, 1, 2, 3, 64, u64::MAX].map(|age| history.fault(age));
        assert_eq!(
            faults,
            [
                Repetition,
                WrongSequence,
                WrongSequence,
                Repetition,
                Repetition,
                Repetition
            ]
        );
        for count in [64, u64::MAX] {
            history.given_up(count);
            assert_eq!(history.fault(63), WrongSequence);
        }
    }
}
