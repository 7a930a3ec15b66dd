//! The server end of QEMU's ivshmem protocol: how a VMM gets a VM's port (DESIGN sections 6 and
//! 16, `docs/port.md`).
//!
//! Every message is an `i64`, little-endian, on which one descriptor may ride. QEMU blocks its
//! start until the whole set-up has arrived, so all of it is queued at once. Afterwards the only
//! messages are peers that join and leave; QEMU never says anything.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sivshm_abi::grant::RingId;
use sivshm_abi::limits::{MAX_PEERS, MAX_VECTORS};
use sivshm_sys::scm;

use crate::run::outbox::{Flushed, Outbox, Overflow, Right};

/// Version of the protocol, the first message.
const PROTOCOL_VERSION: i64 = 0;

/// The message on which the shared memory rides.
const MEMORY: i64 = -1;

/// The VM's own peer id, by which a VMM knows the vectors of its own port.
const OWN: RingId = RingId(1);

/// The device process's peer id: ringing it means "look at the control rings".
const HOST: RingId = RingId(0);

/// First peer id of another VM; ids go up from here and none is used twice.
pub const FIRST_PEER: RingId = RingId(2);

/// Bytes of a message.
const MESSAGE_BYTES: usize = 8;

/// Most bytes that may wait for a VMM: the whole set-up (three messages, each peer, each own
/// vector), and then each peer leaving and joining eight times while the VMM does not read.
const MAX_WAITING_BYTES: usize = MESSAGE_BYTES * (4 + MAX_PEERS + MAX_VECTORS + 8 * 2 * MAX_PEERS);

/// What a new VMM is told.
#[derive(Debug)]
pub struct SetUp<'a, 'h> {
    /// The control memory.
    pub memory: BorrowedFd<'h>,
    /// Rung by the guest for its device process.
    pub kick: BorrowedFd<'h>,
    /// Established peers, with the doorbell that each gave this VM.
    pub peers: Vec<(RingId, Right<'h>)>,
    /// The port's own vectors, in order.
    pub vectors: &'a [BorrowedFd<'h>],
}

/// Why the VMM on the port has to go.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The connection is gone: the VMM ended.
    #[error("the VMM has closed the port")]
    Closed,
    /// It said something, which the protocol never has it do.
    #[error("the VMM spoke on the port, where a VMM only listens")]
    Spoke,
    /// It does not read.
    #[error(transparent)]
    Overflow(#[from] Overflow),
    /// The socket failed.
    #[error("the port's socket failed")]
    Socket(#[source] io::Error),
}

/// A VMM that is connected to the port.
#[derive(Debug)]
pub struct PortClient<'h> {
    socket: OwnedFd,
    outbox: Outbox<'h>,
}

impl<'h> PortClient<'h> {
    /// Takes up a connection and queues the whole set-up.
    ///
    /// # Errors
    /// [`PortError::Overflow`] for more peers or vectors than the limits allow.
    pub fn new(socket: OwnedFd, set_up: SetUp<'_, 'h>) -> Result<Self, PortError> {
        let mut client = Self {
            socket,
            outbox: Outbox::new(MAX_WAITING_BYTES),
        };
        client.say(PROTOCOL_VERSION, None)?;
        client.say(OWN.into_message(), None)?;
        client.say(MEMORY, Some(Right::Own(set_up.memory)))?;
        client.say(HOST.into_message(), Some(Right::Own(set_up.kick)))?;
        for (id, doorbell) in set_up.peers {
            client.join(id, doorbell)?;
        }
        for vector in set_up.vectors {
            client.say(OWN.into_message(), Some(Right::Own(*vector)))?;
        }
        Ok(client)
    }

    /// Tells of a peer that may be rung from now on.
    ///
    /// # Errors
    /// [`PortError::Overflow`].
    pub fn join(&mut self, id: RingId, doorbell: Right<'h>) -> Result<(), PortError> {
        self.say(id.into_message(), Some(doorbell))
    }

    /// Tells that a peer is gone for good; its id is never used again.
    ///
    /// # Errors
    /// [`PortError::Overflow`].
    pub fn leave(&mut self, id: RingId) -> Result<(), PortError> {
        self.say(id.into_message(), None)
    }

    /// Sends what the VMM takes now.
    ///
    /// # Errors
    /// [`PortError::Socket`].
    pub fn flush(&mut self) -> Result<Flushed, PortError> {
        self.outbox.flush(&self.socket).map_err(PortError::Socket)
    }

