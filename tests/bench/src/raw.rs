//! Mapped memory that SIVSHM has nothing to do with: what a `ring` is compared with.
//!
//! Payloads are copied in and out as by a ring, but by `memcpy`. A count of payloads sent and one of
//! those received, each in a cache line of its own, are all the protocol there is: it trusts both
//! ends, carries no lengths and can't sleep.
#![expect(
    unsafe_code,
    reason = "the benchmark measures what the safe views are made of"
)]
#![expect(
    clippy::disallowed_types,
    reason = "the door to atomics is part of what is measured"
)]

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use sivshm_ring::Shared;

use crate::ring::{In, Out, SLOTS, look};

/// Where the count of payloads received is; that of those sent is at 0.
const RECEIVED: usize = 64;
/// Where the payloads begin.
const SLOTS_AT: usize = 4096;

/// Shared memory of the program's own, for as long as it runs.
fn map(bytes: u64) -> Result<(NonNull<u8>, usize)> {
    let length = NonZeroUsize::new(usize::try_from(bytes)?).context("no bytes to map")?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
    // SAFETY: no address is given, so the kernel replaces no existing mapping.
    let base = unsafe { mmap_anonymous(None, length, access, flags) }?;
    Ok((base.cast(), length.get()))
}

/// Memory for a ring or a line.
pub fn memory(bytes: u64) -> Result<Shared> {
    let (base, len) = map(bytes)?;
    // SAFETY:
    // - `base..base + len` was mapped just now, readable and writable, and nothing unmaps it;
    // - nobody refers to it otherwise.
    Ok(unsafe { Shared::new(base, len) })
}

/// One end.
pub struct Raw {
    base: NonNull<u8>,
    payload: usize,
    done: u64,
}

// SAFETY: an address of memory that stays mapped; each end is used by one thread at a time.
unsafe impl Send for Raw {}

/// The two ends over fresh memory.
pub fn open(payload: u32) -> Result<(RawSender, RawReceiver)> {
    let payload = usize::try_from(payload)?.next_multiple_of(64);
    let slots = usize::try_from(SLOTS)? * payload;
    let (base, _) = map(u64::try_from(SLOTS_AT + slots)?)?;
    let end = || Raw {
        base,
        payload,
        done: 0,
    };
    Ok((RawSender(end()), RawReceiver(end())))
}

/// The writing end.
pub struct RawSender(Raw);

/// The reading end.
pub struct RawReceiver(Raw);

impl Raw {
    fn count(&self, offset: usize) -> &AtomicU64 {
        // SAFETY:
        // - `offset` is 0 or `RECEIVED`: a word of the mapping, aligned to 64, that is only used
        //   as an atomic;
        // - the mapping stays for as long as the program runs.
        unsafe { AtomicU64::from_ptr(self.base.add(offset).as_ptr().cast()) }
    }

    /// The place of the payload that is next.
    fn slot(&self) -> *mut u8 {
        let slot = usize::try_from(self.done % u64::from(SLOTS)).unwrap_or(0);
        // SAFETY: `slot` is below `SLOTS`, for as many of which `open` has mapped memory.
        unsafe { self.base.add(SLOTS_AT + slot * self.payload) }.as_ptr()
    }
}

impl Out for RawSender {
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let Self(raw) = self;
        look(|| {
            let room = raw.done - raw.count(RECEIVED).load(Ordering::Acquire) < u64::from(SLOTS);
            Ok(room.then_some(()))
        })?;
        // SAFETY:
        // - payloads have the length that `open` was told, for which each slot has room;
        // - the reader has released the slot, and does not touch it before it is published below.
        unsafe {
            raw.slot()
                .copy_from_nonoverlapping(payload.as_ptr(), payload.len())
        };
        raw.done += 1;
        raw.count(0).store(raw.done, Ordering::Release);
        Ok(())
    }
}

impl In for RawReceiver {
    fn receive(&mut self, to: &mut [u8]) -> Result<()> {
        let Self(raw) = self;
        look(|| Ok((raw.count(0).load(Ordering::Acquire) != raw.done).then_some(())))?;
        // SAFETY:
        // - buffers have the length that `open` was told, as each slot has;
        // - the writer has published the slot, and does not touch it before it is released below.
        unsafe { raw.slot().copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
        raw.done += 1;
        raw.count(RECEIVED).store(raw.done, Ordering::Release);
        Ok(())
    }
}
