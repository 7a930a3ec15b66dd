//! What is granted to sessions: each part of a channel at most once, and again only when the guest
//! has acknowledged the end of its former grant (DESIGN section 9).

use std::time::Instant;

use sivshm_abi::frame::{Payload, Reason, SessionId};
use sivshm_abi::grant::{self, Generation, GrantId};
use sivshm_handshake::service::Agreement;
use sivshm_policy::plan::{ChannelIndex, PlannedGrant};

use super::{Frame, Said, Sessions};
use crate::audit::{Audit, AuditError, Blame, Decision, Entry, Event};
use crate::run::admission::{self, Scope};
use crate::run::limits::REVOKED_WITHIN;
use crate::run::mediation::{Gate, PairingId, Planned};

/// State of one planned grant of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    /// Not granted.
    Idle,
    /// Granted.
    Granted {
        id: GrantId,
        generation: Generation,
        epoch: u64,
    },
    /// Taken back; the guest has not acknowledged it yet.
    Ending {
        id: GrantId,
        generation: Generation,
        since: Instant,
    },
}

impl Part {
    /// Ends a grant without a frame of its own, because its session ends.
    pub(super) fn end(&mut self, now: Instant) {
        if let Self::Granted { id, generation, .. } = *self {
            *self = Self::Ending {
                id,
                generation,
                since: now,
            };
        }
    }
}

impl Sessions {
    /// Whether the guest has anything of a channel, or has not said yet that it let go of it.
    #[must_use]
    pub fn holds(&self, scope: &Scope<'_>, channel: ChannelIndex) -> bool {
        let mut parts = self
            .live
            .values()
            .flat_map(|session| session.planned(scope));
        parts.any(|(planned, part)| planned.channel == channel && *part != Part::Idle)
    }

    /// Since when the guest has left the end of a grant unacknowledged, of all such the longest.
    #[must_use]
    pub fn longest_ending(&self) -> Option<Instant> {
        let parts = self.live.values().flat_map(|session| &session.parts);
        let endings = parts.filter_map(|part| match part {
            Part::Ending { since, .. } => Some(*since),
            Part::Idle | Part::Granted { .. } => None,
        });
        endings.min()
    }

    /// Whether the guest has acknowledged every ended grant within [`REVOKED_WITHIN`].
    #[must_use]
    pub fn contained(&self, now: Instant) -> bool {
        let late = |since| now.saturating_duration_since(since) > REVOKED_WITHIN;
        !self.longest_ending().is_some_and(late)
    }

    /// Grants a pairing's end to the session of the service that agreed. False if that is not
    /// possible any more; nothing is granted then.
    ///
    /// # Errors
    /// What can't be recorded is not granted.
    pub fn install(
        &mut self,
        id: SessionId,
        pairing: &Planned,
        agreement: &Agreement,
        scope: &Scope<'_>,
        audit: &mut Audit<'_>,
    ) -> Result<bool, AuditError> {
        let settled = self.settled(scope, pairing);
        let service = scope.vm.services.get(pairing.service);
        let session = self.live.get_mut(&id).filter(|_| settled);
        let Some((session, service)) = session.zip(service) else {
            return Ok(false);
        };
        let Some(proof) = session.proof() else {
            return Ok(false);
        };
        let epoch = agreement.epoch();
        let of_other_epoch = session.planned(scope).any(|(planned, part)| {
            let granted = matches!(part, Part::Granted { epoch: other, .. } if *other != epoch);
            granted && pairing.id.has(planned)
        });
        if of_other_epoch {
            return Ok(false);
        }
        let parts = &session.parts;
        let idle = |at| parts.get(at) == Some(&Part::Idle);
        let numbers = &mut self.numbers;
        let grants =
            admission::grants_of_pairing(scope, service, proof, pairing, agreement, idle, numbers);
        let Some(grants) = grants else {
            return Ok(false);
        };
        let who = session.who(id, service);
        for (at, grant) in grants {
            audit.record(Entry {
                event: Event::Grant,
                decision: Decision::Allow,
                blame: Blame::Nobody,
                who: &who,
                what: &format!(
                    "grant {} generation {} channel {} {:?} {:?} window {} bytes {}+{} epoch {:016x}",
                    grant.id.0,
                    grant.generation.0,
                    grant.channel,
                    grant.part,
                    grant.access,
                    grant.window,
                    grant.offset,
                    grant.length,
                    grant.epoch,
                ),
                reason: "the policy plans it and both services agreed",
            })?;
            if let Some(part) = session.parts.get_mut(at) {
                *part = Part::Granted {
                    id: grant.id,
                    generation: grant.generation,
                    epoch: grant.epoch,
                };
            }
            self.outgoing
                .push_back((id, Frame::Control(Payload::Grant(grant))));
        }
        Ok(true)
    }

