//! The control rings: frames between a guest's gate and its device process (DESIGN section 7,
//! `docs/control-frames.md`; layout in [`sivshm_abi::control`]).
//!
//! Each side holds its own two indexes in private memory and only tells the other by storing them.
//! Of the other's, one load is judged per call: a peer can stop its own frames, and nothing else.

#[cfg(test)]
mod tests;

use core::fmt;

use sivshm_abi::control;
use sivshm_abi::frame::{FrameHeader, LONGEST_PAYLOAD_BYTES, Payload, SessionId};
use sivshm_abi::grant::Grant;
use sivshm_abi::wire::{Malformed, Writer};

use crate::shared::{OutOfBounds, Shared, Word32};

/// Which end of the control rings this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// The device process.
    Host,
    /// The gate: in the guest kernel, or in-process where a host process stands in for a VM.
    Guest,
}

/// The other side broke the protocol; nothing that it says later can be understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RingFault {
    /// An index that differs from ours by more than the ring holds.
    Index,
    /// A frame that is not all there, or not one of this version.
    Frame(Malformed),
}

impl fmt::Display for RingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index => f.write_str("the peer's control ring index is out of range"),
            Self::Frame(malformed) => write!(f, "the peer sent a bad control frame: {malformed}"),
        }
    }
}

impl core::error::Error for RingFault {}

/// Why a frame was not sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SendError {
    /// The peer has not consumed enough yet; try again after it has rung.
    Full,
    /// The peer broke the protocol.
    Fault(RingFault),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the control ring is full: the peer does not consume"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for SendError {}

impl From<RingFault> for SendError {
    fn from(fault: RingFault) -> Self {
        Self::Fault(fault)
    }
}

/// Bytes of one ring, as indexes count them.
const RING_BYTES: u32 = 1 << control::RING_BYTES.ilog2();

/// Bytes of one ring, as offsets count them.
const RING_LEN: usize = RING_BYTES as usize;

const _: () = assert!(RING_BYTES as u64 == control::RING_BYTES);

/// Where [`ControlRings::receive`] puts the bytes of a frame before it judges them. Too large for a
/// kernel's stack: keep it beside the rings.
pub type Space = [u8; LONGEST_PAYLOAD_BYTES];

/// Longest payload whose bytes are made here; those of `DATA` exist already.
const LONGEST_MADE_BYTES: usize = Grant::BYTES;

/// Both control rings, seen from one side.
///
/// # Invariants
/// - `sent` and `received` are this side's own indexes; they are never read back from memory,
///   except when a guest driver starts.
#[derive(Debug)]
pub struct ControlRings {
    outgoing: Ring,
    incoming: Ring,
    sent: u32,
    received: u32,
}

/// One direction: its bytes and the two indexes, which their owners store.
#[derive(Clone, Copy, Debug)]
struct Ring {
    bytes: Shared,
    tail: Word32,
    head: Word32,
}

impl ControlRings {
    /// Takes up one end of the rings in a whole control memory.
    ///
    /// The host starts with empty rings. A guest goes on where its indexes stand, because an
    /// earlier driver may have used them, and drops frames that were meant for that one: its first
    /// frame is `HELLO`, which makes the host forget earlier sessions too.
    ///
    /// # Errors
    /// [`OutOfBounds`] if `memory` is smaller than [`control::CONTROL_BYTES`].
    pub fn new(memory: Shared, side: Side) -> Result<Self, OutOfBounds> {
        let (host, guest) = (control::HOST_INDEXES, control::GUEST_INDEXES);
        let to_guest = Ring::new(memory, control::HOST_TO_GUEST, host, guest)?;
        let to_host = Ring::new(memory, control::GUEST_TO_HOST, guest, host)?;
        let (outgoing, incoming) = match side {
            Side::Host => (to_guest, to_host),
            Side::Guest => (to_host, to_guest),
        };
        let mut rings = Self {
            outgoing,
            incoming,
            sent: 0,
            received: 0,
        };
        match side {
            Side::Host => rings.reset(),
            Side::Guest => {
                rings.sent = outgoing.tail.load();
                rings.received = incoming.tail.load();
                incoming.head.store(rings.received);
            }
        }
        Ok(rings)
    }

    /// Empties both rings. For the host, before a new client of its port learns of the memory.
    pub fn reset(&mut self) {
        for ring in [self.outgoing, self.incoming] {
            ring.tail.store(0);
            ring.head.store(0);
        }
        self.sent = 0;
        self.received = 0;
    }

    /// Bytes that frames sent now may have together, headers included.
    ///
    /// # Errors
    /// [`RingFault::Index`]: [`Self::send`] would fail, too.
    pub fn room(&self) -> Result<u32, RingFault> {
        let used = self.sent.wrapping_sub(self.outgoing.head.load()); // SYNC POINT: frame-consumed
        RING_BYTES.checked_sub(used).ok_or(RingFault::Index)
    }

