//! Doorbells: eventfds.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// An eventfd.
#[derive(Debug)]
pub(crate) struct Doorbell(OwnedFd);

impl Doorbell {
    /// A new one.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(EventFd::from_flags(flags)?.into()))
    }

    /// Rings. One that can't count further has been rung already, which is success.
    pub(crate) fn ring(&self) -> io::Result<()> {
        let mut ready = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut ready, PollTimeout::ZERO)? == 0 {
            return Ok(());
        }
        match nix::unistd::write(&self.0, &1_u64.to_ne_bytes()) {
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes the rings of an own doorbell so far: it can be polled for the next.
    pub(crate) fn hush(&self) {
        // A failure leaves it rung: whoever polls it looks once more.
        let _rings = nix::unistd::read(&self.0, &mut [0; 8]);
    }
}

impl From<OwnedFd> for Doorbell {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doorbell_that_can_not_count_further_blocks_nobody() {
        let bell = Doorbell::new().unwrap();
        nix::unistd::write(&bell.0, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        bell.ring().unwrap();
    }
}
