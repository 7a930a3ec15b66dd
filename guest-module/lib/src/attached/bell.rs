//! How doorbells are heard.
//!
//! Nobody takes a doorbell's count: every listener watches for edges with an epoll of its own, so
//! that several ends of channels hear the same peer, and what other holders do to the counter or
//! to the file's flags changes nothing.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::backend::Bell;
use crate::doorbell::Doorbell;
use crate::error::Error;

/// One listener to some doorbells.
#[derive(Debug)]
pub(crate) struct Ears(Epoll);

impl Ears {
    /// Listens from now on; a doorbell that was ever rung is heard once at the start.
    pub(crate) fn new(doorbells: &[&Doorbell]) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for doorbell in doorbells {
            let edges = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            epoll.add(doorbell, EpollEvent::new(edges, 0))?;
        }
        Ok(Self(epoll))
    }

    /// Listens to a file that stays readable until it is read, too.
    pub(crate) fn and_file(self, file: impl AsFd) -> io::Result<Self> {
        self.0.add(file, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(self)
    }

    /// Sleeps until something is heard, or `left` has passed.
    pub(crate) fn listen(&self, left: Option<Duration>) -> io::Result<()> {
        let timeout = left.map_or(EpollTimeout::NONE, |left| {
            // Rounded up, so that the last sleep is not a busy loop.
            let millis = left.as_micros().div_ceil(1000);
            EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
        });
        match self.0.wait(&mut [EpollEvent::empty(); 4], timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Bell for Ears {
    fn sleep(&mut self, left: Option<Duration>) -> Result<(), Error> {
        self.listen(left).map_err(Error::host("wait for the peer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether something is heard within no time.
    fn hears(ears: &Ears) -> bool {
        let mut events = [EpollEvent::empty(); 1];
        ears.0.wait(&mut events, EpollTimeout::ZERO).unwrap() > 0
    }

    #[test]
    fn every_listener_hears_every_ring() {
        let bell = Doorbell::new().unwrap();
        let [first, second] = [(); 2].map(|()| Ears::new(&[&bell]).unwrap());
        for _ in 0..3 {
            assert!(!hears(&first) && !hears(&second));
            bell.ring().unwrap();
            assert!(hears(&first) && hears(&second));
        }
    }
}
