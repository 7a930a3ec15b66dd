//! Regions: raw bytes with a sequence number and a length (DESIGN section 11).

use std::time::Duration;

use sivshm_ring::line::ReaderLine;
use sivshm_ring::region::{Message, Reader, Writer};

use crate::end::{End, Look};
use crate::error::Error;
use crate::wait::Deadline;

/// The writing end of a region.
///
/// [`Self::write`] does all at once. In its parts: [`Self::wait_seen`], as many
/// [`Self::prepare`] as the message takes, [`Self::publish`].
#[derive(Debug)]
pub struct RegionWriter {
    core: Writer<Vec<ReaderLine>>,
    end: End,
}

impl RegionWriter {
    pub(crate) fn new(end: End) -> Result<Self, Error> {
        let lines = (end.lines())
            .map(|line| ReaderLine::new(line, end.epoch))
            .collect::<Result<_, _>>()?;
        let core = Writer::start(end.data(), lines, end.epoch)?;
        Ok(Self { core, end })
    }

    /// Waits for the channel's next epoch, if this end was revoked; else does nothing. The library
    /// shakes hands again by itself, with fresh keys, and this takes up what came of it.
    ///
    /// # Errors
    /// As [`Channel::open`](crate::Channel::open).
    pub fn renew(&mut self, timeout: Duration) -> Result<(), Error> {
        if let Some(end) = self.end.renew(timeout)? {
            *self = Self::new(end)?;
        }
        Ok(())
    }

    /// Number of this pairing of the channel's ends; another one after a renewal, unless the
    /// channel has several readers and it was one of them that came back.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.end.epoch
    }

    /// Bytes that a message can have.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.core.capacity()
    }

    /// Waits until every reader has acknowledged the last message.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Revoked`], [`Error::Peer`].
    pub fn wait_seen(&mut self, timeout: Duration) -> Result<(), Error> {
        let Self { core, end } = self;
        let deadline = Deadline::after(timeout);
        end.wait(
            core.sleeper(),
            deadline,
            "a reader's acknowledgement",
            || Ok(core.lagging()?.map_or(Look::Found(()), Look::WaitFor)),
        )
    }

    /// Stores bytes of the next message. Readers that have not acknowledged the last one see them
    /// change.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Revoked`].
    pub fn prepare(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        self.end.check()?;
        Ok(self.core.write(offset, bytes)?)
    }

    /// Publishes the region's first `length` bytes, rings the readers that sleep, and gives the
    /// message's number.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Revoked`].
    pub fn publish(&mut self, length: usize) -> Result<u64, Error> {
        self.end.check()?;
        let sequence = self.core.publish(length)?;
        for (reader, line) in self.core.readers().iter().enumerate() {
            if line.must_ring() {
                self.end.ring(reader)?;
            }
        }
        Ok(sequence)
    }

    /// Sends a message whole: waits until the last one is acknowledged, stores and publishes.
    ///
    /// # Errors
    /// Those of the parts.
    pub fn write(&mut self, bytes: &[u8], timeout: Duration) -> Result<u64, Error> {
        self.wait_seen(timeout)?;
        self.prepare(0, bytes)?;
        self.publish(bytes.len())
    }
}

/// The reading end of a region.
#[derive(Debug)]
pub struct RegionReader {
    core: Reader,
    end: End,
}

impl RegionReader {
    pub(crate) fn new(end: End) -> Result<Self, Error> {
        let line = end.lines().next().ok_or(Error::Revoked(None))?;
        let core = Reader::join(end.data(), line, end.epoch)?;
        Ok(Self { core, end })
    }

    /// Waits for the channel's next epoch, as [`RegionWriter::renew`].
    ///
    /// # Errors
    /// As [`Channel::open`](crate::Channel::open).
    pub fn renew(&mut self, timeout: Duration) -> Result<(), Error> {
        if let Some(end) = self.end.renew(timeout)? {
            *self = Self::new(end)?;
        }
        Ok(())
    }

    /// Number of this pairing of the channel's ends; another one after a renewal.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.end.epoch
    }

    /// Waits for a message that was not acknowledged yet.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Revoked`], [`Error::Peer`].
    pub fn wait(&mut self, timeout: Duration) -> Result<Message, Error> {
        let Self { core, end } = self;
        let deadline = Deadline::after(timeout);
        end.wait(core.sleeper(), deadline, "a message", || {
            Ok(core.poll()?.map_or(Look::WaitFor(0), Look::Found))
        })
    }

    /// Copies bytes of a message out. They stay the writer's: judge what was copied, and don't
    /// copy the same bytes twice.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Revoked`], [`Error::Peer`]; what `to` holds then is of no
    /// message.
    pub fn copy_out(
        &mut self,
        message: Message,
        offset: usize,
        to: &mut [u8],
    ) -> Result<(), Error> {
        self.end.check()?;
        let copied = self.core.copy_out(message, offset, to);
        copied.map_err(|error| self.end.blame(error.into()))
    }

    /// Tells the writer that this reader is done with a message.
    ///
    /// # Errors
    /// [`Error::Revoked`], [`Error::Host`].
    pub fn acknowledge(&mut self, message: Message) -> Result<(), Error> {
        self.end.check()?;
        if self.core.acknowledge(message) {
            self.end.ring(0)?;
        }
        Ok(())
    }

    /// Receives a message whole: waits, copies, acknowledges, and gives its length.
    ///
    /// # Errors
    /// Those of the parts; a message longer than `to` stays.
    pub fn read(&mut self, to: &mut [u8], timeout: Duration) -> Result<usize, Error> {
        let message = self.wait(timeout)?;
        let available = to.len();
        let to = to.get_mut(..message.length).ok_or(Error::TooLong {
            needed: message.length,
            available,
        })?;
        self.copy_out(message, 0, to)?;
        self.acknowledge(message)?;
        Ok(message.length)
    }
}
