//! Sessions of the guest and what is granted to them (DESIGN section 7, `docs/control-frames.md`).
//!
//! A state machine without input or output: frames of the guest go in, frames for the guest queue
//! up in [`Sessions::outgoing`]. Everything is bounded by the policy and by
//! [`sivshm_abi::limits`]:
//! one session for each service, one outstanding grant for each part of its channels, and a part
//! is granted again only when the guest has acknowledged the end of its former grant.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use sivshm_abi::directory::VERSION;
use sivshm_abi::frame::{Facts, Payload, Reason, SessionId};
use sivshm_abi::grant::{Generation, GrantId};
use sivshm_abi::limits::MAX_SESSIONS;
use sivshm_policy::plan::{ChannelIndex, PlannedGrant, Service};

use crate::audit::{Audit, AuditError, Blame, Decision, Entry, Event, hex};
use crate::run::admission::{self, Numbers, Scope};
use crate::run::bucket::{TokenBucket, interval};
use crate::run::limits::{MAX_WAITING_FRAMES, OPENS_AT_ONCE, OPENS_PER_SECOND, REVOKED_WITHIN};

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

/// All sessions of the guest.
#[derive(Debug)]
pub struct Sessions {
    driver: bool,
    live: BTreeMap<SessionId, Session>,
    revoked: BTreeSet<ChannelIndex>,
    numbers: Numbers,
    hellos: TokenBucket,
    /// How often each service may be opened; under `None`, how often processes that are none are
    /// refused. A flood of one leaves the others theirs.
    opens: BTreeMap<Option<usize>, TokenBucket>,
    /// Frames for the guest, oldest first.
    pub outgoing: VecDeque<(SessionId, Payload<'static>)>,
}

/// A live session.
#[derive(Debug)]
pub struct Session {
    /// Index of its service in the VM's services.
    pub service: usize,
    /// What the guest kernel attested when it was opened.
    pub facts: Facts,
    /// State of each of the service's planned grants, in the plan's order.
    parts: Vec<Part>,
}

/// State of one planned grant of a live session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    /// Not granted.
    Idle,
    /// Granted.
    Granted(GrantId, Generation),
    /// Taken back; the guest has not acknowledged it yet.
    Ending(GrantId, Generation, Instant),
}

impl Session {
    /// Grants that have not been taken back.
    #[must_use]
    pub fn grants(&self) -> usize {
        let granted = |part: &&Part| matches!(part, Part::Granted(..));
        self.parts.iter().filter(granted).count()
    }

    fn who(&self, id: SessionId, service: &Service) -> String {
        format!("{} as service {}", describe(id, &self.facts), service.name)
    }
}

impl Sessions {
    /// No sessions yet. `seed` is the generation below all that will be given out: nanoseconds since
    /// the host's boot, so that it grows from one run of the device process to the next.
    #[must_use]
    pub const fn new(seed: Generation, now: Instant) -> Self {
        Self {
            driver: false,
            live: BTreeMap::new(),
            revoked: BTreeSet::new(),
            numbers: Numbers::new(seed),
            hellos: opens_bucket(now),
            opens: BTreeMap::new(),
            outgoing: VecDeque::new(),
        }
    }

    /// Forgets every session, because the guest that had them is gone. What was revoked stays so.
    pub fn forget(&mut self) {
        self.driver = false;
        self.live.clear();
        self.outgoing.clear();
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

    /// Whether a channel was revoked by an operator.
    #[must_use]
    pub fn is_revoked(&self, channel: ChannelIndex) -> bool {
        self.revoked.contains(&channel)
    }

    /// Whether a part of a channel is granted to a session.
    #[must_use]
    pub fn is_granted(&self, scope: &Scope<'_>, channel: ChannelIndex) -> bool {
        self.live.values().any(|session| {
            session.planned(scope).any(|(planned, part)| {
                planned.channel == channel && matches!(part, Part::Granted(..))
            })
        })
    }

    /// Whether the guest has acknowledged every ended grant within [`REVOKED_WITHIN`].
    #[must_use]
    pub fn contained(&self, now: Instant) -> bool {
        self.live.values().flat_map(|s| &s.parts).all(|part| {
            !matches!(part, Part::Ending(_, _, since)
                if now.saturating_duration_since(*since) > REVOKED_WITHIN)
        })
    }

    /// Whether another frame of the guest may be read: not while it leaves the answers unread.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.outgoing.len() < MAX_WAITING_FRAMES
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
        now: Instant,
    ) -> Result<(), Fault> {
        match payload {
            Payload::Hello { version, boot } => self.hello(id, version, boot, audit, now),
            _ if !self.driver => Err(Fault::Guest("a frame before HELLO")),
            Payload::Open(facts) => self.open(id, facts, scope, audit, now),
            Payload::Revoked { grant, generation } => {
                self.acknowledge(id, grant, generation);
                Ok(self.grant(scope, audit)?)
            }
            Payload::Close(_) => self.close(id, scope, audit),
            Payload::Data(_)
            | Payload::Ring { .. }
            | Payload::Grant(_)
            | Payload::Revoke { .. } => Err(Fault::Guest("a frame that only the host sends")),
        }
    }

