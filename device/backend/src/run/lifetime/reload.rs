//! A newer policy and a newer revocation list for a process that runs (`docs/operating.md`).
//!
//! Both are judged before either is in force: a reload is refused as a whole. It can only take:
//! memory and windows were made before confinement.

use std::cell::RefMut;
use std::time::Instant;

use sivshm_abi::frame::Reason;
use sivshm_handshake::{CredentialError, Credentials, IdentityFault};
use sivshm_policy::narrow::Narrowing;

use crate::admin_wire::{AdminAnswer, MAX_RELOAD_CRL_BYTES, MAX_RELOAD_POLICY_BYTES, Reloaded};
use crate::audit::{Blame, Decision, Entry, Event};
use crate::held::InForce;
use crate::run::{EventLoop, RunError};

/// Longest reason for a refusal, in characters: a whole report about a policy can be longer, and
/// `sivshm reload` has shown it before.
const MAX_REASON_CHARS: usize = 4096;

/// Most things that a restart would bring about and that are named; the others are counted.
const MAX_NAMED: usize = 64;

/// Why a reload changes nothing.
struct Refused {
    blame: Blame,
    reason: String,
}

impl Refused {
    fn policy(reason: impl ToString) -> Self {
        Self {
            blame: Blame::Policy,
            reason: reason.to_string(),
        }
    }

    /// Whoever hands out revocation lists is to blame.
    fn lists(reason: impl ToString) -> Self {
        Self {
            blame: Blame::Host,
            reason: reason.to_string(),
        }
    }
}

/// A reload that was judged and may come into force.
struct Judged {
    narrowing: Narrowing,
    /// With the new revocation lists; or why the own SVID is over.
    credentials: Result<Credentials, Reason>,
}

impl EventLoop<'_> {
    /// Puts a policy and a revocation list in force because an operator asks for it.
    pub(in crate::run) fn reload(
        &mut self,
        who: &str,
        policy: &str,
        crl: &str,
        now: Instant,
    ) -> Result<AdminAnswer, RunError> {
        let Judged {
            narrowing,
            credentials,
        } = match self.judge_reload(policy, crl) {
            Ok(judged) => judged,
            Err(refused) => return self.refuse_reload(who, &refused),
        };
        self.audit.record(Entry {
            event: Event::Admin,
            decision: Decision::Allow,
            blame: Blame::Nobody,
            who,
            what: "reload of the policy and the revocation list",
            reason: "it may administer this VM",
        })?;
        let before = self.living();
        let ended = self.narrow(&narrowing, now)?;
        self.in_force().narrowing = Some(narrowing.clone());
        match credentials {
            Ok(credentials) => {
                self.in_force().credentials = credentials;
                self.revalidate(now)?;
            }
            Err(reason) => {
                self.go_out_of_service(reason)?;
                self.end_all(reason, now)?;
            }
        }
        self.punch_ended(now)?;
        let after = self.living();
        let ended_of =
            |before: usize, after| u32::try_from(before.saturating_sub(after)).unwrap_or(u32::MAX);
        Ok(AdminAnswer::Reloaded(Reloaded {
            policy_serial: narrowing.serial,
            ended,
            needs_restart: shortened(narrowing.needs_restart),
            links: ended_of(before.links, after.links),
            sessions: ended_of(before.sessions, after.sessions),
            pairings: ended_of(before.pairings, after.pairings),
        }))
    }

    /// Whether both may come into force; if not, why.
    fn judge_reload(&self, policy: &str, crl: &str) -> Result<Judged, Refused> {
        let too_long = |what, most| format!("a {what} of more than {most} bytes needs a restart");
        if policy.len() > MAX_RELOAD_POLICY_BYTES {
            let reason = too_long("policy", MAX_RELOAD_POLICY_BYTES);
            return Err(Refused::policy(reason));
        }
        if crl.len() > MAX_RELOAD_CRL_BYTES {
            let reason = too_long("revocation list", MAX_RELOAD_CRL_BYTES);
            return Err(Refused::lists(reason));
        }
        let newer = sivshm_policy::compile("the policy", policy).map_err(Refused::policy)?;
        let last = self.held.in_force.borrow().clone();
        let in_order = last
            .narrowing
            .map_or(Ok(()), |last| last.followed_by(&newer));
        let narrowing = in_order.and_then(|()| self.held.plan.narrowed_by(&newer));
        let narrowing = narrowing.map_err(Refused::policy)?;
        let wall = self.held.clock.wall();
        let credentials = match last.credentials.with_newer_crl(crl.as_bytes(), wall) {
            Ok(credentials) => Ok(credentials),
            Err(CredentialError::Svid(IdentityFault::Revoked)) => Err(Reason::Withdrawn),
            Err(CredentialError::Svid(IdentityFault::Expired)) => Err(Reason::Expired),
            Err(error) => return Err(Refused::lists(error)),
        };
        Ok(Judged {
            narrowing,
            credentials,
        })
    }

    fn in_force(&self) -> RefMut<'_, InForce> {
        self.held.in_force.borrow_mut()
    }

    fn refuse_reload(&mut self, who: &str, refused: &Refused) -> Result<AdminAnswer, RunError> {
        let reason = refused.reason.chars();
        let reason: String = reason.take(MAX_REASON_CHARS).collect();
        self.audit.record(Entry {
            event: Event::Admin,
            decision: Decision::Deny,
            blame: refused.blame,
            who,
            what: "reload of the policy and the revocation list",
            reason: &reason,
        })?;
        Ok(AdminAnswer::Refused { reason })
    }

    /// Ends what a newer policy has no more, for good. Returns the names of the channels of this
    /// VM that end by it now.
    pub(super) fn narrow(
        &mut self,
        narrowing: &Narrowing,
        now: Instant,
    ) -> Result<Vec<String>, RunError> {
        self.audit.record(Entry {
            event: Event::Policy,
            decision: Decision::Allow,
            blame: Blame::Nobody,
            who: &self.held.plan.device_id(self.vm).to_string(),
            what: &format!(
                "policy serial {} digest {}",
                narrowing.serial, narrowing.digest
            ),
            reason: "it takes from the policy that runs and adds nothing",
        })?;
        let own: Vec<_> = self
            .own_channels()
            .map(|(at, channel)| (at, channel.name))
            .collect();
        let mut names = Vec::new();
        for at in &narrowing.ended {
            let own = own.iter().find(|(own, _)| own == at);
            if let (true, Some((at, name))) = (self.lifetime.by_policy.insert(*at), own) {
                self.end_for_good(*at, Reason::Policy, now)?;
                names.push(name.as_str().to_owned());
            }
        }
        Ok(names)
    }
}

/// The first of what a restart would bring about, and how many more there are.
fn shortened(mut all: Vec<String>) -> Vec<String> {
    let more = all.len().saturating_sub(MAX_NAMED);
    if more > 0 {
        all.truncate(MAX_NAMED);
        all.push(format!("and {more} more"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_counted_and_a_short_one_is_not() {
        let names = |count| vec!["x".to_owned(); count];
        assert_eq!(shortened(names(64)), names(64));
        let long = shortened(names(64 + 7));
        assert_eq!(long.len(), 64 + 1);
        assert_eq!(long.last().unwrap(), "and 7 more");
    }
}
