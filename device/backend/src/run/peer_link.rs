//! One connection with another device process: bytes and descriptors between a socket and the
//! handshake's machine (DESIGN section 8).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use sivshm_abi::frame::Reason;
use sivshm_abi::limits::MAX_GRANTS;
use sivshm_abi::name::ChannelName;
use sivshm_handshake::service::limits::MAX_SERVICE_MESSAGE_BYTES;
use sivshm_handshake::service::wire::Message;
use sivshm_handshake::{
    Action, Arrived, EventfdFacts, MemfdFacts, ObjectFacts, PeerHandshake, Refusal,
};
use sivshm_sys::facts::{self, FdInfo};
use sivshm_sys::scm;
use sivshm_sys::socket::{PassRights, PeerCredentials, set_pass_rights};

use crate::run::limits::RIGHTS_AGAIN;
use crate::run::outbox::{Flushed, Outbox, Overflow, Right};
use crate::run::poller::{Interest, Poller, Source};

/// Most bytes that may wait for a peer: the longest manifest (28 KiB), the messages around it, a
/// revocation of 64 bytes for each of 2048 channels, and a message of the service handshake for each
/// pairing that a VM can have, since each takes two grants.
const MAX_WAITING_BYTES: usize = 256 * 1024 + MAX_GRANTS / 2 * MAX_SERVICE_MESSAGE_BYTES;

/// Bytes taken with one `recvmsg`: four TLS records of the greatest length.
const RECEIVE_BYTES: usize = 64 * 1024;

/// Why a connection with a peer ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    /// The machine refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The other end closed without a word.
    #[error("peer: it closed the connection")]
    Closed,
    /// The other end left in good order.
    #[error("peer: its device process ended")]
    Bye,
    /// The kernel dropped descriptors.
    #[error("peer: descriptors were lost on the way")]
    Truncated,
    /// It does not read.
    #[error("peer: {0}")]
    Overflow(#[from] Overflow),
    /// An SVID that the link stands on is not to be believed any more.
    #[error("host: {}", .0.words())]
    Over(Reason),
    /// It named a channel that is not between the two VMs.
    #[error("peer: it revoked the channel `{0}`, which it has no part in")]
    ForeignChannel(ChannelName),
    /// A newer connection of the same peer took over.
    #[error("peer: it has connected again")]
    Replaced,
    /// More connections than a peer may have at a time.
    #[error("peer: too many connections of its user are in their handshake")]
    Crowded,
    /// The peer has come and gone as often as a VMM's peer numbers allow.
    #[error("host: the peer has restarted too often for one run of this device process")]
    RingIds,
    /// The socket failed.
    #[error("peer: its socket failed: {0}")]
    Socket(io::Error),
}

/// One connection.
#[derive(Debug)]
pub struct Connection<'h> {
    socket: OwnedFd,
    source: Source,
    interest: Interest,
    machine: PeerHandshake<Right<'h>>,
    outbox: Outbox<'h>,
    again: Option<Instant>,
    /// Why it has to end, found while something was said to the peer.
    failed: Option<LinkEnd>,
    /// Who is at the other end, as the kernel says.
    pub who: PeerCredentials,
    /// When it began.
    pub started: Instant,
    /// Index of the peer: known from the start where this side dialed, else once it has proved
    /// its SVID.
    pub peer: Option<usize>,
}

impl<'h> Connection<'h> {
    /// Takes up a connected socket and watches it.
    ///
    /// # Errors
    /// The host refuses to watch it.
    pub fn new(
        socket: OwnedFd,
        source: Source,
        machine: PeerHandshake<Right<'h>>,
        who: PeerCredentials,
        poller: &Poller,
        now: Instant,
    ) -> io::Result<Self> {
        poller.watch(&socket, source, Interest::Read)?;
        Ok(Self {
            socket,
            source,
            interest: Interest::Read,
            machine,
            outbox: Outbox::new(MAX_WAITING_BYTES),
            again: None,
            failed: None,
            who,
            started: now,
            peer: None,
        })
    }