    /// Takes back what a pairing's end was granted. A writer keeps the channel's data as long as
    /// another pairing of the channel lives. Returns how many grants there were.
    ///
    /// # Errors
    /// The end could not be recorded; it has taken place all the same.
    pub fn take_back(
        &mut self,
        id: SessionId,
        pairing: PairingId,
        reason: Reason,
        scope: &Scope<'_>,
        audit: &mut Audit<'_>,
    ) -> Result<u32, AuditError> {
        let Some(session) = self.live.get_mut(&id) else {
            return Ok(0);
        };
        let Some(service) = scope.vm.services.get(session.service) else {
            return Ok(0);
        };
        let who = session.who(id, service);
        let shared = session.planned(scope).any(|(planned, part)| {
            let other = planned.channel == pairing.channel && !pairing.has(planned);
            other && matches!(part, Part::Granted { .. })
        });
        let ends = |planned: &PlannedGrant| {
            pairing.has(planned) && !(shared && planned.part == grant::Part::Data)
        };
        let mut count = 0;
        let mut recorded = Ok(());
        for (planned, part) in service.grants.iter().zip(&mut session.parts) {
            let Part::Granted {
                id: number,
                generation,
                ..
            } = *part
            else {
                continue;
            };
            if !ends(planned) {
                continue;
            }
            part.end(scope.now);
            count += 1;
            let frame = Payload::Revoke {
                grant: number,
                generation,
                reason,
            };
            self.outgoing.push_back((id, Frame::Control(frame)));
            recorded = recorded.and_then(|()| {
                audit.record(Entry {
                    event: Event::Revoke,
                    decision: Decision::End,
                    blame: match reason {
                        Reason::PeerGone | Reason::OtherEnd | Reason::Incomplete => Blame::Peer,
                        _ => Blame::Nobody,
                    },
                    who: &who,
                    what: &format!("grant {} generation {}", number.0, generation.0),
                    reason: reason.words(),
                })
            });
        }
        recorded.map(|()| count)
    }

    /// Notes that the pages of an ended grant are gone. Anything else names a session or a grant
    /// that ended while the frame was on its way, and is ignored.
    pub(super) fn acknowledge(
        &mut self,
        id: SessionId,
        grant: GrantId,
        generation: Generation,
        scope: &Scope<'_>,
    ) {
        let Some(session) = self.live.get_mut(&id) else {
            return;
        };
        let Some(service) = scope.vm.services.get(session.service) else {
            return;
        };
        for (planned, part) in service.grants.iter().zip(&mut session.parts) {
            if matches!(*part, Part::Ending { id, generation: n, .. } if (id, n) == (grant, generation))
            {
                *part = Part::Idle;
                self.said.push_back(Said::LetGo(planned.channel));
            }
        }
    }
}

impl Gate for Sessions {
    fn settled(&self, scope: &Scope<'_>, pairing: &Planned) -> bool {
        let sessions = self.live.values();
        let of_service = sessions.filter(|session| session.service == pairing.service);
        let mut parts = of_service.flat_map(|session| session.planned(scope));
        !parts.any(|(planned, part)| pairing.id.has(planned) && matches!(part, Part::Ending { .. }))
    }

    fn service(&self, session: SessionId) -> Option<usize> {
        let session = self.live.get(&session)?;
        session.proof().map(|_| session.service)
    }
}
