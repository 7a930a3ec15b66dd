//! How a session begins: the facts of its process, and the proof of its service.

use std::time::Instant;

use sivshm_abi::directory::VERSION;
use sivshm_abi::frame::{Facts, Payload, Reason, SessionId};
use sivshm_abi::limits::MAX_SESSIONS;
use sivshm_handshake::service::VerifiedService;
use sivshm_policy::plan::Service;

use super::session::{Session, Stage, describe};
use super::{Fault, Frame, Sessions};
use crate::audit::{Audit, AuditError, Blame, Decision, Entry, Event, hex};
use crate::run::admission::{self, Scope};
use crate::run::bucket::{TokenBucket, interval};
use crate::run::limits::{MAX_UNPROVED, OPENS_AT_ONCE, OPENS_PER_SECOND};

impl Sessions {
    pub(super) fn hello(
        &mut self,
        id: SessionId,
        version: u32,
        boot: [u8; 16],
        now: Instant,
        audit: &mut Audit<'_>,
    ) -> Result<(), Fault> {
        if id != SessionId(0) || version != VERSION {
            return Err(Fault::Guest("a HELLO of another version of the protocol"));
        }
        if !self.hellos.take(now) {
            return Err(Fault::Guest("HELLO too often"));
        }
        self.forget();
        audit.record(Entry {
            event: Event::Driver,
            decision: Decision::Allow,
            blame: Blame::Nobody,
            who: &format!("guest boot {}", hex(&boot)),
            what: "control rings",
            reason: "the guest's driver has started",
        })?;
        self.driver = true;
        Ok(())
    }

    pub(super) fn open(
        &mut self,
        id: SessionId,
        facts: Facts,
        scope: &Scope<'_>,
        audit: &mut Audit<'_>,
    ) -> Result<(), Fault> {
        if id == SessionId(0) || self.live.contains_key(&id) {
            return Err(Fault::Guest("OPEN with the number of a live session"));
        }
        let (at, service) = match self.admit(&facts, scope) {
            Ok(admitted) => admitted,
            Err(reason) => {
                let close = Frame::Control(Payload::Close(reason));
                self.outgoing.push_back((id, close));
                let blame = match reason {
                    Reason::NoService => Blame::Policy,
                    _ => Blame::Guest,
                };
                let who = describe(id, &facts);
                return Ok(refused(&who, reason.words(), blame, scope, audit)?);
            }
        };
        let session = match Session::new(at, service, facts, scope) {
            Ok(session) => session,
            Err(fault) => {
                let close = Frame::Control(Payload::Close(Reason::Unproved));
                self.outgoing.push_back((id, close));
                let (who, why) = (describe(id, &facts), fault.to_string());
                return Ok(refused(&who, &why, Blame::Host, scope, audit)?);
            }
        };
        audit.record(Entry {
            event: Event::Session,
            decision: Decision::Allow,
            blame: Blame::Nobody,
            who: &session.who(id, service),
            what: "proof by an SVID",
            reason: "the policy names this process",
        })?;
        self.live.insert(id, session);
        Ok(())
    }

    /// Which service a process may prove to be.
    fn admit<'a>(
        &mut self,
        facts: &Facts,
        scope: &Scope<'a>,
    ) -> Result<(usize, &'a Service), Reason> {
        let found = admission::service_of(scope.vm, facts);
        let opens = self.opens.entry(found.map(|(at, _)| at));
        if !opens
            .or_insert_with(|| opens_bucket(scope.now))
            .take(scope.now)
        {
            return Err(Reason::Flood);
        }
        let (at, service) = found.ok_or(Reason::NoService)?;
        let unproved = self
            .live
            .values()
            .filter(|session| session.service == at && matches!(session.stage, Stage::Unproved(_)));
        if unproved.count() >= MAX_UNPROVED || self.live.len() >= MAX_SESSIONS {
            return Err(Reason::Flood);
        }
        Ok((at, service))
    }

    /// A service has shown its SVID, which names the service that the facts of its process say, and
    /// that it has the key. It must be the only one.
    pub(super) fn prove(
        &mut self,
        id: SessionId,
        proof: VerifiedService,
        scope: &Scope<'_>,
        audit: &mut Audit<'_>,
    ) -> Result<(), AuditError> {
        let Some(at) = self.live.get(&id).map(|session| session.service) else {
            return Ok(());
        };
        let mut others = self.live.values();
        if others.any(|other| other.service == at && other.proof().is_some()) {
            let (reason, blame) = (Reason::RoleTaken, Blame::Guest);
            return self.end(id, reason, blame, reason.words(), scope, audit);
        }
        let Some(session) = self.live.get_mut(&id) else {
            return Ok(());
        };
        audit.record(Entry {
            event: Event::Session,
            decision: Decision::Allow,
            blame: Blame::Nobody,
            who: &format!("{} in {}", proof.id(), describe(id, &session.facts)),
            what: "session",
            reason: "its SVID and the policy's facts about its process name one service",
        })?;
        session.stage = Stage::Proved(proof);
        Ok(())
    }
}

/// What bounds `HELLO`, and `OPEN` of each service.
pub(super) const fn opens_bucket(now: Instant) -> TokenBucket {
    TokenBucket::new(OPENS_AT_ONCE, interval(OPENS_PER_SECOND), now)
}

fn refused(
    who: &str,
    reason: &str,
    blame: Blame,
    scope: &Scope<'_>,
    audit: &mut Audit<'_>,
) -> Result<(), AuditError> {
    audit.record_limited(
        Entry {
            event: Event::Session,
            decision: Decision::Deny,
            blame,
            who,
            what: "session",
            reason,
        },
        scope.now,
    )
}
