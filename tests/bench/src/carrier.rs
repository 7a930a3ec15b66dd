//! Ways for payloads of one size to go from one process to another and back: from memory that both
//! happen to map, up to channels that two services have opened.

use std::hint::spin_loop;
use std::thread;

use anyhow::{Result, ensure};
use sivshm::integrity::{Receiver, Sender};
use sivshm::{Consumer, Integrity, Open, Producer, Session};
use sivshm_abi::channel::{ACK_BYTES, HEAD_BYTES, slot_count};
use sivshm_abi::grant::Access;
use sivshm_ring::line::ReaderLine;
use sivshm_ring::slots::Geometry;

use crate::opening::TIMEOUT;
use crate::raw::{Memory, Part, Raw};

/// Looks between two offers of the processor to others, which a busy machine needs.
const LOOKS: u32 = 1000;

/// Any epoch will do for a ring that is no channel: its memory is fresh.
const EPOCH: u64 = 1;

/// The writing end of what carries payloads.
pub trait Out {
    /// Sends a payload as soon as there is room.
    fn send(&mut self, payload: &[u8]) -> Result<()>;
}

/// The reading end of what carries payloads.
pub trait In {
    /// Receives a payload as soon as there is one.
    fn receive(&mut self, to: &mut [u8]) -> Result<()>;
}

/// What one process has of a way there and a way back.
pub struct Ends {
    /// Where it sends.
    pub out: Box<dyn Out>,
    /// Where it receives.
    pub home: Box<dyn In>,
}

/// Which of the two processes this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Side {
    /// The one that measures. It writes the way there.
    Near,
    /// The one that does as it is told. It writes the way back.
    Far,
}

/// Looks until there is something.
pub fn look<T>(mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    loop {
        for _ in 0..LOOKS {
            if let Some(found) = ready()? {
                return Ok(found);
            }
            spin_loop();
        }
        thread::yield_now();
    }
}

/// Bytes of a channel for payloads of this size, which the policy has as well: sixteen payloads, of which
/// heads and rounding leave at least eight.
pub fn channel_bytes(payload: u32) -> u64 {
    (u64::from(payload) * 16).max(2 * HEAD_BYTES)
}

impl Side {
    /// Memory that both processes map, for `slots` payloads each way.
    pub fn raw(self, memory: &mut Memory, payload: u32, slots: u64) -> Result<Ends> {
        let there = Raw::open(memory, payload, slots)?;
        let back = Raw::open(memory, payload, slots)?;
        let (out, home) = self.mine(there, back);
        Ok(Ends {
            out: Box::new(out.out()),
            home: Box::new(home.home()),
        })
    }

    /// The library's own rings over memory that both processes map, the reader of each page with this
    /// access.
    pub fn rings(self, memory: &mut Memory, payload: u32, reader: Access) -> Result<Ends> {
        let there = Ring::take(memory, payload, self == Self::Near, reader)?;
        let back = Ring::take(memory, payload, self == Self::Far, reader)?;
        let (out, home) = self.mine(there, back);
        Ok(Ends {
            out: Box::new(out.sender()?),
            home: Box::new(home.receiver()?),
        })
    }

    /// Channels that both services have opened, named after `integrity`, payload and direction.
    pub fn channels(
        self,
        session: &Session,
        peer: &str,
        integrity: Integrity,
        payload: u32,
    ) -> Result<Ends> {
        let name = |way: &str| format!("{}-{payload}-{way}", integrity.word());
        let open = Open::new().peer(peer).timeout(TIMEOUT).integrity(integrity);
        // An opening waits for its counterpart: the way there comes first on both sides.
        let (out, home) = match self {
            Self::Near => {
                let out = session.producer(&name("there"), &open)?;
                (out, session.consumer(&name("back"), &open)?)
            }
            Self::Far => {
                let home = session.consumer(&name("there"), &open)?;
                (session.producer(&name("back"), &open)?, home)
            }
        };
        Ok(Ends {
            out: Box::new(out),
            home: Box::new(home),
        })
    }

    /// The way that this process writes, and the one that it reads.
    fn mine<T>(self, there: T, back: T) -> (T, T) {
        match self {
            Self::Near => (there, back),
            Self::Far => (back, there),
        }
    }
}

/// Memory of a ring without integrity that is no channel.
struct Ring {
    range: Part,
    line: Part,
    geometry: Geometry,
}

impl Ring {
    /// Of a ring that this process writes, the line is the other's; else the range is.
    fn take(memory: &mut Memory, payload: u32, writes: bool, reader: Access) -> Result<Self> {
        let (range, line) = match writes {
            true => (Access::ReadWrite, reader),
            false => (reader, Access::ReadWrite),
        };
        Ok(Self {
            range: memory.take(channel_bytes(payload), range)?,
            line: memory.take(ACK_BYTES, line)?,
            geometry: Geometry {
                slot_bytes: payload,
                overwrite: false,
                integrity: Integrity::None,
            },
        })
    }

    fn sender(self) -> Result<Sender> {
        let readers = vec![ReaderLine::new(self.line.shared(), EPOCH)?];
        let range = self.range.shared();
        Ok(Sender::start(range, self.geometry, readers, EPOCH, None)?)
    }

    fn receiver(self) -> Result<Receiver> {
        let (range, line) = (self.range.shared(), self.line.shared());
        Ok(Receiver::join(range, line, self.geometry, EPOCH, None)?)
    }
}

/// Slots of a ring without integrity for payloads of this size.
pub fn slots(payload: u32) -> Option<u64> {
    slot_count(channel_bytes(payload), payload, Integrity::None)
}

impl Out for Sender {
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        look(|| Ok(self.stage(payload)?.then_some(())))?;
        self.publish();
        let sleeps = self.readers().iter().any(ReaderLine::must_ring);
        ensure!(!sleeps, "a reader that polls sleeps");
        Ok(())
    }
}

impl In for Receiver {
    fn receive(&mut self, to: &mut [u8]) -> Result<()> {
        look(|| Ok(Self::receive(self, to)?))?;
        ensure!(!self.acknowledge(), "a writer that polls sleeps");
        Ok(())
    }
}

impl Out for Producer {
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        look(|| Ok(self.stage(payload)?.then_some(())))?;
        Ok(self.publish()?)
    }
}

impl In for Consumer {
    fn receive(&mut self, to: &mut [u8]) -> Result<()> {
        look(|| Ok(self.try_receive(to)?))?;
        Ok(self.acknowledge()?)
    }
}
