//! Doorbells: eventfds that parties who don't trust each other share (DESIGN section 5).
//!
//! `O_NONBLOCK` is a flag of the open file, so any holder can clear it. Nothing here relies on it.
#![expect(unsafe_code, reason = "preadv2 has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Creates a doorbell that nobody has rung.
///
/// # Errors
/// The process has no descriptor left.
pub fn create() -> io::Result<OwnedFd> {
    Ok(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?.into())
}

/// Rings a doorbell. One that can't count further is rung already, which is success.
///
/// A holder that clears `O_NONBLOCK` and fills the counter between the two calls made here can
/// still block the caller; ring only doorbells whose other holders serve the same VM.
///
/// # Errors
/// The descriptor is not an eventfd.
pub fn ring(doorbell: impl AsFd) -> io::Result<()> {
    let mut ready = [PollFd::new(doorbell.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut ready, PollTimeout::ZERO)? == 0 {
        return Ok(());
    }
    match nix::unistd::write(&doorbell, &1_u64.to_ne_bytes()) {
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes the count of a doorbell without blocking, whatever its flags are; 0 if nobody has rung.
///
/// # Errors
/// The descriptor is not an eventfd.
pub fn drain(doorbell: impl AsFd) -> io::Result<u64> {
    let mut count = [0_u8; 8];
    let part = libc::iovec {
        iov_base: count.as_mut_ptr().cast(),
        iov_len: count.len(),
    };
    // SAFETY:
    // - `doorbell` is borrowed for the whole call, so the descriptor stays open;
    // - `part` is one iovec that covers exactly `count`, which outlives the call;
    // - offset -1 means "at the file's position" and is ignored by an eventfd.
    let taken = unsafe {
        libc::preadv2(
            doorbell.as_fd().as_raw_fd(),
            &raw const part,
            1,
            -1,
            libc::RWF_NOWAIT,
        )
    };
    match Errno::result(taken) {
        Ok(8) => Ok(u64::from_ne_bytes(count)),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(Errno::EAGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    #[test]
    fn rings_are_counted_and_taken_once() {
        let doorbell = create().unwrap();
        assert_eq!(drain(&doorbell).unwrap(), 0);
        ring(&doorbell).unwrap();
        ring(&doorbell).unwrap();
        assert_eq!(drain(&doorbell).unwrap(), 2);
        assert_eq!(drain(&doorbell).unwrap(), 0);
    }

    /// I5: what one holder does to the flags and the counter can't stop another.
    #[test]
    fn a_doorbell_made_blocking_and_full_blocks_nobody() {
        let doorbell = create().unwrap();
        fcntl(&doorbell, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        assert_eq!(drain(&doorbell).unwrap(), 0);
        nix::unistd::write(&doorbell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        ring(&doorbell).unwrap();
        assert_eq!(drain(&doorbell).unwrap(), u64::MAX - 1);
    }
}