    /// Sends a frame. The peer does not know before it is rung.
    ///
    /// # Errors
    /// [`SendError`]; nothing is sent then.
    pub fn send(&mut self, session: SessionId, payload: &Payload<'_>) -> Result<(), SendError> {
        let mut space = [0; LONGEST_MADE_BYTES];
        // The space is that of the longest payload: `Full` is unreachable here.
        let payload_bytes = encode(payload, &mut space).ok_or(SendError::Full)?;
        let header = FrameHeader {
            length: u32::try_from(payload_bytes.len()).map_err(|_| SendError::Full)?,
            kind: payload.kind(),
            session,
        };
        let len = HEADER_BYTES
            .checked_add(header.length)
            .ok_or(SendError::Full)?;
        if len > self.room()? {
            return Err(SendError::Full);
        }
        let body = self.sent.wrapping_add(HEADER_BYTES);
        self.outgoing.put(self.sent, &header.to_bytes())?;
        self.outgoing.put(body, payload_bytes)?;
        self.sent = self.sent.wrapping_add(len);
        self.outgoing.tail.store(self.sent); // SYNC POINT: frame-produced
        Ok(())
    }

    /// The next frame, if there is one; the bytes of `DATA` are in `space` then.
    ///
    /// # Errors
    /// [`RingFault`]: the frame is not consumed, so that every later call fails as well until
    /// [`Self::reset`]. End the connection.
    pub fn receive<'s>(
        &mut self,
        space: &'s mut Space,
    ) -> Result<Option<(SessionId, Payload<'s>)>, RingFault> {
        let tail = self.incoming.tail.load(); // SYNC POINT: frame-produced
        let available = tail.wrapping_sub(self.received);
        if available == 0 {
            return Ok(None);
        }
        if available > RING_BYTES {
            return Err(RingFault::Index);
        }
        let mut header = [0; FrameHeader::BYTES];
        let mut frame_end = self.received;
        self.incoming.take(&mut frame_end, tail, &mut header)?;
        let header = FrameHeader::from_bytes(&header).map_err(RingFault::Frame)?;
        let payload = usize::try_from(header.length)
            .ok()
            .and_then(|len| space.get_mut(..len))
            .ok_or(RingFault::Frame(Malformed::BadValue("frame.length")))?;
        self.incoming.take(&mut frame_end, tail, payload)?;
        let payload = Payload::read(header.kind, payload).map_err(RingFault::Frame)?;
        self.received = frame_end;
        self.incoming.head.store(frame_end); // SYNC POINT: frame-consumed
        Ok(Some((header.session, payload)))
    }
}

/// The bytes of a payload, if `space` holds those that are not there yet.
fn encode<'a>(payload: &Payload<'a>, space: &'a mut [u8; LONGEST_MADE_BYTES]) -> Option<&'a [u8]> {
    if let Payload::Data(bytes) = payload {
        return Some(bytes);
    }
    let mut writer = Writer::new(space);
    payload.write(&mut writer).ok()?;
    let length = writer.written();
    space.get(..length)
}

impl Ring {
    /// The ring whose bytes are at `bytes`, whose producer's and consumer's index pages are at
    /// `producer` and `consumer`.
    fn new(memory: Shared, bytes: u64, producer: u64, consumer: u64) -> Result<Self, OutOfBounds> {
        let at = |offset: u64| {
            usize::try_from(offset).map_err(|_| OutOfBounds {
                offset: usize::MAX,
                bytes: 0,
                len: memory.len(),
            })
        };
        Ok(Self {
            bytes: memory.sub(at(bytes)?, RING_LEN)?,
            tail: memory.word32(at(producer + control::TAIL)?)?,
            head: memory.word32(at(consumer + control::HEAD)?)?,
        })
    }

    /// Stores `from` at index `at`, in two parts if the ring ends within it.
    fn put(&self, at: u32, from: &[u8]) -> Result<(), RingFault> {
        let at = position(at);
        let (first, rest) = from.split_at(from.len().min(RING_LEN - at));
        self.bytes
            .copy_in(at, first)
            .and_then(|()| self.bytes.copy_in(0, rest))
            .map_err(|_| RingFault::Index)
    }

    /// Copies `to.len()` bytes out from index `at` on, which moves on; none lie beyond `tail`.
    fn take(&self, at: &mut u32, tail: u32, to: &mut [u8]) -> Result<(), RingFault> {
        let len = u32::try_from(to.len()).map_err(|_| RingFault::Index)?;
        if len > tail.wrapping_sub(*at) {
            return Err(RingFault::Frame(Malformed::Truncated("frame")));
        }
        let from = position(*at);
        let split = to.len().min(RING_LEN - from);
        let (first, rest) = to.split_at_mut(split);
        self.bytes
            .copy_out(from, first)
            .and_then(|()| self.bytes.copy_out(0, rest))
            .map_err(|_| RingFault::Index)?;
        *at = at.wrapping_add(len);
        Ok(())
    }
}

/// Bytes of a frame's header, as indexes count them.
const HEADER_BYTES: u32 = 12;
const _: () = assert!(HEADER_BYTES as usize == FrameHeader::BYTES);

/// Where in a ring's bytes an index points; always below [`RING_LEN`].
const fn position(index: u32) -> usize {
    (index & (RING_BYTES - 1)) as usize
}
