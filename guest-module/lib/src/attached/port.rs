//! The client end of QEMU's ivshmem protocol: how an attached process gets its VM's port (DESIGN
//! section 16, `docs/port.md`).
//!
//! Messages are `i64`, little-endian, and one descriptor may ride on each: the protocol's version
//! 0, the own id, -1 with the control memory, then doorbells: those with another's id ring it,
//! those with the own id are rung by others, in the order of vectors. An id without a descriptor
//! has left.
#![expect(unsafe_code, reason = "received descriptors are adopted by number")]

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use sivshm_abi::grant::RingId;

use crate::doorbell::Doorbell;

/// Bytes of a message.
const MESSAGE_BYTES: usize = 8;

/// Version of the protocol.
const PROTOCOL_VERSION: i64 = 0;

/// The message on which the control memory rides.
const MEMORY: i64 = -1;

/// Longest pause between two messages of the set-up, in milliseconds. The device process queues
/// all of them at once.
const SET_UP_TIMEOUT_MS: u16 = 5_000;

/// A connection to the port.
#[derive(Debug)]
pub(crate) struct Port {
    socket: UnixStream,
    heard: u64,
    own: i64,
    /// The control memory, once it has come.
    pub(crate) memory: Option<OwnedFd>,
    /// Doorbells of others.
    pub(crate) peers: HashMap<RingId, Doorbell>,
    /// The own vectors, in order.
    pub(crate) vectors: Vec<Doorbell>,
}

/// Connects to the socket at `path`. Nothing has been heard yet.
///
/// # Errors
/// Nobody listens there, or this process may not connect.
pub(crate) fn connect(path: &Path) -> io::Result<Port> {
    UnixStream::connect(path).map(Port::new)
}

impl Port {
    /// Takes up a connection.
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            heard: 0,
            own: 0,
            memory: None,
            peers: HashMap::new(),
            vectors: Vec::new(),
        }
    }

    /// Hears messages until `done`.
    ///
    /// # Errors
    /// As [`Self::hear`]; and the device process stopped in the middle of the set-up.
    pub(crate) fn hear_until(&mut self, done: impl Fn(&Self) -> bool) -> io::Result<()> {
        while !done(self) {
            if !self.hear()? {
                let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::from(SET_UP_TIMEOUT_MS))? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
        Ok(())
    }

    /// Hears one message, if there is one.
    ///
    /// # Errors
    /// The device process has closed the port (`UnexpectedEof`), or broke the protocol.
    pub(crate) fn hear(&mut self) -> io::Result<bool> {
        match self.receive() {
            Ok((message, right)) => self.take_in(message, right).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn take_in(&mut self, message: i64, right: Option<OwnedFd>) -> io::Result<()> {
        let broken = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        self.heard += 1;
        match (self.heard, message, right) {
            (1, PROTOCOL_VERSION, None) => {}
            (1, ..) => return broken("the port speaks another version of the protocol"),
            (2, own, None) => self.own = own,
            (3, MEMORY, Some(memory)) => self.memory = Some(memory),
            (..=3, ..) => return broken("the port's set-up is out of order"),
            (_, own, Some(vector)) if own == self.own => self.vectors.push(vector.into()),
            (_, peer, right) => {
                let Ok(peer) = u16::try_from(peer).map(RingId) else {
                    return broken("the port named a peer that can't be");
                };
                // A doorbell replaces one of the same peer; a peer without one has left.
                self.peers.remove(&peer);
                self.peers.extend(right.map(|right| (peer, right.into())));
            }
        }
        Ok(())
    }

    /// One message, with the descriptor that rode on it.
    fn receive(&self) -> io::Result<(i64, Option<OwnedFd>)> {
        let mut bytes = [0; MESSAGE_BYTES];
        let mut space = cmsg_space!([RawFd; 1]);
        let (got, truncated, mut rights) = {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
            let fd = self.socket.as_raw_fd();
            let message = recvmsg::<()>(fd, &mut parts, Some(&mut space), flags)?;
            let mut rights = Vec::new();
            for control in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(fds) = control {
                    // SAFETY: the kernel has just installed each number for this process, and
                    // nobody else knows it.
                    rights.extend(fds.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
                }
            }
            (
                message.bytes,
                message.flags.contains(MsgFlags::MSG_CTRUNC),
                rights,
            )
        };
        match got {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            MESSAGE_BYTES if !truncated && rights.len() <= 1 => {
                Ok((i64::from_le_bytes(bytes), rights.pop()))
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the port sent half a message, or more than one descriptor on it",
            )),
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
