//! Mapped memory, and the one place of this crate that calls `mmap`.
#![expect(unsafe_code, reason = "mmap has no safe wrapper")]

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use nix::sys::stat::fstat;
use sivshm_abi::grant::Access;
use sivshm_ring::Shared;

/// Memory that is unmapped when the last owner lets go of it.
#[derive(Clone, Debug)]
pub(crate) struct Mapping(Arc<Area>);

/// Addresses that belong to one mapping.
#[derive(Debug)]
pub(crate) struct Area {
    base: NonNull<c_void>,
    len: NonZeroUsize,
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
        Ok(Self(Arc::new(Area { base, len })))
    }

    /// The mapped bytes. Keep the mapping for as long as anything made from the view is used.
    pub(crate) fn shared(&self) -> Shared {
        // SAFETY:
        // - `base..base + len` was mapped by `new` and is unmapped by `drop` only, when no owner
        //   is left; every caller in this crate keeps one beside what it makes from the view;
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
    /// Replaces the pages by empty ones of this process: the memory of before is out of reach, and
    /// no address becomes invalid.
    ///
    /// # Errors
    /// Those of `mmap(2)`; the old pages are still there then.
    pub(crate) fn blank(&self) -> io::Result<()> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED;
        // SAFETY:
        // - exactly `base..base + len` is replaced, which this area owns;
        // - the addresses stay mapped, readable and writable, so that views onto them stay valid.
        unsafe { mmap_anonymous(Some(self.base.addr()), self.len, protection, flags) }?;
        Ok(())
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: this area owns `base..base + len`, and no owner is left that could use it.
        let outcome = unsafe { munmap(self.base, self.len.get()) };
        debug_assert!(outcome.is_ok(), "munmap of an own mapping: {outcome:?}");
    }
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
mod tests {
    use super::*;
    use nix::unistd::{getegid, geteuid};
    use sivshm_sys::memfd::{Ownership, create};

    #[test]
    fn a_blanked_area_is_out_of_reach_and_still_there() {
        let ownership = Ownership {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            mode: 0o600,
        };
        let file = create(c"test", 8192, ownership).unwrap();
        assert!(check_file(&file, 8192).is_ok());
        assert!(check_file(&file, 4096).is_err());
        let access = Access::ReadWrite;
        let [ours, other] = [(); 2].map(|()| Mapping::new(&file, 4096, 4096, access).unwrap());
        ours.shared().store_u32(0, 1).unwrap();
        assert_eq!(other.shared().load_u32(0), Ok(1));
        ours.area().blank().unwrap();
        assert_eq!(ours.shared().load_u32(0), Ok(0));
        ours.shared().store_u32(0, 2).unwrap();
        assert_eq!(other.shared().load_u32(0), Ok(1));
    }

    #[test]
    fn a_file_that_could_shrink_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(check_file(&file, 0).is_err());
    }
}
