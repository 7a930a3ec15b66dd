//! How a session ends: from this side, or because its owner closes it.

use sivshm_abi::frame::{Payload, Reason, SessionId};

use super::session::{SessionFault, Stage, describe};
use super::{Frame, Said, Sessions};
use crate::audit::{Audit, AuditError, Blame, Decision, Entry, Event};
use crate::run::admission::Scope;

impl Sessions {
    /// Ends a session that does what it may not.
    pub(super) fn fault(
        &mut self,
        id: SessionId,
        reason: Reason,
        fault: &SessionFault,
        scope: &Scope<'_>,
        audit: &mut Audit<'_>,
    ) -> Result<(), AuditError> {
        let reason = match fault {
            SessionFault::Overdrawn => Reason::Protocol,
            SessionFault::Unread => Reason::Flood,
            SessionFault::Service(_) => reason,
        };
        self.end(id, reason, Blame::Guest, &fault.to_string(), scope, audit)
    }

    /// Ends a session from this side, with all that it was granted. Its number is free when the
    /// guest has said `CLOSE`, too.
    ///
    /// # Errors
    /// The end could not be recorded; it has taken place all the same.
    pub fn end(
        &mut self,
        id: SessionId,
        reason: Reason,
        blame: Blame,
        why: &str,
        scope: &Scope<'_>,
        audit: &mut Audit<'_>,
    ) -> Result<(), AuditError> {
        let Some(session) = self.live.get_mut(&id) else {
            return Ok(());
        };
        let last_words = session.farewell().map(|bytes| (id, Frame::Data(bytes)));
        self.outgoing.extend(last_words);
        self.outgoing
            .push_back((id, Frame::Control(Payload::Close(reason))));
        let decision = match session.stage {
            Stage::Proved(_) => Decision::End,
            Stage::Unproved(_) | Stage::Leaving => Decision::Deny,
        };
        session.stage = Stage::Leaving;
        session
            .parts
            .iter_mut()
            .for_each(|part| part.end(scope.now));
        self.said.push_back(Said::Closed(id));
        audit.record_limited(
            Entry {
                event: Event::Session,
                decision,
                blame,
                who: &describe(id, &session.facts),
                what: "session",
                reason: why,
            },
            scope.now,
        )
    }

    /// Forgets a session that its owner closed, or whose end the guest acknowledges; its pages are
    /// gone. One that ended before is ignored.
    pub(super) fn close(
        &mut self,
        id: SessionId,
        scope: &Scope<'_>,
        audit: &mut Audit<'_>,
    ) -> Result<(), AuditError> {
        let Some(session) = self.live.remove(&id) else {
            return Ok(());
        };
        let service = scope.vm.services.get(session.service);
        if matches!(session.stage, Stage::Leaving) {
            let channels = service.into_iter().flat_map(|service| &service.grants);
            let mut channels: Vec<_> = channels.map(|planned| planned.channel).collect();
            channels.dedup();
            self.said.extend(channels.into_iter().map(Said::LetGo));
            return Ok(());
        }
        self.said.push_back(Said::Closed(id));
        let who = match service {
            Some(service) => session.who(id, service),
            None => describe(id, &session.facts),
        };
        audit.record(Entry {
            event: Event::Session,
            decision: Decision::End,
            blame: Blame::Nobody,
            who: &who,
            what: &format!("session with {} grants", session.grants()),
            reason: Reason::Closed.words(),
        })
    }
}
