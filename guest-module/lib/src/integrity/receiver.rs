//! A reading end of a ring, with or without integrity.

use sivshm_ring::Shared;
use sivshm_ring::slots::{self, Geometry, ReceiveError, Received};
use sivshm_ring::wake::Sleeper;

use super::Suite;
use crate::error::Error;

/// A reading end of a ring, over memory of the caller's.
#[derive(Debug)]
pub struct Receiver {
    core: slots::Consumer,
    opener: Option<Opener>,
}

/// Proves slots in private memory.
#[derive(Debug)]
struct Opener {
    suite: Suite,
    /// As long as a slot's payload, for callers whose own buffer is shorter.
    buffer: Vec<u8>,
}

impl Receiver {
    /// Joins an epoch: `range` is the channel's, `line` this consumer's acknowledgement line.
    ///
    /// # Errors
    /// [`Error::TooLong`] if the range does not hold two slots, or the line is smaller than a page.
    pub fn join(
        range: Shared,
        line: Shared,
        geometry: Geometry,
        epoch: u64,
        suite: Option<Suite>,
    ) -> Result<Self, Error> {
        let slot_bytes = usize::try_from(geometry.slot_bytes).unwrap_or(usize::MAX);
        Ok(Self {
            core: slots::Consumer::join(range, line, geometry, epoch)?,
            opener: suite.map(|suite| Opener {
                suite,
                buffer: vec![0; slot_bytes],
            }),
        })
    }

    /// Copies the next payload out, if one is there and is what was sent.
    ///
    /// # Errors
    /// [`Error::TooLong`] (the payload stays), [`Error::Integrity`] (the slot is given up),
    /// [`Error::Outrun`], [`Error::Peer`].
    pub fn receive(&mut self, to: &mut [u8]) -> Result<Option<Received>, Error> {
        let available = to.len();
        let received = match &mut self.opener {
            None => self.core.receive(to),
            Some(opener) => opener.receive(&mut self.core, to),
        };
        received.map_err(|error| match error {
            ReceiveError::TooLong(needed) => Error::TooLong { needed, available },
            ReceiveError::Outrun => Error::Outrun,
            ReceiveError::Integrity(fault) => Error::Integrity(fault),
            ReceiveError::Fault(fault) => Error::Peer(fault),
        })
    }

    /// Gives every slot received so far back to the producer, and says whether it must be rung.
    #[must_use = "a producer that sleeps must be rung"]
    pub fn acknowledge(&mut self) -> bool {
        self.core.acknowledge()
    }

    /// Whether a slot is waiting to be received.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.core.is_ready()
    }

    /// How to sleep until something is published.
    #[must_use]
    pub const fn sleeper(&self) -> Sleeper {
        self.core.sleeper()
    }
}

impl Opener {
    fn receive(
        &mut self,
        core: &mut slots::Consumer,
        to: &mut [u8],
    ) -> Result<Option<Received>, ReceiveError> {
        let Self { suite, buffer } = self;
        let room = to.len();
        if room >= buffer.len() {
            return core.receive_sealed(to, room, |header, payload| suite.open(header, payload));
        }
        let received =
            core.receive_sealed(buffer, room, |header, payload| suite.open(header, payload))?;
        let length = received.map_or(0, |received| received.length);
        if let (Some(to), Some(payload)) = (to.get_mut(..length), buffer.get(..length)) {
            to.copy_from_slice(payload);
        }
        Ok(received)
    }
}