    /// The machine, to admit the peer.
    pub const fn machine(&mut self) -> &mut PeerHandshake<Right<'h>> {
        &mut self.machine
    }

    /// Whether the handshake is not complete yet.
    #[must_use]
    pub fn in_handshake(&self) -> bool {
        self.machine.deadline().is_some()
    }

    /// When [`Self::on_time`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        [self.machine.deadline(), self.again]
            .into_iter()
            .flatten()
            .min()
    }

    /// Judges the handshake's deadline and sends what had to wait.
    ///
    /// # Errors
    /// The connection has to end.
    pub fn on_time(&mut self, poller: &Poller, now: Instant) -> Result<(), LinkEnd> {
        if let Some(end) = self.failed.take() {
            return Err(end);
        }
        self.machine.expired(now)?;
        if self.again.is_some_and(|at| at <= now) {
            self.flush(poller, now)?;
        }
        Ok(())
    }

    /// Reads once and says what is to be done; none if nothing is there.
    ///
    /// # Errors
    /// The connection has to end.
    pub fn read(&mut self, fdinfo: &FdInfo) -> Result<Option<Vec<Action<Right<'h>>>>, LinkEnd> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        let received = match scm::receive(&self.socket, &mut buffer) {
            Ok(received) => received,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                    _ => Err(LinkEnd::Socket(error)),
                };
            }
        };
        if received.truncated {
            return Err(LinkEnd::Truncated);
        }
        let bytes = buffer.get(..received.bytes).unwrap_or_default();
        if bytes.is_empty() {
            return Err(LinkEnd::Closed);
        }
        let rights = received.rights.into_iter();
        let rights = rights.map(|descriptor| arrived(descriptor, fdinfo));
        Ok(Some(self.machine.receive(bytes, rights.collect())?))
    }

    /// Queues bytes, and descriptors that ride on them.
    ///
    /// # Errors
    /// The peer does not read.
    pub fn send(&mut self, bytes: Vec<u8>, rights: Vec<Right<'h>>) -> Result<(), LinkEnd> {
        Ok(self.outbox.push(bytes, rights)?)
    }

    /// Says whether the socket takes descriptors. On a kernel older than 6.16 it always does; the
    /// machine then refuses those that nobody asked for.
    ///
    /// # Errors
    /// The socket failed.
    pub fn pass_rights(&self, rights: PassRights) -> Result<(), LinkEnd> {
        set_pass_rights(&self.socket, rights)
            .map(drop)
            .map_err(LinkEnd::Socket)
    }

    /// Sends what the socket takes now.
    ///
    /// # Errors
    /// The socket failed.
    pub fn flush(&mut self, poller: &Poller, now: Instant) -> Result<(), LinkEnd> {
        let flushed = self.outbox.flush(&self.socket).map_err(LinkEnd::Socket)?;
        self.again = (flushed == Flushed::TooManyRights).then(|| now + RIGHTS_AGAIN);
        let interest = match flushed {
            Flushed::Full => Interest::ReadWrite,
            Flushed::All | Flushed::TooManyRights => Interest::Read,
        };
        if interest != self.interest {
            poller
                .change(&self.socket, self.source, interest)
                .map_err(LinkEnd::Socket)?;
            self.interest = interest;
        }
        Ok(())
    }

    /// Tells the peer, if the link is established, that a channel was revoked for good.
    pub fn revoke(&mut self, channel: ChannelName, poller: &Poller, now: Instant) {
        let bytes = self.machine.revoke(channel);
        self.tell(bytes, poller, now);
    }

    /// Passes a message of the service handshake, if the link is established.
    pub fn pass(&mut self, message: &Message, poller: &Poller, now: Instant) {
        let bytes = self.machine.pass(message);
        self.tell(bytes, poller, now);
    }

    /// A peer that can't be told something misses it: [`Self::on_time`] ends the connection then.
    fn tell(&mut self, bytes: Option<Vec<u8>>, poller: &Poller, now: Instant) {
        let said = self.send(bytes.unwrap_or_default(), Vec::new());
        if let Err(end) = said.and_then(|()| self.flush(poller, now)) {
            self.failed = Some(end);
            self.again = Some(now);
        }
    }

    /// Leaves in good order, as far as the socket takes it at once.
    pub fn leave(self) {
        last_words(&self.socket, self.outbox, self.machine.bye());
    }

    /// Ends a connection that was refused: says why, as far as the socket takes it at once.
    pub fn refuse(self) {
        last_words(&self.socket, self.outbox, self.machine.last_words());
    }
}

impl AsFd for Connection<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends once, without waiting; a peer that does not listen misses it.
fn last_words(socket: &OwnedFd, mut outbox: Outbox<'_>, bytes: Vec<u8>) {
    let sent = outbox
        .push(bytes, Vec::new())
        .map_err(io::Error::other)
        .and_then(|()| outbox.flush(socket));
    if let Err(error) = sent {
        tracing::debug!(%error, "the peer did not take the last words");
    }
}

/// A descriptor with what the kernel says about it.
fn arrived<'h>(descriptor: OwnedFd, fdinfo: &FdInfo) -> Arrived<Right<'h>> {
    let facts = match facts::ObjectFacts::of(&descriptor, fdinfo) {
        Ok(facts::ObjectFacts::Memory(memory)) => ObjectFacts::Memfd(MemfdFacts {
            dev: memory.device,
            ino: memory.inode,
            bytes: memory.bytes,
            seals: memory.seals.bits(),
            read_only: memory.read_only,
            uid: memory.ownership.uid,
            gid: memory.ownership.gid,
            mode: memory.ownership.mode,
        }),
        Ok(facts::ObjectFacts::Doorbell(doorbell)) => ObjectFacts::Eventfd(EventfdFacts {
            id: doorbell.id,
            semaphore: doorbell.semaphore,
            nonblocking: doorbell.nonblocking,
        }),
        Ok(facts::ObjectFacts::Other) | Err(_) => ObjectFacts::Other,
    };
    Arrived {
        descriptor: Right::Peer(Rc::new(descriptor)),
        facts,
    }
}
