//! What ends by itself or by a newer word: SVIDs run out, a revocation list or a policy takes
//! something back, and a guest that does not let go is not contained (DESIGN section 9).
//!
//! [`reload`] takes a newer policy and a newer revocation list, [`expiry`] ends what no SVID stands
//! behind any more, [`containment`] watches that the guest lets go, [`punch`] gives memory back.

mod containment;
mod expiry;
mod punch;
mod reload;

use std::collections::BTreeSet;
use std::time::Instant;

use sivshm_abi::directory::SliceId;
use sivshm_abi::frame::Reason;
use sivshm_policy::plan::ChannelIndex;

use super::{EventLoop, RunError};
use crate::audit::{Blame, Decision, Entry, Event};

/// What has ended so far.
#[derive(Debug, Default)]
pub(super) struct Lifetime {
    /// Channels that a newer policy has ended.
    by_policy: BTreeSet<ChannelIndex>,
    /// Own slices that have ended and given their memory back.
    punched: BTreeSet<SliceId>,
    /// Whether it was said that the guest does not let go.
    told: bool,
    /// Why nothing is shared any more.
    over: Option<Reason>,
}

impl Lifetime {
    /// Why nothing is shared any more, if that is so.
    pub(super) const fn over(&self) -> Option<Reason> {
        self.over
    }
}

impl EventLoop<'_> {
    /// Puts what a newer policy has taken before this run in force.
    pub(super) fn begin_lifetime(&mut self, now: Instant) -> Result<(), RunError> {
        let narrowing = self.held.in_force.borrow().narrowing.clone();
        match narrowing {
            Some(narrowing) => self.narrow(&narrowing, now).map(drop),
            None => Ok(()),
        }
    }

    /// The next moment at which something ends by itself.
    pub(super) fn lifetime_deadline(&self, now: Instant) -> Option<Instant> {
        [self.expiry_deadline(now), self.containment_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Ends what is due. The guest has been heard before, so that nothing that it said in time is
    /// taken for silence.
    pub(super) fn on_lifetime_time(&mut self, now: Instant) -> Result<(), RunError> {
        self.end_expired(now)?;
        self.judge_containment(now)?;
        self.punch_ended(now)
    }

    fn record_end(
        &mut self,
        event: Event,
        blame: Blame,
        what: &str,
        reason: &str,
    ) -> Result<(), RunError> {
        let who = self.held.plan.device_id(self.vm).to_string();
        Ok(self.audit.record(Entry {
            event,
            decision: Decision::End,
            blame,
            who: &who,
            what,
            reason,
        })?)
    }
}
