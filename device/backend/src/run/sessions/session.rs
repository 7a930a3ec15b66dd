//! One session: what the guest kernel says about its process, what the process has proved, its TLS
//! connection, and what it was granted.

use std::collections::VecDeque;
use std::time::Instant;

use sivshm_abi::frame::{Facts, SessionId};
use sivshm_abi::grant;
use sivshm_handshake::service::wire::Message;
use sivshm_handshake::service::{ServiceFault, ServiceSession, SessionEvent, VerifiedService};
use sivshm_policy::plan::{PlannedGrant, Service};

use super::flow::{Flow, Overdrawn, Unread};
use super::parts::Part;
use crate::audit::hex;
use crate::run::admission::Scope;
use crate::run::bucket::TokenBucket;
use crate::run::limits::{PROOF_WITHIN, QUEUED_BYTES, QUEUED_BYTES_PER_PAIRING};
use crate::run::mediation::is_costly;

/// How far a session has come.
#[derive(Debug)]
pub enum Stage {
    /// The facts of its process are those of a service; whose it is has to be proved until then.
    Unproved(Instant),
    /// An SVID says so too.
    Proved(VerifiedService),
    /// The guest was told that it has ended. What it was granted is outstanding until the guest
    /// says so too.
    Leaving,
}

/// A session that the guest has opened and not closed.
#[derive(Debug)]
pub struct Session {
    /// Index of its service in the VM's services.
    pub service: usize,
    /// What the guest kernel attested when it was opened.
    pub facts: Facts,
    pub(super) stage: Stage,
    /// State of each of the service's planned grants, in the plan's order.
    pub(super) parts: Vec<Part>,
    pub(super) flow: Flow,
    tls: ServiceSession,
    /// What the session said and was not looked at yet. Bounded by its credit.
    heard: VecDeque<Message>,
}

/// Why a session has to end.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionFault {
    #[error("it sends more than it has credit for")]
    Overdrawn,
    #[error("it does not read what it is sent")]
    Unread,
    #[error(transparent)]
    Service(#[from] ServiceFault),
}

impl From<Overdrawn> for SessionFault {
    fn from(_: Overdrawn) -> Self {
        Self::Overdrawn
    }
}

impl From<Unread> for SessionFault {
    fn from(_: Unread) -> Self {
        Self::Unread
    }
}

impl Session {
    pub(super) fn new(
        at: usize,
        service: &Service,
        facts: Facts,
        scope: &Scope<'_>,
    ) -> Result<Self, ServiceFault> {
        let pairings = pairings(service);
        let queued = QUEUED_BYTES_PER_PAIRING.saturating_mul(pairings);
        Ok(Self {
            service: at,
            facts,
            stage: Stage::Unproved(scope.now + PROOF_WITHIN),
            parts: vec![Part::Idle; service.grants.len()],
            flow: Flow::new(QUEUED_BYTES.saturating_add(queued)),
            tls: ServiceSession::accept(&scope.credentials, service.name, scope.wall)?,
            heard: VecDeque::new(),
        })
    }

    /// Who the service proved to be, once it has.
    #[must_use]
    pub const fn proof(&self) -> Option<&VerifiedService> {
        match &self.stage {
            Stage::Proved(proof) => Some(proof),
            Stage::Unproved(_) | Stage::Leaving => None,
        }
    }

    /// Grants that have not been taken back.
    #[must_use]
    pub fn grants(&self) -> usize {
        let granted = |part: &&Part| matches!(part, Part::Granted { .. });
        self.parts.iter().filter(granted).count()
    }

    /// What the plan has for this session, each with its state.
    pub(super) fn planned<'a>(
        &'a self,
        scope: &Scope<'a>,
    ) -> impl Iterator<Item = (&'a PlannedGrant, &'a Part)> {
        let service = scope.vm.services.get(self.service);
        let grants = service.map(|service| service.grants.as_slice());
        grants.unwrap_or_default().iter().zip(&self.parts)
    }

    /// Takes bytes of the guest. What they prove is returned, what they say is kept for
    /// [`Self::next`].
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Option<VerifiedService>, SessionFault> {
        self.flow.take(bytes.len())?;
        let mut proof = None;
        for event in self.tls.receive(bytes)? {
            match event {
                SessionEvent::Authenticated(service) => proof = Some(service),
                SessionEvent::Message(message) => self.heard.push_back(message),
            }
        }
        self.flow.queue(&self.tls.outgoing())?;
        Ok(proof)
    }

    /// The next thing that the service said; none while it has to wait, because `costly` has no token
    /// for it.
    pub(super) fn next(&mut self, costly: &mut TokenBucket, now: Instant) -> Option<Message> {
        let waits = is_costly(&self.heard.front()?.content) && !costly.take(now);
        if waits { None } else { self.heard.pop_front() }
    }

    /// Whether [`Self::next`] has something, now or later.
    pub(super) fn has_more(&self) -> bool {
        !self.heard.is_empty()
    }

    /// Tells the service.
    pub(super) fn say(&mut self, message: &Message) -> Result<(), SessionFault> {
        self.tls.say(message)?;
        Ok(self.flow.queue(&self.tls.outgoing())?)
    }

    /// What TLS says last, as far as the guest takes it.
    pub(super) fn farewell(&mut self) -> impl Iterator<Item = Vec<u8>> {
        // A guest that does not read misses it; the `CLOSE` says why, too.
        let _ = self.flow.queue(&self.tls.farewell());
        std::iter::from_fn(|| self.flow.cut())
    }

    /// Until when it has to prove who it is.
    pub(super) const fn until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Unproved(until) => Some(until),
            Stage::Proved(_) | Stage::Leaving => None,
        }
    }

    pub(super) fn who(&self, id: SessionId, service: &Service) -> String {
        format!("{} as service {}", describe(id, &self.facts), service.name)
    }
}

/// Pairings that a service takes part in: each has one acknowledgement line.
pub(super) fn pairings(service: &Service) -> usize {
    let lines = service.grants.iter();
    let lines = lines.filter(|planned| matches!(planned.part, grant::Part::Ack(_)));
    lines.count()
}

/// A session in words.
pub(super) fn describe(id: SessionId, facts: &Facts) -> String {
    let exe = facts.exe_sha256.map(|digest| hex(&digest));
    format!(
        "session {} pid {} uid {} gid {} exe {}",
        id.0,
        facts.pid,
        facts.uid,
        facts.gid,
        exe.as_deref().unwrap_or("unknown")
    )
}
