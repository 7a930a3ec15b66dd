//! Rings: slots of a fixed size (DESIGN section 11).
//!
//! [`Producer::stage`], [`Producer::publish`] and [`Consumer::try_receive`] make no system call
//! unless a peer sleeps, and so don't notice by themselves that a grant has ended.

use std::time::Duration;

use sivshm_abi::grant::Kind;
use sivshm_ring::line::ReaderLine;
use sivshm_ring::slots::{Geometry, Received};

use crate::end::{End, Look};
use crate::error::Error;
use crate::integrity::{Keys, Loan, Receiver, Sender, Suite};
use crate::wait::Deadline;

fn geometry(end: &End) -> Result<Geometry, Error> {
    match end.kind {
        Kind::Ring {
            slot_bytes,
            overwrite,
            integrity,
        } => Ok(Geometry {
            slot_bytes,
            overwrite,
            integrity,
        }),
        Kind::Region => Err(Error::Kind("ring")),
    }
}

/// What protects the channel's slots. The keys are wiped: the suite has what it needs of them.
fn suite(end: &mut End, geometry: Geometry) -> Result<Option<Suite>, Error> {
    let keys = end.keys.take();
    let keys = keys.as_ref().map(|keys| Keys {
        key: keys.key(),
        iv: keys.iv(),
    });
    let suite = Suite::new(geometry.integrity, end.channel, end.epoch, keys);
    Ok(suite?)
}

/// The writing end of a ring.
#[derive(Debug)]
pub struct Producer {
    core: Sender,
    end: End,
    slot_bytes: u32,
}

impl Producer {
    pub(crate) fn new(mut end: End) -> Result<Self, Error> {
        let geometry = geometry(&end)?;
        let suite = suite(&mut end, geometry)?;
        let lines = (end.lines())
            .map(|line| ReaderLine::new(line, end.epoch))
            .collect::<Result<_, _>>()?;
        let core = Sender::start(end.data(), geometry, lines, end.epoch, suite)?;
        Ok(Self {
            core,
            end,
            slot_bytes: geometry.slot_bytes,
        })
    }

    /// Waits for the channel's next epoch, if this end was revoked, as
    /// [`RegionWriter::renew`](crate::RegionWriter::renew).
    ///
    /// # Errors
    /// As [`Channel::open`](crate::Channel::open).
    pub fn renew(&mut self, timeout: Duration) -> Result<(), Error> {
        if let Some(end) = self.end.renew(timeout)? {
            *self = Self::new(end)?;
        }
        Ok(())
    }

    /// Number of this pairing of the channel's ends; another one after a renewal, unless the channel
    /// has several readers and it was one of them that came back.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.end.epoch
    }

    /// Bytes that a payload can have.
    #[must_use]
    pub const fn slot_bytes(&self) -> u32 {
        self.slot_bytes
    }

    /// Slots that can be staged now.
    ///
    /// # Errors
    /// [`Error::Peer`]
    pub fn free(&mut self) -> Result<u64, Error> {
        let free = self.core.free();
        free.map_err(|fault| self.end.blame(fault.into()))
    }

    /// Lends the next slot; none if the ring is full.
    ///
    /// # Errors
    /// [`Error::Peer`]
    pub fn loan(&mut self) -> Result<Option<Loan<'_>>, Error> {
        let Self { core, end, .. } = self;
        core.loan().map_err(|error| end.blame(error))
    }

    /// Stages a slot with a payload, for the next [`Self::publish`]. Whether there was one free.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Peer`], [`Error::Key`].
    #[inline]
    pub fn stage(&mut self, payload: &[u8]) -> Result<bool, Error> {
        let staged = self.core.stage(payload);
        staged.map_err(|error| self.end.blame(error))
    }

    /// Publishes every staged slot and rings the consumers that sleep.
    ///
    /// # Errors
    /// [`Error::Revoked`], [`Error::Host`].
    #[inline]
    pub fn publish(&mut self) -> Result<(), Error> {
        self.core.publish();
        for (reader, line) in self.core.readers().iter().enumerate() {
            if line.must_ring() {
                self.end.ring(reader)?;
            }
        }
        Ok(())
    }

    /// Waits until a slot can be staged. What is staged is published first: else the consumers
    /// could not make room.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Revoked`], [`Error::Peer`].
    pub fn wait_free(&mut self, timeout: Duration) -> Result<(), Error> {
        self.publish()?;
        let Self { core, end, .. } = self;
        let deadline = Deadline::after(timeout);
        end.wait(core.sleeper(), deadline, "a free slot", || {
            Ok(match core.free()? {
                0 => Look::WaitFor(core.slowest()?),
                _ => Look::Found(()),
            })
        })
    }

    /// Sends one payload: waits for a free slot if there is none, stages and publishes.
    ///
    /// # Errors
    /// Those of the parts.
    pub fn send(&mut self, payload: &[u8], timeout: Duration) -> Result<(), Error> {
        let deadline = Deadline::after(timeout);
        while !self.stage(payload)? {
            let left = deadline.left("a free slot")?;
            self.wait_free(left.unwrap_or(Duration::MAX))?;
        }
        self.publish()
    }
}

