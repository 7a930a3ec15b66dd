//! A bounded view onto memory that other parties may write at any time.
#![expect(
    unsafe_code,
    reason = "bounds are judged here and handed to the unchecked accesses of `sync`"
)]

use core::fmt;
#[cfg(not(loom))]
use core::ptr::NonNull;

use crate::sync::Raw;

/// Bytes of shared memory, reachable by copies and single words only.
///
/// Copying the view copies an address, not the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    raw: Raw,
    len: usize,
}

/// An access that does not lie within its memory, or a word that is not aligned: a mistake of the
/// caller, or geometry that does not fit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OutOfBounds {
    /// First byte of the access.
    pub offset: usize,
    /// Bytes of the access.
    pub bytes: usize,
    /// Bytes of the memory.
    pub len: usize,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, bytes, len } = self;
        write!(
            f,
            "{bytes} bytes at {offset} are misaligned or outside a memory of {len} bytes"
        )
    }
}

impl core::error::Error for OutOfBounds {}

impl Shared {
    /// Takes `len` bytes from `base` on into use.
    ///
    /// # Safety
    /// - The bytes stay mapped, and readable, for as long as any copy of the view, or of a word or
    ///   ring made from it, is used; they are writable if anything is stored through it.
    /// - This process holds no reference to any of them. Other parties may store to them.
    #[cfg(not(loom))]
    #[must_use]
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self {
            raw: Raw::new(base),
            len,
        }
    }

    /// A view onto a model's cells.
    #[cfg(loom)]
    #[must_use]
    pub fn model(model: &'static crate::sync::Model, len: usize) -> Self {
        Self {
            raw: Raw::new(model),
            len,
        }
    }

    /// Bytes of the memory.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the memory has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The `len` bytes from `offset` on.
    ///
    /// # Errors
    /// [`OutOfBounds`] if they do not lie within the memory.
    pub const fn sub(&self, offset: usize, len: usize) -> Result<Self, OutOfBounds> {
        match self.at(offset, len) {
            Ok(raw) => Ok(Self { raw, len }),
            Err(error) => Err(error),
        }
    }

    /// The 32-bit word at `offset`, judged once so that later accesses can't fail.
    ///
    /// # Errors
    /// [`OutOfBounds`] if it is misaligned or not within the memory.
    pub fn word32(&self, offset: usize) -> Result<Word32, OutOfBounds> {
        self.aligned(offset, 4).map(Word32)
    }

    /// The 64-bit word at `offset`, judged once so that later accesses can't fail.
    ///
    /// # Errors
    /// As [`Self::word32`].
    pub fn word64(&self, offset: usize) -> Result<Word64, OutOfBounds> {
        self.aligned(offset, 8).map(Word64)
    }

    /// Loads a 32-bit word as [`Word32::load`] does.
    ///
    /// # Errors
    /// As [`Self::word32`].
    pub fn load_u32(&self, offset: usize) -> Result<u32, OutOfBounds> {
        self.word32(offset).map(Word32::load)
    }

    /// Loads a 64-bit word as [`Word64::load`] does.
    ///
    /// # Errors
    /// As [`Self::word32`].
    pub fn load_u64(&self, offset: usize) -> Result<u64, OutOfBounds> {
        self.word64(offset).map(Word64::load)
    }

    /// Stores a 32-bit word as [`Word32::store`] does.
    ///
    /// # Errors
    /// As [`Self::word32`].
    pub fn store_u32(&self, offset: usize, value: u32) -> Result<(), OutOfBounds> {
        self.word32(offset).map(|word| word.store(value))
    }

    /// Stores a 64-bit word as [`Word64::store`] does.
    ///
    /// # Errors
    /// As [`Self::word32`].
    pub fn store_u64(&self, offset: usize, value: u64) -> Result<(), OutOfBounds> {
        self.word64(offset).map(|word| word.store(value))
    }

    /// Copies bytes out; a peer that stores to them meanwhile decides what arrives, and nothing
    /// else.
    ///
    /// # Errors
    /// [`OutOfBounds`] if they do not lie within the memory.
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) -> Result<(), OutOfBounds> {
        let raw = self.at(offset, to.len())?;
        // SAFETY: `at` has found `to.len()` bytes of the mapping there.
        unsafe { raw.copy_out(to) };
        Ok(())
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// [`OutOfBounds`] if they do not lie within the memory.
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        let raw = self.at(offset, from.len())?;
        // SAFETY: `at` has found `from.len()` bytes of the mapping there; `new` asks for writable
        // ones from whoever stores.
        unsafe { raw.copy_in(from) };
        Ok(())
    }

    /// Stores `byte` to `len` bytes.
    ///
    /// # Errors
    /// [`OutOfBounds`] if they do not lie within the memory.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) -> Result<(), OutOfBounds> {
        let raw = self.at(offset, len)?;
        // SAFETY: as for `copy_in`.
        unsafe { raw.fill(len, byte) };
        Ok(())
    }

    /// The address of `bytes` bytes at `offset`, if they lie within the memory.
    const fn at(&self, offset: usize, bytes: usize) -> Result<Raw, OutOfBounds> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.len => {
                // SAFETY: `offset` is at most `len`, all of which `new` was promised to be mapped.
                Ok(unsafe { self.raw.add(offset) })
            }
            _ => Err(self.refuse(offset, bytes)),
        }
    }

    /// As [`Self::at`], for a word of `bytes` bytes.
    fn aligned(&self, offset: usize, bytes: usize) -> Result<Raw, OutOfBounds> {
        self.at(offset, bytes)
            .and_then(|raw| match raw.is_aligned(bytes) {
                true => Ok(raw),
                false => Err(self.refuse(offset, bytes)),
            })
    }

    const fn refuse(&self, offset: usize, bytes: usize) -> OutOfBounds {
        OutOfBounds {
            offset,
            bytes,
            len: self.len,
        }
    }
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $value:ty, $load:ident, $store:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name(Raw);

        impl $name {
            /// Loads the value. What its storer stored before it is visible afterwards.
            ///
            /// The value is the peer's: judge it, and do not load it again to use it.
            #[must_use]
            pub fn load(self) -> $value {
                // SAFETY: `Shared` has judged bounds and alignment; `Shared::new` was promised
                // that the bytes stay mapped while the word is used.
                unsafe { self.0.$load() }
            }

            /// Stores a value. Whoever loads it sees what was stored before it.
            pub fn store(self, value: $value) {
                // SAFETY: as for `load`; `Shared::new` asks for writable bytes from whoever stores.
                unsafe { self.0.$store(value) }
            }
        }
    };
}

