//! Sessions of the guest and what is granted to them (DESIGN sections 7 and 9,
//! `docs/control-frames.md`).
//!
//! A state machine without input or output: frames of the guest go in, frames for the guest queue
//! up in [`Sessions::outgoing`], and what services say in [`Sessions::said`]. A session is opened by
//! the facts that the guest kernel attests, and is a service once an SVID proves the same. Everything
//! is bounded by the policy and by [`sivshm_abi::limits`].

mod ending;
mod flow;
mod opening;
mod parts;
mod session;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use sivshm_abi::frame::{Payload, Reason, SessionId};
use sivshm_abi::grant::Generation;
use sivshm_handshake::service::wire::Message;
use sivshm_policy::plan::ChannelIndex;

use crate::audit::{Audit, AuditError, Blame};
use crate::run::admission::{Numbers, Scope};
use crate::run::bucket::TokenBucket;
use crate::run::limits::MAX_WAITING_FRAMES;
use crate::run::mediation::costly_bucket;
use opening::opens_bucket;
pub use session::Session;
use session::{Stage, pairings};

/// Why the guest's frames can't be served any more.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The guest broke the protocol.
    #[error("the guest sent {0}; restart its driver with the VM")]
    Guest(&'static str),
    /// The host can't record what it does.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// A frame for the guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Frame {
    /// Any but `DATA`.
    Control(Payload<'static>),
    /// The bytes of a `DATA`.
    Data(Vec<u8>),
}

impl Frame {
    /// The frame's payload.
    #[must_use]
    pub fn payload(&self) -> Payload<'_> {
        match self {
            Self::Control(payload) => *payload,
            Self::Data(bytes) => Payload::Data(bytes),
        }
    }
}

/// What pairings have to know about sessions.
#[derive(Debug)]
pub enum Said {
    /// A service that has proved who it is says something.
    Message(SessionId, Box<Message>),
    /// A session has ended.
    Closed(SessionId),
    /// The guest has let go of a part of a channel.
    LetGo(ChannelIndex),
    /// The guest is gone, and every session with it.
    Gone,
}

/// All sessions of the guest.
#[derive(Debug)]
pub struct Sessions {
    driver: bool,
    live: BTreeMap<SessionId, Session>,
    numbers: Numbers,
    hellos: TokenBucket,
    /// How often each service may be opened; under `None`, how often processes that are none are
    /// refused. A flood of one leaves the others theirs.
    opens: BTreeMap<Option<usize>, TokenBucket>,
    /// How often each service may make this process verify signatures, over all of its sessions.
    costly: BTreeMap<usize, TokenBucket>,
    /// Frames for the guest, oldest first.
    pub outgoing: VecDeque<(SessionId, Frame)>,
    /// What happened to sessions, oldest first. Taken before more frames of the guest are read.
    pub said: VecDeque<Said>,
}

impl Sessions {
    /// No sessions yet. `seed` is the generation below all that will be given out: nanoseconds since
    /// the host's boot, so that it grows from one run of the device process to the next.
    #[must_use]
    pub const fn new(seed: Generation, now: Instant) -> Self {
        Self {
            driver: false,
            live: BTreeMap::new(),
            numbers: Numbers::new(seed),
            hellos: opens_bucket(now),
            opens: BTreeMap::new(),
            costly: BTreeMap::new(),
            outgoing: VecDeque::new(),
            said: VecDeque::new(),
        }
    }

    /// Forgets every session, because the guest that had them is gone.
    pub fn forget(&mut self) {
        self.driver = false;
        self.live.clear();
        self.outgoing.clear();
        self.said.clear();
        self.said.push_back(Said::Gone);
    }

    /// Whether the guest's driver has said `HELLO`.
    #[must_use]
    pub const fn driver(&self) -> bool {
        self.driver
    }

    /// The live sessions.
    pub fn live(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.live.iter().map(|(id, session)| (*id, session))
    }

