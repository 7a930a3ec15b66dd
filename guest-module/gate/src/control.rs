//! Frames in, effects and frames out (DESIGN section 7).

use sivshm_abi::frame::{Payload, Reason, SessionId};
use sivshm_abi::limits::MAX_FRAMES_PER_WAKE;
use sivshm_ring::frames::SendError;

use crate::complaint::Complaint;
use crate::{Doorbell, Effect, Gate};

impl Gate {
    /// Takes up to [`MAX_FRAMES_PER_WAKE`] frames of the device process in. Effects are due
    /// afterwards.
    ///
    /// Returns whether there may be more: call again, after others had a chance to run.
    pub fn receive(&mut self) -> bool {
        for _ in 0..MAX_FRAMES_PER_WAKE {
            if !self.send_answer() {
                return false;
            }
            let Some(link) = &mut self.link else {
                return false;
            };
            match link.rings.receive(&mut self.space) {
                Ok(Some((session, Payload::Data(bytes)))) => {
                    let open = self.sessions.open_stream(session);
                    let taken = open.map(|stream| stream.put(bytes));
                    self.flowed(session, taken);
                }
                Ok(Some((session, payload))) => {
                    if let Some(payload) = payload.detached() {
                        self.take_in(session, &payload);
                    }
                }
                Ok(None) => return false,
                Err(fault) => {
                    self.give_up(Complaint::Ring(fault));
                    return false;
                }
            }
        }
        true
    }

    /// What is to be done next; `None` when everything is.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.send_owed();
        self.relieve_crowd();
        if let Some(slot) = self.grants.take_ending() {
            return Some(Effect::Unmap(slot));
        }
        if let Some(complaint) = self.due.complaint.take() {
            return Some(Effect::Report(complaint));
        }
        if core::mem::take(&mut self.due.wake) {
            return Some(Effect::Wake);
        }
        core::mem::take(&mut self.due.ring).then_some(Effect::Ring(Doorbell::CONTROL))
    }

    /// Whether frames are still to be sent, or somebody waits to write, because the device process
    /// has not consumed enough. Ask for effects again after a while.
    #[must_use]
    pub fn frames_owed(&self) -> bool {
        self.due.retry || self.due.crowded.is_up()
    }

    fn take_in(&mut self, session: SessionId, payload: &Payload<'_>) {
        match *payload {
            Payload::Grant(ref grant) => {
                if let Err(fault) = self.on_grant(session, grant) {
                    self.due.complaint = Some(Complaint::Grant(fault));
                }
            }
            Payload::Revoke {
                grant,
                generation,
                reason,
            } => {
                if self.on_revoke(session, grant, generation, reason) {
                    self.due.answer = Some((session, Payload::Revoked { grant, generation }));
                }
            }
            Payload::Close(reason) => self.end_session(session, reason),
            Payload::Ring { credit } => {
                let open = self.sessions.open_stream(session);
                let taken = open.map(|stream| stream.gain(credit));
                self.flowed(session, taken);
            }
            // `DATA` never comes here; the others are a guest's.
            Payload::Data(_)
            | Payload::Hello { .. }
            | Payload::Open(_)
            | Payload::Revoked { .. } => {
                self.due.complaint = Some(Complaint::Unexpected(payload.kind()));
            }
        }
    }

    /// Sends what is owed, as far as the ring has room: what the device process can't do without
    /// comes first.
    fn send_owed(&mut self) {
        self.due.retry = false;
        if let Some(hello) = self.due.hello {
            if !self.send(SessionId(0), &hello) {
                return;
            }
            self.due.hello = None;
        }
        if !self.send_answer() {
            return;
        }
        while let Some((place, session, grant, generation)) = self.grants.first_answer() {
            if !self.send(session, &Payload::Revoked { grant, generation }) {
                return;
            }
            self.grants.answered(place);
        }
        let complete = self.windows.complete();
        while let Some((session, payload)) = self.sessions.first_owed(complete) {
            if !self.send(session, &payload) {
                return;
            }
            // It may be written to now.
            self.due.wake |= self.sessions.told(session, &payload);
        }
    }

    /// Sends the answer to a frame that concerned no slot, if one is due. Whether none is any more.
    fn send_answer(&mut self) -> bool {
        let Some((session, answer)) = self.due.answer else {
            return true;
        };
        let sent = self.send(session, &answer);
        if sent {
            self.due.answer = None;
        }
        sent
    }

    /// Sends a frame. Whether it need not be sent again: without a link nobody is left to be told.
    pub(crate) fn send(&mut self, session: SessionId, payload: &Payload<'_>) -> bool {
        let Some(link) = &mut self.link else {
            return true;
        };
        match link.rings.send(session, payload) {
            Ok(()) => {
                self.due.ring = true;
                true
            }
            Err(SendError::Full) => {
                self.due.retry = true;
                false
            }
            Err(SendError::Fault(fault)) => {
                self.give_up(Complaint::Ring(fault));
                true
            }
        }
    }

    /// The other side can't be believed any more: all grants end.
    pub(crate) fn give_up(&mut self, complaint: Complaint) {
        self.due.complaint = Some(complaint);
        self.sever(Reason::Protocol);
    }

    /// Ends the link and every session.
    pub(crate) fn sever(&mut self, reason: Reason) {
        self.link = None;
        self.due.hello = None;
        self.due.answer = None;
        self.due.ring = false;
        while let Some(session) = self.sessions.first_live() {
            self.end_session(session, reason);
        }
    }
}
