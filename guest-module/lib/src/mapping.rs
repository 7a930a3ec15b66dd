//! Mapped memory, and the one place of this crate that calls `mmap`.
//!
//! Memory whose grant has ended becomes empty pages: in an attached process the control thread has
//! it done, in a guest the first access that finds the kernel's pages gone. It becomes so all at once,
//! so that the page of a channel that says its epoch tells of all of them.
#![expect(unsafe_code, reason = "mmap has no safe wrapper")]

mod ranges;
mod sigbus;

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use nix::sys::stat::fstat;
use sivshm_abi::grant::Access;
use sivshm_ring::Shared;

use sigbus::Watch;

/// Memory that is unmapped when the last owner lets go of it.
#[derive(Clone, Debug)]
pub(crate) struct Mapping(Arc<Area>);

/// Addresses that belong to one mapping.
#[derive(Debug)]
pub(crate) struct Area {
    base: NonNull<c_void>,
    len: NonZeroUsize,
    watch: Option<Watch>,
}

// SAFETY:
// - an area is a range of addresses, which every thread of the process may use;
// - it offers no access to the bytes but by `Shared`, which is made for concurrent stores.
unsafe impl Send for Area {}
// SAFETY: as for `Send`; `blank` leaves every address mapped, whoever calls it.
unsafe impl Sync for Area {}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset` on.
    ///
    /// # Errors
    /// Those of `mmap(2)`; `EINVAL` for a length of 0 or an offset that the system can't express.
    pub(crate) fn new(file: impl AsFd, offset: u64, len: u64, access: Access) -> io::Result<Self> {
        Area::new(file, offset, len, access).map(|area| Self(Arc::new(area)))
    }

    /// As [`Self::new`], of a file whose pages go away by themselves: an access that comes too late
    /// finds empty pages.
    ///
    /// # Errors
    /// As [`Self::new`], and if `SIGBUS` can't be taken.
    pub(crate) fn watched(
        file: impl AsFd,
        offset: u64,
        len: u64,
        access: Access,
    ) -> io::Result<Self> {
        let mut area = Area::new(file, offset, len, access)?;
        area.watch = Some(Watch::new(area.base, area.len)?);
        Ok(Self(Arc::new(area)))
    }

    /// The mapped bytes. Keep the mapping for as long as anything made from the view is used.
    pub(crate) fn shared(&self) -> Shared {
        // SAFETY:
        // - `base..base + len` was mapped by `Area::new` and is unmapped by `drop` only, when no
        //   owner is left; every caller in this crate keeps one beside what it makes from the view;
        // - pages that go away become empty ones, or the process dies by SIGBUS;
        // - nothing in this crate makes a reference to the bytes;
        // - a view of a read-only mapping is given to readers, which store nothing.
        unsafe { Shared::new(self.0.base.cast(), self.0.len.get()) }
    }

    /// The area, to be blanked by whoever takes grants away.
    pub(crate) const fn area(&self) -> &Arc<Area> {
        &self.0
    }
}

impl Area {
    fn new(file: impl AsFd, offset: u64, len: u64, access: Access) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let len = usize::try_from(len).map_err(|_| invalid())?;
        let len = NonZeroUsize::new(len).ok_or_else(invalid)?;
        let offset = i64::try_from(offset).map_err(|_| invalid())?;
        let protection = match access {
            Access::ReadOnly => ProtFlags::PROT_READ,
            Access::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        // SAFETY: no address is asked for, so that the kernel replaces no existing mapping.
        let base = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, file, offset) }?;
        Ok(Self {
            base,
            len,
            watch: None,
        })
    }

    /// Replaces the pages by empty ones of this process: the memory of before is out of reach, and
    /// no address becomes invalid.
    ///
    /// # Errors
    /// Those of `mmap(2)`; the old pages are still there then.
    pub(crate) fn blank(&self) -> io::Result<()> {
        // SAFETY: this area owns exactly `base..base + len`.
        unsafe { empty(self.base.addr(), self.len) }?;
        Ok(())
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // Other memory may come to lie here next.
        drop(self.watch.take());
        // SAFETY: this area owns `base..base + len`, and no owner is left that could use it.
        let outcome = unsafe { munmap(self.base, self.len.get()) };
        debug_assert!(outcome.is_ok(), "munmap of an own mapping: {outcome:?}");
    }
}

/// Puts empty pages, readable and writable whatever was there, in the place of a mapping, all at once.
/// It is one system call that does not allocate: a handler of signals may do it.
///
/// # Safety
/// `base..base + len` is a mapping of the caller's, for which it does not matter what is in it.
unsafe fn empty(base: NonZeroUsize, len: NonZeroUsize) -> nix::Result<()> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED;
    // SAFETY:
    // - exactly the caller's mapping is replaced;
    // - the addresses stay mapped, readable and writable, so that views onto them stay valid.
    unsafe { mmap_anonymous(Some(base), len, protection, flags) }.map(drop)
}

/// Empty memory of this process, for as long as it lives. A forked child finds it empty again: its
/// mappings are others.
fn private(len: usize) -> io::Result<Shared> {
    let bytes = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: no address is asked for, so that the kernel replaces no existing mapping.
    let base = unsafe { mmap_anonymous(None, bytes, protection, flags) }?;
    // SAFETY: the memory was mapped here, and holds nothing yet that a child could miss.
    unsafe { madvise(base, len, MmapAdvise::MADV_WIPEONFORK) }?;
    // SAFETY: nobody unmaps it, and nobody makes a reference into it.
    Ok(unsafe { Shared::new(base.cast(), len) })
}

/// Checks that a memory file has `len` bytes and can't shrink: else whoever holds it could make
/// every access fault.
///
/// # Errors
/// `InvalidData` that says which it is.
pub(crate) fn check_file(file: impl AsFd, len: u64) -> io::Result<()> {
    let refuse = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    let seals = SealFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GET_SEALS)?);
    if !seals.contains(SealFlag::F_SEAL_SHRINK) {
        return refuse("a memory file is not sealed against shrinking");
    }
    if u64::try_from(fstat(&file)?.st_size) != Ok(len) {
        return refuse("a memory file has another size than announced");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
