//! Memory for tests.
#![expect(unsafe_code, reason = "tests make memory to share")]

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use std::boxed::Box;

use crate::shared::Shared;

/// Zeroed bytes, aligned for words.
pub(crate) struct Memory(Box<[UnsafeCell<u64>]>);

impl Memory {
    pub(crate) fn new(len: usize) -> Self {
        Self((0..len.div_ceil(8)).map(|_| 0.into()).collect())
    }

    pub(crate) fn shared(&self) -> Shared {
        let base = NonNull::from(&*self.0).cast();
        // SAFETY: a test keeps the memory for longer than its views; nobody refers into the cells.
        unsafe { Shared::new(base, self.0.len() * 8) }
    }
}
