//! Sealed memory files: slices and control memory (DESIGN section 5).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown, ftruncate};

/// Seals of a memory file, as the kernel numbers them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seals(u32);

impl Seals {
    /// What every shared memory file carries: it can't shrink (a holder's mapping can't be pulled
    /// away), grow, become executable or lose or gain another seal.
    pub const FIXED: Self = Self(0x1 | 0x2 | 0x4 | 0x20);

    /// Seals from the kernel's bits.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The kernel's bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether every seal of `other` is among these.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Who may open a memory file again through `/proc`, and how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ownership {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// Creates a memory file of exactly `bytes`, with its final owner, mode and seals
/// ([`Seals::FIXED`]), and checks that it has them.
///
/// # Errors
/// The host refuses a step (kernel before 6.3, no right to change the owner, no memory).
pub fn create(name: &CStr, bytes: u64, ownership: Ownership) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC
        | MFdFlags::MFD_ALLOW_SEALING
        | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let file = memfd_create(name, flags)?;
    ftruncate(&file, i64::try_from(bytes).map_err(io::Error::other)?)?;
    let (uid, gid) = (Uid::from_raw(ownership.uid), Gid::from_raw(ownership.gid));
    fchown(&file, Some(uid), Some(gid))?;
    fchmod(&file, Mode::from_bits_truncate(ownership.mode))?;
    // MFD_NOEXEC_SEAL has set F_SEAL_EXEC already.
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    if seals_of(&file)? == Seals::FIXED {
        Ok(file)
    } else {
        Err(io::Error::other("the host did not set all seals"))
    }
}

/// Seals of a memory file.
///
/// # Errors
/// `EINVAL` if the file can't have seals.
pub fn seals_of(file: impl AsFd) -> io::Result<Seals> {
    let bits = fcntl(file, FcntlArg::F_GET_SEALS)?;
    u32::try_from(bits).map(Seals).map_err(io::Error::other)
}

/// Opens the same file again, read-only: an open file description of its own, whose flags and
/// offset no holder of another one can change.
///
/// # Errors
/// `/proc` is not there, or the caller may not read the file.
pub fn reopen_read_only(file: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    Ok(open(path.as_str(), flags, Mode::empty())?)
}

/// Gives back all memory of a file of `bytes`: whoever has it mapped reads zeroes from now on. Its size
/// stays, so no holder's access faults.
///
/// # Errors
/// The file was not opened for writing, or can't lose memory.
pub fn punch(file: &OwnedFd, bytes: u64) -> io::Result<()> {
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let bytes = i64::try_from(bytes).map_err(io::Error::other)?;
    Ok(fallocate(file, mode, 0, bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::fstat;
    use nix::unistd::{getegid, geteuid};

    fn own(mode: u32) -> Ownership {
        Ownership {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            mode,
        }
    }

    #[test]
    fn a_memory_file_is_what_was_asked_for_and_stays_so() {
        let file = create(c"test", 8192, own(0o664)).unwrap();
        let stat = fstat(&file).unwrap();
        assert_eq!((stat.st_size, stat.st_mode & 0o7777), (8192, 0o664));
        assert_eq!(seals_of(&file).unwrap(), Seals::FIXED);
        assert_eq!(ftruncate(&file, 4096), Err(nix::Error::EPERM));
        assert_eq!(ftruncate(&file, 16384), Err(nix::Error::EPERM));
        assert_eq!(
            fchmod(&file, Mode::from_bits_truncate(0o777)),
            Err(nix::Error::EPERM)
        );
    }

    #[test]
    fn a_reopened_file_is_another_open_file_and_read_only() {
        let file = create(c"test", 4096, own(0o600)).unwrap();
        let reader = reopen_read_only(&file).unwrap();
        nix::unistd::write(&file, b"x").unwrap();
        assert_eq!(nix::unistd::write(&reader, b"y"), Err(nix::Error::EBADF));
        let mut byte = [0];
        assert_eq!(nix::unistd::read(&reader, &mut byte), Ok(1));
        assert_eq!(&byte, b"x", "the reader has an offset of its own");
    }

    #[test]
    fn a_punched_file_is_empty_for_everybody_and_keeps_its_size() {
        let file = create(c"test", 8192, own(0o600)).unwrap();
        let reader = reopen_read_only(&file).unwrap();
        nix::unistd::write(&file, &[7; 8192]).unwrap();
        punch(&file, 8192).unwrap();
        let stat = fstat(&file).unwrap();
        assert_eq!((stat.st_size, stat.st_blocks), (8192, 0));
        let mut bytes = [1; 8192];
        assert_eq!(nix::unistd::read(&reader, &mut bytes), Ok(8192));
        assert_eq!(bytes, [0; 8192]);
        assert!(punch(&reader, 8192).is_err(), "a reader can't");
    }
}
