//! What waits to be sent on a socket: bytes, and the descriptors that ride on them.
//!
//! Nothing here blocks. A partly sent message goes on without its descriptors, which the kernel
//! took with its first byte (DESIGN section 8).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use sivshm_sys::scm;

/// A descriptor to send; the sender keeps its original.
#[derive(Clone, Debug)]
pub enum Right<'h> {
    /// One that this device process opened before it was confined.
    Own(BorrowedFd<'h>),
    /// One that an authenticated peer sent.
    Peer(Rc<OwnedFd>),
}

impl AsFd for Right<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(fd) => fd.as_fd(),
            Self::Peer(fd) => fd.as_fd(),
        }
    }
}

/// How far [`Outbox::flush`] came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flushed {
    /// Everything is on its way.
    All,
    /// The socket is full: go on when it is writable.
    Full,
    /// Too many descriptors are on their way on this host: go on after a while.
    TooManyRights,
}

/// More waits than the receiver can have any use for: it does not read.
#[derive(Debug, thiserror::Error)]
#[error("the receiver does not read what it is sent: {bytes} bytes wait, at most {max} may")]
pub struct Overflow {
    bytes: usize,
    max: usize,
}

/// A bounded queue of messages for one socket.
#[derive(Debug)]
pub struct Outbox<'h> {
    queue: VecDeque<Message<'h>>,
    waiting: usize,
    max: usize,
}

#[derive(Debug)]
struct Message<'h> {
    bytes: Vec<u8>,
    /// Bytes that the kernel has taken.
    sent: usize,
    rights: Vec<Right<'h>>,
}

impl<'h> Outbox<'h> {
    /// A queue in which at most `max` bytes may wait.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            waiting: 0,
            max,
        }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Appends a message; `rights`, at most [`scm::MAX_RIGHTS`], ride on its first byte.
    ///
    /// # Errors
    /// [`Overflow`]: end the connection.
    pub fn push(&mut self, bytes: Vec<u8>, rights: Vec<Right<'h>>) -> Result<(), Overflow> {
        let waiting = self.waiting.saturating_add(bytes.len());
        if waiting > self.max {
            return Err(Overflow {
                bytes: waiting,
                max: self.max,
            });
        }
        if !bytes.is_empty() {
            self.waiting = waiting;
            self.queue.push_back(Message {
                bytes,
                sent: 0,
                rights,
            });
        }
        Ok(())
    }

    /// Sends what the socket takes now.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush(&mut self, socket: impl AsFd) -> io::Result<Flushed> {
        while let Some(message) = self.queue.front_mut() {
            let rest = message.bytes.get(message.sent..).unwrap_or_default();
            let rights: Vec<_> = message.rights.iter().map(AsFd::as_fd).collect();
            match scm::send(&socket, rest, &rights) {
                Ok(sent) => {
                    message.rights.clear();
                    message.sent = message.sent.saturating_add(sent);
                    self.waiting = self.waiting.saturating_sub(sent);
                    if message.sent >= message.bytes.len() {
                        self.queue.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Flushed::Full);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(Errno::ETOOMANYREFS as i32) => {
                    return Ok(Flushed::TooManyRights);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Flushed::All)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use sivshm_sys::eventfd;

    pub(crate) fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socketpair(AddressFamily::Unix, SockType::Stream, None, flags).unwrap()
    }

    #[test]
    fn a_partly_sent_message_goes_on_without_its_descriptors() {
        let (here, there) = pair();
        let doorbell = eventfd::create().unwrap();
        let long = vec![7; 4 << 20];
        let mut outbox = Outbox::new(long.len());
        outbox
            .push(long.clone(), vec![Right::Own(doorbell.as_fd())])
            .unwrap();
        let (mut bytes, mut rights) = (0, 0);
        loop {
            let flushed = outbox.flush(&here).unwrap();
            let mut buffer = vec![0; 1 << 20];
            while let Ok(received) = scm::receive(&there, &mut buffer) {
                bytes += received.bytes;
                rights += received.rights.len();
            }
            if flushed == Flushed::All {
                break;
            }
            assert_eq!(flushed, Flushed::Full);
        }
        assert_eq!((bytes, rights), (long.len(), 1));
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_a_receiver_does_not_read_is_bounded() {
        let mut outbox = Outbox::new(10);
        outbox.push(vec![0; 6], Vec::new()).unwrap();
        assert!(outbox.push(vec![0; 5], Vec::new()).is_err());
        outbox.push(vec![0; 4], Vec::new()).unwrap();
    }

    #[test]
    fn a_receiver_that_is_gone_is_an_error() {
        let (here, there) = pair();
        drop(there);
        let mut outbox = Outbox::new(10);
        outbox.push(vec![0], Vec::new()).unwrap();
        assert!(outbox.flush(&here).is_err());
    }
}
