//! `/dev/sivshm` as a hostile process uses it: raw system calls, no library of ours.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sivshm_abi::frame::Reason;
use sivshm_abi::grant::{Grant, Part};
use sivshm_abi::limits::GRANT_OFFSET_SHIFT;
use sivshm_abi::uapi::{self, SessionState};
use sivshm_abi::wire::Reader;

use crate::attempt::load;

/// Longest time to wait for a session's grants, beside a flood, emulated and on a loaded machine.
pub const GRANTS_LIMIT: Duration = Duration::from_secs(60);

/// Most grants that a list is read for here.
const LISTED: u32 = 64;

/// One grant of a session and the slot whose offsets map it.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    pub slot: u32,
    pub grant: Grant,
}

impl Granted {
    /// The `mmap` offset of byte `within` of the grant.
    pub fn offset(&self, within: i64) -> i64 {
        slot_offset(self.slot) + within
    }
}

/// The `mmap` offset at which a slot begins.
pub fn slot_offset(slot: u32) -> i64 {
    i64::from(slot) << GRANT_OFFSET_SHIFT
}

/// An open session.
#[derive(Debug)]
pub struct Session(pub File);

impl Session {
    /// Opens the device file.
    pub fn open() -> nix::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(uapi::DEVICE_PATH);
        file.map(Self)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
    }

    /// The session's state and grants.
    pub fn list(&self) -> nix::Result<(u32, Vec<Granted>)> {
        let mut entries = [0_u8; LISTED as usize * uapi::GRANT_INFO_BYTES];
        let mut list = [0_u8; uapi::LIST_BYTES];
        let address = (entries.as_mut_ptr() as u64).to_le_bytes();
        list[..8].copy_from_slice(&address);
        list[8..12].copy_from_slice(&LISTED.to_le_bytes());
        self.ioctl(3, uapi::LIST, uapi::LIST_BYTES, list.as_mut_ptr())?;
        let field =
            |at: usize| u32::from_le_bytes([list[at], list[at + 1], list[at + 2], list[at + 3]]);
        let count = field(12).min(LISTED) as usize;
        let state = field(16);
        let granted = entries
            .chunks_exact(uapi::GRANT_INFO_BYTES)
            .take(count)
            .filter_map(|entry| {
                let mut reader = Reader::new(entry);
                let slot = reader.u32("slot").ok()?;
                reader.u32("reserved").ok()?;
                Some(Granted {
                    slot,
                    grant: Grant::read(&mut reader).ok()?,
                })
            })
            .collect();
        Ok((state, granted))
    }

    /// Why the session has ended, if it has; none while it lives.
    pub fn ended(&self) -> nix::Result<Option<Reason>> {
        let mut list = [0_u8; uapi::LIST_BYTES];
        self.ioctl(3, uapi::LIST, uapi::LIST_BYTES, list.as_mut_ptr())?;
        let closed = list[16] == SessionState::Closed.code().to_le_bytes()[0];
        let reason = Reason::from_code(u16::from_le_bytes([list[20], list[21]]));
        Ok(reason.ok().filter(|_| closed))
    }

    /// Waits until the session holds `count` grants or has ended.
    pub fn wait_grants(&self, count: usize) -> nix::Result<Vec<Granted>> {
        let deadline = Instant::now() + GRANTS_LIMIT;
        loop {
            let (state, granted) = self.list()?;
            if granted.len() >= count || state == uapi::SessionState::Closed.code() {
                return Ok(granted);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Errno::ETIMEDOUT);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            poll(
                &mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)],
                timeout,
            )?;
        }
    }

    /// Rings the peer of a grant.
    pub fn notify(&self, grant: u32) -> nix::Result<()> {
        let mut argument = grant.to_le_bytes();
        self.ioctl(1, uapi::NOTIFY, argument.len(), argument.as_mut_ptr())
    }

    fn ioctl(&self, direction: u64, number: u8, size: usize, argument: *mut u8) -> nix::Result<()> {
        let request = direction << 30
            | (size as u64) << 16
            | u64::from(uapi::IOCTL_TYPE) << 8
            | u64::from(number);
        // SAFETY: `argument` points to `size` bytes that live and are writable for the whole call;
        // LIST also writes to `entries`, whose address and capacity its caller put there.
        let rc = unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) };
        Errno::result(rc).map(drop)
    }
}

/// A mapping of a window, or an attempt at one.
#[derive(Debug)]
pub struct Mapped {
    pub start: NonNull<u8>,
    pub length: usize,
}

/// Maps `length` bytes at `offset` of `file`.
pub fn map(file: BorrowedFd<'_>, offset: i64, length: usize, prot: i32) -> nix::Result<Mapped> {
    map_flags(file, offset, length, prot, libc::MAP_SHARED)
}

/// Maps with given flags.
pub fn map_flags(
    file: BorrowedFd<'_>,
    offset: i64,
    length: usize,
    prot: i32,
    flags: i32,
) -> nix::Result<Mapped> {
    mmap(file.as_raw_fd(), offset, length, prot, flags)
}

/// Maps memory of this program's own.
pub fn anonymous(length: usize) -> nix::Result<Mapped> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    mmap(-1, 0, length, libc::PROT_READ | libc::PROT_WRITE, flags)
}

fn mmap(file: i32, offset: i64, length: usize, prot: i32, flags: i32) -> nix::Result<Mapped> {
    // SAFETY: the kernel chooses the address, so no existing mapping is replaced.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, prot, flags, file, offset) };
    if start == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    NonNull::new(start.cast())
        .map(|start| Mapped { start, length })
        .ok_or(Errno::EFAULT)
}

impl Mapped {
    /// Loads the first byte.
    pub fn touch(&self) {
        load(self.start);
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: `start..start+length` is what `map` returned and nobody else unmaps it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Duplicates a descriptor number that came from elsewhere.
pub fn adopt(fd: i32) -> OwnedFd {
    // SAFETY: the caller received `fd` from the kernel a moment ago and owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The grant of a kind that a test needs: the part and whether it is writable.
pub fn find(granted: &[Granted], data: bool, writable: bool) -> Option<Granted> {
    granted
        .iter()
        .find(|g| (g.grant.part == Part::Data) == data && g.grant.access.writable() == writable)
        .copied()
}