    fn hello(
        &mut self,
        id: SessionId,
        version: u32,
        boot: [u8; 16],
        audit: &mut Audit<'_>,
        now: Instant,
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

    fn open(
        &mut self,
        id: SessionId,
        facts: Facts,
        scope: &Scope<'_>,
        audit: &mut Audit<'_>,
        now: Instant,
    ) -> Result<(), Fault> {
        if id == SessionId(0) || self.live.contains_key(&id) {
            return Err(Fault::Guest("OPEN with the number of a live session"));
        }
        let (service, planned) = match self.admit(&facts, scope, now) {
            Ok(admitted) => admitted,
            Err(reason) => {
                self.outgoing.push_back((id, Payload::Close(reason)));
                let blame = match reason {
                    Reason::NoService => Blame::Policy,
                    _ => Blame::Guest,
                };
                return Ok(audit.record_limited(
                    Entry {
                        event: Event::Session,
                        decision: Decision::Deny,
                        blame,
                        who: &describe(id, &facts),
                        what: "session",
                        reason: reason.words(),
                    },
                    now,
                )?);
            }
        };
        let session = Session {
            service,
            facts,
            parts: vec![Part::Idle; planned.grants.len()],
        };
        audit.record(Entry {
            event: Event::Session,
            decision: Decision::Allow,
            blame: Blame::Nobody,
            who: &session.who(id, planned),
            what: "session",
            reason: "the policy names this process",
        })?;
        self.live.insert(id, session);
        Ok(self.grant(scope, audit)?)
    }

    /// Which service a process is, if it may have a session now.
    fn admit<'a>(
        &mut self,
        facts: &Facts,
        scope: &Scope<'a>,
        now: Instant,
    ) -> Result<(usize, &'a Service), Reason> {
        let found = admission::service_of(scope.vm, facts);
        let opens = self.opens.entry(found.map(|(at, _)| at));
        if !opens.or_insert_with(|| opens_bucket(now)).take(now) {
            return Err(Reason::Flood);
        }
        let (at, service) = found.ok_or(Reason::NoService)?;
        if self.live.values().any(|session| session.service == at) {
            return Err(Reason::RoleTaken);
        }
        if self.live.len() >= MAX_SESSIONS {
            return Err(Reason::Flood);
        }
        Ok((at, service))
    }

    /// Notes that the pages of an ended grant are gone. Anything else names a session or a grant
    /// that ended while the frame was on its way, and is ignored.
    fn acknowledge(&mut self, id: SessionId, grant: GrantId, generation: Generation) {
        let parts = self.live.get_mut(&id).map(|session| &mut session.parts);
        for part in parts.into_iter().flatten() {
            if matches!(*part, Part::Ending(g, n, _) if (g, n) == (grant, generation)) {
                *part = Part::Idle;
            }
        }
    }

    /// Forgets a session that its owner closed; one that ended before is ignored.
    fn close(
        &mut self,
        id: SessionId,
        scope: &Scope<'_>,
        audit: &mut Audit<'_>,
    ) -> Result<(), Fault> {
        let Some(session) = self.live.remove(&id) else {
            return Ok(());
        };
        let who = match scope.vm.services.get(session.service) {
            Some(service) => session.who(id, service),
            None => describe(id, &session.facts),
        };
        Ok(audit.record(Entry {
            event: Event::Session,
            decision: Decision::End,
            blame: Blame::Nobody,
            who: &who,
            what: &format!("session with {} grants", session.grants()),
            reason: Reason::Closed.words(),
        })?)
    }

