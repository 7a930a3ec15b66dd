//! The one mapping of a device process: its control memory (DESIGN section 5).
#![expect(unsafe_code, reason = "mmap has no safe wrapper")]

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;

use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::stat::fstat;
use sivshm_ring::Shared;

use crate::memfd::{Seals, seals_of};

/// A memory file mapped for as long as the process runs.
///
/// There is no way to unmap it: a [`Shared`] can be copied freely and must never dangle, and the
/// control memory is needed until the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    shared: Shared,
}

impl Mapping {
    /// Maps a whole sealed memory file for loads and stores.
    ///
    /// # Errors
    /// The file is not sealed against shrinking (a holder could make every access fault), is
    /// empty, or the host refuses.
    pub fn new(file: impl AsFd) -> io::Result<Self> {
        if !seals_of(&file)?.contains(Seals::FIXED) {
            return Err(io::Error::other("the memory file is not sealed"));
        }
        let len = usize::try_from(fstat(&file)?.st_size).map_err(io::Error::other)?;
        let length =
            NonZeroUsize::new(len).ok_or_else(|| io::Error::other("the memory file is empty"))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY:
        // - no address is given, so the kernel replaces no existing mapping;
        // - `length` is the file's size.
        let base = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &file, 0) }?;
        // SAFETY:
        // - `base..base + len` was mapped above, readable and writable;
        // - nothing unmaps it: this type has no destructor and keeps no way to the address;
        // - the file can't shrink (checked above), so every byte stays backed;
        // - `Shared` expects that other parties write at any time.
        let shared = unsafe { Shared::new(base.cast(), len) };
        Ok(Self { shared })
    }

    /// The mapped bytes.
    #[must_use]
    pub const fn shared(&self) -> Shared {
        self.shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memfd::{Ownership, create};
    use nix::unistd::{getegid, geteuid};

    #[test]
    fn stores_reach_the_file() {
        let ownership = Ownership {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            mode: 0o600,
        };
        let file = create(c"test", 4096, ownership).unwrap();
        let mapping = Mapping::new(&file).unwrap();
        mapping.shared().copy_in(0, b"hello").unwrap();
        let mut bytes = [0; 5];
        nix::unistd::read(&file, &mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
    }

    #[test]
    fn a_file_that_could_shrink_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(Mapping::new(&file).is_err());
    }
}
