//! Memory that two processes map and that SIVSHM has nothing to do with, and payloads that cross it
//! without any protocol worth the name: what rings are compared with.
//!
//! Payloads are copied in and out as by a ring, but by `memcpy`. A count of payloads sent and one of
//! those received, each in a cache line of its own, are all there is: it trusts both ends, carries no
//! lengths and can't sleep.
#![expect(
    unsafe_code,
    reason = "the benchmark measures what the safe views are made of"
)]
#![expect(
    clippy::disallowed_types,
    reason = "the door to atomics is part of what is measured"
)]

use std::fs::File;
use std::num::NonZeroUsize;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use sivshm_abi::grant::Access;
use sivshm_ring::Shared;

use crate::carrier::{In, Out, look};

/// Where the count of payloads received is; that of those sent is at 0.
const RECEIVED: usize = 64;
/// Where the payloads begin.
const SLOTS_AT: usize = 4096;

/// A file that this process and another one map, part by part, for as long as they run. Who takes parts
/// in the same order gets the same ones.
pub struct Memory {
    file: File,
    taken: u64,
}

/// A part of it.
#[derive(Clone, Copy)]
pub struct Part {
    base: NonNull<u8>,
    length: usize,
}

impl Memory {
    /// Takes a file into use.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self { file, taken: 0 })
    }

    /// Maps the next bytes, from a page of their own on.
    pub fn take(&mut self, bytes: u64, access: Access) -> Result<Part> {
        let offset = self.taken;
        self.taken += bytes.next_multiple_of(4096);
        let space = self.file.metadata()?.len();
        ensure!(self.taken <= space, "the file is too short");
        let length = NonZeroUsize::new(usize::try_from(bytes)?).context("no bytes to map")?;
        let access = match access {
            Access::ReadOnly => ProtFlags::PROT_READ,
            Access::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        let (flags, offset) = (MapFlags::MAP_SHARED, i64::try_from(offset)?);
        // SAFETY: no address is given, so the kernel replaces no existing mapping.
        let base = unsafe { mmap(None, length, access, flags, &self.file, offset) }?;
        Ok(Part {
            base: base.cast(),
            length: length.get(),
        })
    }
}

impl Part {
    /// The part as rings use it.
    pub const fn shared(self) -> Shared {
        // SAFETY:
        // - `base..base + length` is mapped, and nothing unmaps it; who stores has mapped it writable;
        // - nobody refers to it otherwise: parts do not overlap.
        unsafe { Shared::new(self.base, self.length) }
    }
}

/// Payloads of one length in one direction, as one end sees them.
pub struct Raw {
    base: NonNull<u8>,
    payload: usize,
    slots: u64,
    done: u64,
}

/// The writing end.
pub struct RawOut(Raw);

/// The reading end.
pub struct RawIn(Raw);

impl Raw {
    /// Takes memory for as many payloads.
    pub fn open(memory: &mut Memory, payload: u32, slots: u64) -> Result<Self> {
        let payload = usize::try_from(payload)?.next_multiple_of(64);
        let bytes = SLOTS_AT + usize::try_from(slots)? * payload;
        Ok(Self {
            base: memory.take(bytes.try_into()?, Access::ReadWrite)?.base,
            payload,
            slots,
            done: 0,
        })
    }

    /// The writing end.
    pub const fn out(self) -> RawOut {
        RawOut(self)
    }

    /// The reading end.
    pub const fn home(self) -> RawIn {
        RawIn(self)
    }

    fn count(&self, offset: usize) -> &AtomicU64 {
        // SAFETY:
        // - `offset` is 0 or `RECEIVED`: a word of the mapping, aligned to 64, that is only used
        //   as an atomic;
        // - the mapping stays for as long as the program runs.
        unsafe { AtomicU64::from_ptr(self.base.add(offset).as_ptr().cast()) }
    }

    /// The place of the payload that is next.
    fn slot(&self) -> *mut u8 {
        let slot = usize::try_from(self.done % self.slots).unwrap_or(0);
        // SAFETY: `slot` is below `slots`, for as many of which `open` has taken memory.
        unsafe { self.base.add(SLOTS_AT + slot * self.payload) }.as_ptr()
    }
}

impl Out for RawOut {
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let Self(raw) = self;
        look(|| {
            let room = raw.done - raw.count(RECEIVED).load(Ordering::Acquire) < raw.slots;
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

impl In for RawIn {
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
