//! How often each vector has fired, and the atomics that the gate is made with.
#![expect(
    clippy::disallowed_types,
    reason = "words that an interrupt handler and callers of `&self` share; no peer sees them"
)]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sivshm_abi::grant::Vector;
use sivshm_abi::limits::MAX_VECTORS;

/// Counters of a port's vectors. Apart from [`crate::Gate`], because an interrupt handler counts
/// while somebody else holds the gate's lock.
#[derive(Debug)]
pub struct Bells([AtomicU64; MAX_VECTORS]);

impl Bells {
    /// Counters that stand at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; MAX_VECTORS])
    }

    /// Counts one interrupt; a vector that no port has is ignored.
    pub fn rang(&self, vector: Vector) {
        if let Some(count) = self.0.get(usize::from(vector.0)) {
            count.fetch_add(1, Ordering::Release); // SYNC POINT: bell-counted
        }
    }

    /// Interrupts so far.
    #[must_use]
    pub fn count(&self, vector: Vector) -> u64 {
        let count = self.0.get(usize::from(vector.0));
        count.map_or(0, |count| count.load(Ordering::Acquire)) // SYNC POINT: bell-counted
    }
}

impl Default for Bells {
    fn default() -> Self {
        Self::new()
    }
}

/// A count that callers who share the gate may all set; it orders nothing else.
#[derive(Debug)]
pub(crate) struct Mark(AtomicU64);

impl Mark {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A flag that callers who share the gate may all raise; it orders nothing else.
#[derive(Debug)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    pub(crate) fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn lower(&mut self) {
        *self.0.get_mut() = false;
    }

    pub(crate) fn is_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
