//! Shared memory as loom models it: the stand-in for `sync.rs` with `--cfg loom`.
//!
//! Only the words that a test names exist, because loom keeps a history for each. A copy moves
//! whole words; everything else about `shared.rs` and what is built on it is the real code.
#![expect(
    unsafe_code,
    reason = "the functions have the contracts of the real door"
)]

use std::collections::BTreeMap;
use std::vec::Vec;

use loom::sync::atomic::{AtomicU64, Ordering, fence};

pub(crate) fn store_load_fence() {
    fence(Ordering::SeqCst);
}

pub(crate) fn store_store_fence() {
    fence(Ordering::Release);
}

pub(crate) fn load_load_fence() {
    fence(Ordering::Acquire);
}

/// A sparse memory of words that are all zero at first.
#[derive(Debug)]
pub struct Model(BTreeMap<usize, AtomicU64>);

impl Model {
    /// A memory whose words are at the given byte offsets, for the rest of the program: views onto
    /// it are copied freely.
    pub fn leak(offsets: impl IntoIterator<Item = usize>) -> &'static Self {
        let words = offsets.into_iter().map(|at| (at, AtomicU64::new(0)));
        std::boxed::Box::leak(std::boxed::Box::new(Self(words.collect())))
    }
}

/// Address of a byte of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    model: &'static Model,
    offset: usize,
}

impl Raw {
    pub(crate) const fn new(model: &'static Model) -> Self {
        Self { model, offset: 0 }
    }

    pub(crate) fn is_aligned(self, align: usize) -> bool {
        self.offset % align == 0
    }

    /// # Safety
    /// None; the real door has conditions.
    pub(crate) const unsafe fn add(self, offset: usize) -> Self {
        Self {
            model: self.model,
            offset: self.offset + offset,
        }
    }

    fn word(self) -> &'static AtomicU64 {
        let Some(word) = self.model.0.get(&self.offset) else {
            panic!("the model has no word at {}", self.offset)
        };
        word
    }

    /// # Safety
    /// None; the real door has conditions.
    pub(crate) unsafe fn load_u64(self) -> u64 {
        let value = self.word().load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }

    /// # Safety
    /// None; the real door has conditions.
    pub(crate) unsafe fn store_u64(self, value: u64) {
        self.word().store(value, Ordering::Release);
    }

    /// # Safety
    /// None; the real door has conditions.
    pub(crate) unsafe fn load_u32(self) -> u32 {
        // SAFETY: there is no condition.
        unsafe { self.load_u64() as u32 }
    }

    /// # Safety
    /// None; the real door has conditions.
    pub(crate) unsafe fn store_u32(self, value: u32) {
        // SAFETY: there is no condition.
        unsafe { self.store_u64(value.into()) }
    }

    /// # Safety
    /// None; the real door has conditions.
    pub(crate) unsafe fn copy_out(self, to: &mut [u8]) {
        for (at, bytes) in to.chunks_mut(8).enumerate() {
            // SAFETY: there is no condition.
            let word = unsafe { self.add(8 * at) }.word().load(Ordering::Relaxed);
            bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
        }
    }

    /// # Safety
    /// None; the real door has conditions.
    pub(crate) unsafe fn copy_in(self, from: &[u8]) {
        for (at, bytes) in from.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            // SAFETY: there is no condition.
            let place = unsafe { self.add(8 * at) };
            place
                .word()
                .store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }

    /// # Safety
    /// None; the real door has conditions.
    pub(crate) unsafe fn fill(self, len: usize, byte: u8) {
        let bytes: Vec<u8> = std::vec![byte; len];
        // SAFETY: there is no condition.
        unsafe { self.copy_in(&bytes) }
    }
}
