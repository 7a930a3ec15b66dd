//! The `region` kind of channel: raw bytes, a sequence number and a length (DESIGN section 11,
//! `docs/channels.md`).
//!
//! The writer stores bytes, then publishes how many there are. Readers copy them out and
//! acknowledge. Bytes stay put until the writer stores to them again: a writer that wants every
//! reader to see a message whole stores nothing while [`Writer::lagging`] names one.

use core::fmt;

use sivshm_abi::channel::{HEAD_BYTES, head};

use crate::line::{ACK, Fault, HEAD, OwnPage, PeerPage, ReaderLine, slowest};
use crate::shared::{OutOfBounds, Shared, Word64};
use crate::sync::load_load_fence;
use crate::wake::Sleeper;

/// The writing end.
#[derive(Debug)]
pub struct Writer<L> {
    body: Shared,
    length: Word64,
    own: OwnPage,
    readers: L,
    sequence: u64,
}

impl<L: AsRef<[ReaderLine]>> Writer<L> {
    /// Starts an epoch on a channel's range, or goes on in it after a restart, with the lines of its readers in the policy's order.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range is smaller than a head page.
    pub fn start(range: Shared, readers: L, epoch: u64) -> Result<Self, OutOfBounds> {
        let (own, sequence) = OwnPage::start(range, HEAD, epoch)?;
        Ok(Self {
            body: body(range)?,
            length: range.word64(head::LENGTH)?,
            own,
            readers,
            sequence,
        })
    }

    /// Bytes that a message can have.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.body.len()
    }

    /// Stores bytes of the next message.
    ///
    /// # Errors
    /// [`OutOfBounds`] if they do not fit the region.
    pub fn write(&mut self, offset: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        self.body.copy_in(offset, from)
    }

    /// Publishes the region's first `length` bytes as a message and returns its number, counted
    /// from 1 in each epoch. Then ring every reader for which [`ReaderLine::must_ring`].
    ///
    /// # Errors
    /// [`OutOfBounds`] if the region has fewer bytes; nothing is published then.
    pub fn publish(&mut self, length: usize) -> Result<u64, OutOfBounds> {
        let refused = self.body.sub(0, length).map(|_| length);
        let length = u64::try_from(refused?).unwrap_or(u64::MAX);
        self.sequence += 1;
        self.length.store(length);
        self.own.advance(self.sequence); // SYNC POINT: message-published
        Ok(self.sequence)
    }

    /// Number of the last message published; 0 before the first.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// A reader, by its number, that has not acknowledged the last message; none if all have.
    ///
    /// # Errors
    /// [`Fault`] if a reader acknowledges what was never published.
    pub fn lagging(&self) -> Result<Option<usize>, Fault> {
        let (reader, seen) = slowest(self.readers.as_ref(), self.sequence)?;
        Ok((seen < self.sequence).then_some(reader))
    }

    /// The readers' lines.
    pub fn readers(&self) -> &[ReaderLine] {
        self.readers.as_ref()
    }

    /// How to sleep until readers have acknowledged.
    #[must_use]
    pub const fn sleeper(&self) -> Sleeper {
        self.own.sleeper()
    }
}

/// A message found in a region.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message {
    /// Its number; a gap says that the writer did not wait for this reader.
    pub sequence: u64,
    /// Its bytes, clamped to what the region holds.
    pub length: usize,
}

/// Why bytes of a message were not copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CopyError {
    /// The message has fewer bytes.
    OutOfBounds(OutOfBounds),
    /// [`Fault::Withdrawn`]: the epoch of the message has ended.
    Fault(Fault),
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfBounds(refused) => refused.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for CopyError {}

impl From<OutOfBounds> for CopyError {
    fn from(refused: OutOfBounds) -> Self {
        Self::OutOfBounds(refused)
    }
}

impl From<Fault> for CopyError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A reading end.
#[derive(Debug)]
pub struct Reader {
    body: Shared,
    length: Word64,
    peer: PeerPage,
    own: OwnPage,
    seen: u64,
}

impl Reader {
    /// Joins an epoch, or goes on in it after a restart: `range` is the channel's, `line` this reader's acknowledgement line.
    ///
    /// # Errors
    /// [`OutOfBounds`] if either is smaller than its page.
    pub fn join(range: Shared, line: Shared, epoch: u64) -> Result<Self, OutOfBounds> {
        let (own, seen) = OwnPage::start(line, ACK, epoch)?;
        Ok(Self {
            body: body(range)?,
            length: range.word64(head::LENGTH)?,
            peer: PeerPage::new(range, HEAD, epoch)?,
            own,
            seen,
        })
    }

    /// The message in the region, if it was not acknowledged yet.
    ///
    /// # Errors
    /// [`Fault`] if the writer's sequence number fell.
    pub fn poll(&mut self) -> Result<Option<Message>, Fault> {
        // SYNC POINT: message-published
        let Some(sequence) = self.peer.count() else {
            return Ok(None);
        };
        if sequence < self.seen {
            return Err(Fault::Backwards);
        }
        if sequence == self.seen {
            return Ok(None);
        }
        let length = self.length.load();
        Ok(self.peer.is_valid().then(|| Message {
            sequence,
            length: usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(self.body.len()),
        }))
    }

    /// Copies bytes of a message out.
    ///
    /// # Errors
    /// [`CopyError`]; what `to` holds then is not the message's.
    pub fn copy_out(
        &self,
        message: Message,
        offset: usize,
        to: &mut [u8],
    ) -> Result<(), CopyError> {
        self.body.sub(0, message.length)?.copy_out(offset, to)?;
        load_load_fence();
        if self.peer.is_valid() {
            Ok(())
        } else {
            Err(Fault::Withdrawn.into())
        }
    }

    /// Tells the writer that this reader is done with a message, and whether the writer must be
    /// rung for it.
    #[must_use = "a writer that sleeps must be rung"]
    pub fn acknowledge(&mut self, message: Message) -> bool {
        self.seen = self.seen.max(message.sequence);
        self.own.advance(self.seen); // SYNC POINT: message-seen
        self.peer.must_ring()
    }

    /// How to sleep until something is published.
    #[must_use]
    pub const fn sleeper(&self) -> Sleeper {
        self.own.sleeper()
    }
}

/// What follows the head page.
fn body(range: Shared) -> Result<Shared, OutOfBounds> {
    const HEAD_LEN: usize = 1 << HEAD_BYTES.ilog2();
    const _: () = assert!(HEAD_LEN as u64 == HEAD_BYTES);
    range.sub(HEAD_LEN, range.len().saturating_sub(HEAD_LEN))
}
