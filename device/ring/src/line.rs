//! The two pages through which the ends of a channel tell each other how far they are: the
//! writer's head page and each reader's acknowledgement line (layout in [`sivshm_abi::channel`]).
//!
//! Either page has a count, a `waiting` flag and the epoch for which they are valid, and is stored
//! to by its owner only.

use core::fmt;

use sivshm_abi::channel::{ack, head};

use crate::shared::{OutOfBounds, Shared, Word64};
use crate::sync::store_load_fence;
use crate::wake::Sleeper;

/// The peer stored what no correct peer stores: the channel is of no use any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// A reader acknowledges more than was published to it.
    Ahead,
    /// A count fell.
    Backwards,
    /// The writer published more than the ring holds, without having been allowed to overwrite.
    Overrun,
    /// A published slot does not carry its number.
    Slot,
    /// The writer's page left the epoch while a message was copied.
    Withdrawn,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ahead => "the peer acknowledges messages that were never published",
            Self::Backwards => "the peer's count of messages fell",
            Self::Overrun => "the peer overwrote messages that were not acknowledged",
            Self::Slot => "the peer published a slot without its number",
            Self::Withdrawn => "the peer withdrew a message while it was copied",
        })
    }
}

impl core::error::Error for Fault {}

/// Where a page has its fields.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    count: usize,
    waiting: usize,
    epoch: usize,
}

/// A writer's head page. Its length field belongs to `region` alone.
pub(crate) const HEAD: Layout = Layout {
    count: head::SEQUENCE,
    waiting: head::WAITING,
    epoch: head::EPOCH,
};

/// A reader's acknowledgement line.
pub(crate) const ACK: Layout = Layout {
    count: ack::SEEN,
    waiting: ack::WAITING,
    epoch: ack::EPOCH,
};

/// This end's own page.
#[derive(Debug)]
pub(crate) struct OwnPage {
    count: Word64,
    waiting: Word64,
}

impl OwnPage {
    /// Starts an epoch, or goes on in it: an end whose program starts again finds in its own page
    /// how far it was. Until all of the page belongs to `epoch`, the peer ignores it.
    pub(crate) fn start(
        memory: Shared,
        layout: Layout,
        epoch: u64,
    ) -> Result<(Self, u64), OutOfBounds> {
        let count = memory.word64(layout.count)?;
        let waiting = memory.word64(layout.waiting)?;
        let valid = memory.word64(layout.epoch)?;
        waiting.store(0);
        if valid.load() != epoch {
            valid.store(0);
            count.store(0);
            valid.store(epoch); // SYNC POINT: epoch-begun
        }
        Ok((Self { count, waiting }, count.load()))
    }

    /// Tells the peer how far this end is; everything stored before becomes visible to it.
    pub(crate) fn advance(&self, count: u64) {
        self.count.store(count); // SYNC POINT: count-advanced
    }

    pub(crate) const fn sleeper(&self) -> Sleeper {
        Sleeper::new(self.waiting)
    }
}

/// The peer's page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerPage {
    count: Word64,
    waiting: Word64,
    valid: Word64,
    epoch: u64,
}

impl PeerPage {
    pub(crate) fn new(memory: Shared, layout: Layout, epoch: u64) -> Result<Self, OutOfBounds> {
        Ok(Self {
            count: memory.word64(layout.count)?,
            waiting: memory.word64(layout.waiting)?,
            valid: memory.word64(layout.epoch)?,
            epoch,
        })
    }

    /// How far the peer says it is; `None` while its page belongs to another epoch.
    ///
    /// The epoch is judged on both sides of the count, so that neither a count left over from the
    /// last epoch nor one of the next is taken for one of this.
    pub(crate) fn count(&self) -> Option<u64> {
        let before = self.is_valid(); // SYNC POINT: epoch-begun
        let count = self.count.load(); // SYNC POINT: count-advanced
        (before && self.is_valid()).then_some(count)
    }

    /// Whether the page belongs to this epoch: if it does, so did everything of the writer's that was
    /// loaded before. A channel whose grants have ended may be empty pages by now; all of its pages
    /// become so at once, so that this one tells of the others.
    pub(crate) fn is_valid(&self) -> bool {
        self.valid.load() == self.epoch
    }

    /// Whether the peer sleeps and must be rung, after this end has advanced.
    pub(crate) fn must_ring(&self) -> bool {
        store_load_fence(); // SYNC POINT: sleep-or-ring
        self.waiting.load() != 0
    }
}

/// A reader's acknowledgement line, as the writer sees it.
#[derive(Clone, Copy, Debug)]
pub struct ReaderLine(PeerPage);

impl ReaderLine {
    /// Takes a line into use. `memory` begins where the line's grant does.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the grant is smaller than a line.
    pub fn new(memory: Shared, epoch: u64) -> Result<Self, OutOfBounds> {
        PeerPage::new(memory, ACK, epoch).map(Self)
    }

    /// What the reader is done with, of `published`; nothing before it has joined the epoch.
    pub(crate) fn seen(&self, published: u64) -> Result<u64, Fault> {
        match self.0.count().unwrap_or_default() {
            seen if seen > published => Err(Fault::Ahead),
            seen => Ok(seen),
        }
    }

    /// Whether this reader sleeps and must be rung, after the writer has published.
    #[must_use]
    pub fn must_ring(&self) -> bool {
        self.0.must_ring()
    }
}

/// The slowest reader, by its number, and what it is done with, of `published`. Without readers
/// everything is done with.
pub(crate) fn slowest(lines: &[ReaderLine], published: u64) -> Result<(usize, u64), Fault> {
    let mut slowest = (0, published);
    for (reader, line) in lines.iter().enumerate() {
        let seen = line.seen(published)?;
        if seen < slowest.1 {
            slowest = (reader, seen);
        }
    }
    Ok(slowest)
}