    /// Looks at a socket that has become readable.
    ///
    /// # Errors
    /// Every readable state but a spurious one ends the connection.
    pub fn readable(&self) -> Result<(), PortError> {
        match scm::receive(&self.socket, &mut [0; 1]) {
            Ok(received) if received.bytes == 0 => Err(PortError::Closed),
            Ok(_) => Err(PortError::Spoke),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(PortError::Socket(error)),
        }
    }

    fn say(&mut self, message: i64, right: Option<Right<'h>>) -> Result<(), PortError> {
        let rights = right.into_iter().collect();
        Ok(self.outbox.push(message.to_le_bytes().to_vec(), rights)?)
    }
}

impl AsFd for PortClient<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A ring id as a message.
trait IntoMessage {
    fn into_message(self) -> i64;
}

impl IntoMessage for RingId {
    fn into_message(self) -> i64 {
        i64::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::outbox::tests::pair;
    use sivshm_sys::eventfd;
    use std::rc::Rc;

    /// Reads one message as QEMU does, and the number of descriptors on it.
    fn hear(socket: &OwnedFd) -> (i64, Vec<OwnedFd>) {
        let mut bytes = [0; MESSAGE_BYTES];
        let received = scm::receive(socket, &mut bytes).unwrap();
        assert_eq!(received.bytes, MESSAGE_BYTES);
        (i64::from_le_bytes(bytes), received.rights)
    }

    #[test]
    fn the_set_up_is_what_qemu_waits_for() {
        let (here, there) = pair();
        let doorbells: Vec<_> = (0..5).map(|_| eventfd::create().unwrap()).collect();
        let vectors = [doorbells[2].as_fd(), doorbells[3].as_fd()];
        let peer = Rc::new(eventfd::create().unwrap());
        let mut client = PortClient::new(
            here,
            SetUp {
                memory: doorbells[0].as_fd(),
                kick: doorbells[1].as_fd(),
                peers: vec![(FIRST_PEER, Right::Peer(Rc::clone(&peer)))],
                vectors: &vectors,
            },
        )
        .unwrap();
        assert_eq!(client.flush().unwrap(), Flushed::All);
        let heard: Vec<_> = (0..7).map(|_| hear(&there)).collect();
        let said: Vec<_> = heard.iter().map(|(id, fds)| (*id, fds.len())).collect();
        let expected = [(0, 0), (1, 0), (-1, 1), (0, 1), (2, 1), (1, 1), (1, 1)];
        assert_eq!(said, expected);
        eventfd::ring(&heard[4].1[0]).unwrap();
        assert_eq!(
            eventfd::drain(&*peer).unwrap(),
            1,
            "the peer's own doorbell"
        );

        client.leave(FIRST_PEER).unwrap();
        client.join(RingId(3), Right::Peer(peer)).unwrap();
        client.flush().unwrap();
        assert_eq!((hear(&there).0, hear(&there).0), (2, 3));
    }

    #[test]
    fn a_vmm_that_speaks_or_leaves_is_noticed() {
        let set_up = |doorbell| SetUp {
            memory: doorbell,
            kick: doorbell,
            peers: Vec::new(),
            vectors: &[],
        };
        let doorbell = eventfd::create().unwrap();
        let (here, there) = pair();
        let client = PortClient::new(here, set_up(doorbell.as_fd())).unwrap();
        assert!(client.readable().is_ok());
        scm::send(&there, b"x", &[]).unwrap();
        assert!(matches!(client.readable(), Err(PortError::Spoke)));
        drop(there);
        assert!(matches!(client.readable(), Err(PortError::Closed)));
    }

    #[test]
    fn a_vmm_that_does_not_read_is_bounded() {
        let (here, _there) = pair();
        let doorbell = eventfd::create().unwrap();
        let set_up = SetUp {
            memory: doorbell.as_fd(),
            kick: doorbell.as_fd(),
            peers: Vec::new(),
            vectors: &[],
        };
        let mut client = PortClient::new(here, set_up).unwrap();
        let left = (0..1_000_000).find(|_| client.leave(RingId(9)).is_err());
        // The set-up of 255 peers and 256 vectors and eight changes of each peer, less the set-up
        // here: the figures, not the constant, so that one that is raised fails here.
        assert_eq!(left, Some(4 + 255 + 256 + 8 * 2 * 255 - 4));
    }
}