/// A reading end of a ring.
#[derive(Debug)]
pub struct Consumer {
    core: Receiver,
    end: End,
}

impl Consumer {
    pub(crate) fn new(mut end: End) -> Result<Self, Error> {
        let geometry = geometry(&end)?;
        let suite = suite(&mut end, geometry)?;
        let line = end.lines().next().ok_or(Error::Revoked(None))?;
        let core = Receiver::join(end.data(), line, geometry, end.epoch, suite)?;
        Ok(Self { core, end })
    }

    /// Waits for the channel's next epoch, if this end was revoked, as
    /// [`RegionWriter::renew`](crate::RegionWriter::renew).
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

    /// Copies the next payload out, if one is there. Its slot is not given back before
    /// [`Self::acknowledge`].
    ///
    /// # Errors
    /// [`Error::TooLong`] (the payload stays), [`Error::Integrity`] (the slot is given up, and the
    /// next call goes on behind it), [`Error::Outrun`], [`Error::Peer`].
    #[inline]
    pub fn try_receive(&mut self, to: &mut [u8]) -> Result<Option<Received>, Error> {
        let received = self.core.receive(to);
        received.map_err(|error| self.end.blame(error))
    }

    /// Gives every slot received so far back to the producer.
    ///
    /// # Errors
    /// [`Error::Revoked`], [`Error::Host`].
    #[inline]
    pub fn acknowledge(&mut self) -> Result<(), Error> {
        if self.core.acknowledge() {
            self.end.ring(0)?;
        }
        Ok(())
    }

    /// Waits until a payload is there. What was received is acknowledged first: else a full ring
    /// would stay full.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Revoked`].
    pub fn wait(&mut self, timeout: Duration) -> Result<(), Error> {
        if self.core.is_ready() {
            return Ok(());
        }
        self.acknowledge()?;
        let Self { core, end } = self;
        let deadline = Deadline::after(timeout);
        end.wait(core.sleeper(), deadline, "a message", || {
            Ok(match core.is_ready() {
                true => Look::Found(()),
                false => Look::WaitFor(0),
            })
        })
    }

    /// Receives one payload, waiting for it if there is none.
    ///
    /// # Errors
    /// Those of the parts.
    pub fn receive(&mut self, to: &mut [u8], timeout: Duration) -> Result<Received, Error> {
        let deadline = Deadline::after(timeout);
        loop {
            if let Some(received) = self.try_receive(to)? {
                return Ok(received);
            }
            let left = deadline.left("a message")?;
            self.wait(left.unwrap_or(Duration::MAX))?;
        }
    }
}