    /// Whether another frame of the guest may be read: not while it leaves the answers unread.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.outgoing.len() < MAX_WAITING_FRAMES
    }

    /// When [`Self::on_time`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let sessions = self.live.values();
        sessions.filter_map(|session| self.due(session)).min()
    }

    /// When something has to be done about a session although the guest says nothing.
    fn due(&self, session: &Session) -> Option<Instant> {
        let waits = session.has_more() && session.proof().is_some();
        let costly = self.costly.get(&session.service);
        let heard = costly.filter(|_| waits).map(TokenBucket::next);
        heard.or(session.until())
    }

    /// Ends sessions that did not prove in time who they are, and hears those that had to wait.
    ///
    /// # Errors
    /// The audit failed.
    pub fn on_time(&mut self, scope: &Scope<'_>, audit: &mut Audit<'_>) -> Result<(), AuditError> {
        let due = |session: &Session| self.due(session).is_some_and(|due| due <= scope.now);
        let due = self.live.iter().filter(|(_, session)| due(session));
        let due: Vec<_> = due.map(|(id, session)| (*id, session.until())).collect();
        for (id, unproved) in due {
            match unproved {
                Some(_) => {
                    let why = "it did not prove in time who it is";
                    self.end(id, Reason::Unproved, Blame::Guest, why, scope, audit)?;
                }
                None => self.hear(id, scope),
            }
        }
        Ok(())
    }

    /// Puts what waits for the guest into frames: the credit for what was consumed, and as many
    /// bytes as it takes.
    pub fn pack(&mut self) {
        for (id, session) in &mut self.live {
            // What is not looked at yet is not given back: that throttles the session, and no other.
            if !session.has_more()
                && let Some(credit) = session.flow.give_back()
            {
                let ring = Payload::Ring { credit };
                self.outgoing.push_back((*id, Frame::Control(ring)));
            }
            while let Some(bytes) = session.flow.cut() {
                self.outgoing.push_back((*id, Frame::Data(bytes)));
            }
        }
    }

    /// Serves one frame of the guest.
    ///
    /// # Errors
    /// [`Fault`]: stop reading frames; if the audit failed, stop altogether.
    pub fn receive(
        &mut self,
        id: SessionId,
        payload: Payload<'_>,
        scope: &Scope<'_>,
        audit: &mut Audit<'_>,
    ) -> Result<(), Fault> {
        match payload {
            Payload::Hello { version, boot } => self.hello(id, version, boot, scope.now, audit),
            _ if !self.driver => Err(Fault::Guest("a frame before HELLO")),
            Payload::Open(facts) => self.open(id, facts, scope, audit),
            Payload::Data(bytes) => Ok(self.data(id, bytes, scope, audit)?),
            Payload::Ring { credit } => Ok(self.credit(id, credit, scope, audit)?),
            Payload::Revoked { grant, generation } => {
                self.acknowledge(id, grant, generation, scope);
                Ok(())
            }
            Payload::Close(_) => Ok(self.close(id, scope, audit)?),
            Payload::Grant(_) | Payload::Revoke { .. } => {
                Err(Fault::Guest("a frame that only the host sends"))
            }
        }
    }

    /// Takes bytes of a session's TLS connection; of one that ended before, nobody misses them.
    fn data(
        &mut self,
        id: SessionId,
        bytes: &[u8],
        scope: &Scope<'_>,
        audit: &mut Audit<'_>,
    ) -> Result<(), AuditError> {
        let Some(session) = self.live.get_mut(&id) else {
            return Ok(());
        };
        let reason = match session.stage {
            Stage::Leaving => return Ok(()),
            Stage::Unproved(_) => Reason::Unproved,
            Stage::Proved(_) => Reason::Protocol,
        };
        match session.take(bytes) {
            Ok(Some(proof)) => self.prove(id, proof, scope, audit)?,
            Ok(None) => {}
            Err(fault) => return self.fault(id, reason, &fault, scope, audit),
        }
        self.hear(id, scope);
        Ok(())
    }

    fn credit(
        &mut self,
        id: SessionId,
        credit: u32,
        scope: &Scope<'_>,
        audit: &mut Audit<'_>,
    ) -> Result<(), AuditError> {
        let returned = self.live.get_mut(&id);
        match returned.map(|session| session.flow.given_back(credit)) {
            Some(Err(overdrawn)) => {
                self.fault(id, Reason::Protocol, &overdrawn.into(), scope, audit)
            }
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Takes what a service has said, as far as its signatures may be verified now.
    fn hear(&mut self, id: SessionId, scope: &Scope<'_>) {
        let session = self.live.get_mut(&id);
        let Some(session) = session.filter(|session| session.proof().is_some()) else {
            return;
        };
        let service = scope.vm.services.get(session.service);
        let costly = self
            .costly
            .entry(session.service)
            .or_insert_with(|| costly_bucket(1, service.map_or(0, pairings), scope.now));
        while let Some(message) = session.next(costly, scope.now) {
            self.said.push_back(Said::Message(id, Box::new(message)));
        }
    }

    /// Tells a service something; one that is gone misses it.
    ///
    /// # Errors
    /// The audit failed.
    pub fn say(
        &mut self,
        id: SessionId,
        message: &Message,
        scope: &Scope<'_>,
        audit: &mut Audit<'_>,
    ) -> Result<(), AuditError> {
        let session = self
            .live
            .get_mut(&id)
            .filter(|session| session.proof().is_some());
        match session.map(|session| session.say(message)) {
            Some(Err(fault)) => self.fault(id, Reason::Protocol, &fault, scope, audit),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