    /// Grants what the policy plans for live sessions and was not possible before: each channel's
    /// end as a whole, once every peer at its other ends is established.
    ///
    /// # Errors
    /// What can't be recorded is not granted.
    pub fn grant(&mut self, scope: &Scope<'_>, audit: &mut Audit<'_>) -> Result<(), AuditError> {
        for (id, session) in &mut self.live {
            let Some(service) = scope.vm.services.get(session.service) else {
                continue;
            };
            let channels: BTreeSet<_> = service.grants.iter().map(|g| g.channel).collect();
            for channel in channels {
                let idle = session
                    .planned(scope)
                    .filter(|(planned, _)| planned.channel == channel)
                    .all(|(_, part)| *part == Part::Idle);
                if !idle || self.revoked.contains(&channel) {
                    continue;
                }
                let numbers = &mut self.numbers;
                let Some(end) = admission::grants_of_end(scope, service, channel, numbers) else {
                    continue;
                };
                for (at, grant) in end {
                    audit.record(Entry {
                        event: Event::Grant,
                        decision: Decision::Allow,
                        blame: Blame::Nobody,
                        who: &session.who(*id, service),
                        what: &format!(
                            "grant {} generation {} channel {} {:?} {:?} window {} bytes {}+{}",
                            grant.id.0,
                            grant.generation.0,
                            grant.channel,
                            grant.part,
                            grant.access,
                            grant.window,
                            grant.offset,
                            grant.length
                        ),
                        reason: "the policy plans it and the peers are established",
                    })?;
                    if let Some(part) = session.parts.get_mut(at) {
                        *part = Part::Granted(grant.id, grant.generation);
                    }
                    self.outgoing.push_back((*id, Payload::Grant(grant)));
                }
            }
        }
        Ok(())
    }

    /// Takes back every grant of the channels that `ended` names. Returns how many there were.
    ///
    /// # Errors
    /// The end could not be recorded; it has taken place all the same.
    pub fn revoke(
        &mut self,
        scope: &Scope<'_>,
        ended: impl Fn(ChannelIndex) -> bool,
        reason: Reason,
        audit: &mut Audit<'_>,
        now: Instant,
    ) -> Result<u32, AuditError> {
        let mut count = 0;
        let mut recorded = Ok(());
        for (id, session) in &mut self.live {
            let Some(service) = scope.vm.services.get(session.service) else {
                continue;
            };
            let who = session.who(*id, service);
            for (planned, part) in service.grants.iter().zip(&mut session.parts) {
                let Part::Granted(grant, generation) = *part else {
                    continue;
                };
                if !ended(planned.channel) {
                    continue;
                }
                *part = Part::Ending(grant, generation, now);
                count += 1;
                let frame = Payload::Revoke {
                    grant,
                    generation,
                    reason,
                };
                self.outgoing.push_back((*id, frame));
                recorded = recorded.and_then(|()| {
                    audit.record(Entry {
                        event: Event::Revoke,
                        decision: Decision::End,
                        blame: match reason {
                            Reason::PeerGone => Blame::Peer,
                            _ => Blame::Nobody,
                        },
                        who: &who,
                        what: &format!("grant {} generation {}", grant.0, generation.0),
                        reason: reason.words(),
                    })
                });
            }
        }
        recorded.map(|()| count)
    }

    /// A channel is never granted again by this process; what is granted ends with
    /// [`Self::revoke`].
    pub fn never_again(&mut self, channel: ChannelIndex) {
        self.revoked.insert(channel);
    }
}

impl Session {
    /// What the plan has for this session, each with its state.
    fn planned<'a>(
        &'a self,
        scope: &Scope<'a>,
    ) -> impl Iterator<Item = (&'a PlannedGrant, &'a Part)> {
        let service = scope.vm.services.get(self.service);
        let grants = service.map(|service| service.grants.as_slice());
        grants.unwrap_or_default().iter().zip(&self.parts)
    }
}

/// What bounds `HELLO`, and `OPEN` of each service.
const fn opens_bucket(now: Instant) -> TokenBucket {
    TokenBucket::new(OPENS_AT_ONCE, interval(OPENS_PER_SECOND), now)
}

/// A session in words.
fn describe(id: SessionId, facts: &Facts) -> String {
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

#[cfg(test)]
mod tests;