word!(
    /// An aligned 32-bit word within a [`Shared`].
    Word32, u32, load_u32, store_u32
);
word!(
    /// An aligned 64-bit word within a [`Shared`].
    Word64, u64, load_u64, store_u64
);

#[cfg(test)]
mod tests {
    use crate::memory::Memory;
    use proptest::prelude::*;
    use std::vec;

    #[test]
    fn words_are_aligned_and_within_the_memory() {
        let memory = Memory::new(64);
        let shared = memory.shared();
        assert_eq!(shared.store_u32(60, 7), Ok(()));
        assert_eq!(shared.load_u32(60), Ok(7));
        assert_eq!(shared.load_u64(56), Ok(7 << 32));
        for offset in [61, 62, 64, usize::MAX] {
            assert!(shared.load_u32(offset).is_err());
        }
        assert!(shared.load_u64(60).is_err());
        assert!(shared.sub(65, 0).is_err());
        assert!(shared.sub(64, 0).unwrap().is_empty());
    }

    /// Longer than what is copied in blocks.
    const LEN: usize = 4096;

    proptest! {
        #[test]
        fn copies_and_fills_touch_exactly_their_bytes(
            offset in 0_usize..4608, bytes in proptest::collection::vec(any::<u8>(), 0..4608),
            fill in any::<u8>(),
        ) {
            let memory = Memory::new(LEN);
            let shared = memory.shared();
            let fits = offset + bytes.len() <= LEN;
            shared.fill(0, LEN, 0xee).unwrap();
            prop_assert_eq!(shared.copy_in(offset, &bytes).is_ok(), fits);
            let mut back = vec![0; bytes.len()];
            prop_assert_eq!(shared.copy_out(offset, &mut back).is_ok(), fits);
            let mut whole = [0; LEN];
            shared.copy_out(0, &mut whole).unwrap();
            let mut expected = [0xee; LEN];
            if fits {
                prop_assert_eq!(&back, &bytes);
                expected[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
            prop_assert_eq!(whole, expected);
            prop_assert_eq!(shared.fill(offset, bytes.len(), fill).is_ok(), fits);
            if fits {
                expected[offset..offset + bytes.len()].fill(fill);
            }
            shared.copy_out(0, &mut whole).unwrap();
            prop_assert_eq!(whole, expected);
        }
    }
}
