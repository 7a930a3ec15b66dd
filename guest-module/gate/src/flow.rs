//! Handshake bytes between a process and its device process: the gate carries them and knows
//! nothing of what they say (DESIGN sections 7 and 9).

use sivshm_abi::control::RING_BYTES;
use sivshm_abi::frame::{FrameHeader, Payload, Reason, SessionId};
use sivshm_abi::limits::{MAX_DATA_BYTES, MAX_GRANTS, MAX_SESSIONS};

use crate::Gate;
use crate::complaint::{Complaint, FlowFault};
use crate::decide::Caller;
use crate::errno::Errno;
use crate::sessions::Stage;

/// Bytes of all frames but `DATA` that the gate may owe at once: a `REVOKED` (12 bytes) for each
/// grant, and an `OPEN` (48), a `CLOSE` (2) and a `RING` (4) for each session.
const OWED_BYTES: usize =
    MAX_GRANTS * (FrameHeader::BYTES + 12) + MAX_SESSIONS * (3 * FrameHeader::BYTES + 48 + 2 + 4);

/// Room in the ring without which no `DATA` is sent: its longest frame, and the half of the ring
/// that it leaves to other frames. So no session's bytes hold a `REVOKED` back.
const ROOM_FOR_DATA: u64 = RING_BYTES / 2 + (FrameHeader::BYTES + MAX_DATA_BYTES) as u64;
const _: () = assert!(OWED_BYTES as u64 <= RING_BYTES / 2 && ROOM_FOR_DATA <= RING_BYTES);

/// What `poll` tells of a session, besides [`Gate::rung`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Readiness {
    /// [`Gate::read`] would not wait: bytes have come, or the session has ended.
    pub data: bool,
    /// State or list of grants have changed since [`Gate::list`].
    pub changed: bool,
    /// [`Gate::write`] would not wait: it can take bytes, or the session has ended.
    pub room: bool,
}

impl Gate {
    /// Moves bytes that the device process has sent to `to`, and returns how many; none are left
    /// of a session that has ended if that is 0. Effects are due afterwards.
    ///
    /// # Errors
    /// [`Errno::NotYet`] if none have come: sleep until [`crate::Effect::Wake`] comes, and ask
    /// again. [`Errno::Denied`] for another address space.
    pub fn read(&mut self, caller: Caller, to: &mut [u8]) -> Result<usize, Errno> {
        let live = self.session(caller)?.is_live();
        let stream = (self.sessions.stream_mut(caller.session)).ok_or(Errno::Ended)?;
        match stream.take(to) {
            0 if live && !to.is_empty() => Err(Errno::NotYet),
            count => Ok(count),
        }
    }

    /// Sends the first bytes of `from` to the device process, as many as one frame and the
    /// session's credit allow, and returns how many. Effects are due afterwards, also after
    /// [`Errno::NotYet`].
    ///
    /// # Errors
    /// [`Errno::NotYet`] if it can take none: sleep until [`crate::Effect::Wake`] comes, and ask
    /// again. [`Errno::Ended`], [`Errno::Denied`] for another address space.
    pub fn write(&mut self, caller: Caller, from: &[u8]) -> Result<usize, Errno> {
        let open = self.live_session(caller)?.stage == Stage::Open;
        if from.is_empty() {
            return Ok(0);
        }
        let stream = (self.sessions.stream(caller.session)).ok_or(Errno::Ended)?;
        let count = from.len().min(MAX_DATA_BYTES).min(stream.credit());
        let Some(bytes) = from.get(..count).filter(|bytes| open && !bytes.is_empty()) else {
            return Err(Errno::NotYet);
        };
        if !self.has_room() || !self.send(caller.session, &Payload::Data(bytes)) {
            self.due.crowded.raise();
            return Err(Errno::NotYet);
        }
        // A ring that is broken is found out here, and ends the session.
        self.live_session(caller)?;
        if let Some(stream) = self.sessions.stream_mut(caller.session) {
            stream.sent(count);
        }
        Ok(count)
    }

    /// What `poll` is to tell. Ask [`Self::frames_owed`] afterwards.
    ///
    /// # Errors
    /// [`Errno::Denied`] for another address space.
    pub fn readiness(&self, caller: Caller) -> Result<Readiness, Errno> {
        let session = self.session(caller)?;
        let stream = (self.sessions.stream(caller.session)).ok_or(Errno::Ended)?;
        let live = session.is_live();
        let may_send = session.stage == Stage::Open && stream.credit() > 0;
        let has_room = self.has_room();
        if may_send && !has_room {
            self.due.crowded.raise();
        }
        Ok(Readiness {
            data: stream.has_unread() || !live,
            changed: session.changes != session.listed,
            room: !live || (may_send && has_room),
        })
    }

    /// Wakes those who could not write, if the ring has room for them now.
    pub(crate) fn relieve_crowd(&mut self) {
        if self.due.crowded.is_up() && self.has_room() {
            self.due.crowded.lower();
            self.due.wake = true;
        }
    }

    /// The stream of an open session has taken a frame in. One without crossed its `CLOSE`.
    pub(crate) fn flowed(&mut self, session: SessionId, taken: Option<Result<(), FlowFault>>) {
        match taken {
            Some(Ok(())) => self.due.wake = true,
            Some(Err(fault)) => {
                self.due.complaint = Some(Complaint::Flow(fault));
                self.end_session(session, Reason::Protocol);
            }
            None => {}
        }
    }

    /// Whether the ring has room for any `DATA`. One that is broken or gone has: sending tells.
    fn has_room(&self) -> bool {
        let room = self.link.as_ref().map(|link| link.rings.room());
        !matches!(room, Some(Ok(room)) if u64::from(room) < ROOM_FOR_DATA)
    }
}
