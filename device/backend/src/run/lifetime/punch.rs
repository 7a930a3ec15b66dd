//! Memory whose last channel has ended for good is given back, so that no VMM which still has it
//! mapped keeps what was in it (DESIGN section 9).

use std::time::Instant;

use sivshm_abi::directory::SliceId;
use sivshm_sys::memfd;

use crate::audit::{Blame, Event};
use crate::run::{EventLoop, RunError};

impl EventLoop<'_> {
    /// Punches the own slices all of whose channels have ended for good, once the guest has let go
    /// of them: it could still write before.
    pub(super) fn punch_ended(&mut self, now: Instant) -> Result<(), RunError> {
        let scope = self.view.scope(now);
        let sessions = &self.control.sessions;
        let ended = self.held.slices.iter().filter(|slice| {
            let planned = self.held.plan.slice(slice.id);
            let mut ranges = planned.into_iter().flat_map(|planned| &planned.ranges);
            !self.lifetime.punched.contains(&slice.id)
                && ranges.all(|range| {
                    self.mediation.over(range.channel).is_some()
                        && !sessions.holds(&scope, range.channel)
                })
        });
        let ended: Vec<SliceId> = ended.map(|slice| slice.id).collect();
        for id in ended {
            self.punch(id)?;
        }
        Ok(())
    }

    fn punch(&mut self, id: SliceId) -> Result<(), RunError> {
        let own = self.held.slices.iter().find(|slice| slice.id == id);
        let (Some(own), Some(planned)) = (own, self.held.plan.slice(id)) else {
            return Ok(());
        };
        memfd::punch(&own.file, planned.bytes)?;
        self.lifetime.punched.insert(id);
        self.record_end(
            Event::Slices,
            Blame::Nobody,
            &format!("slice {} is empty", id.0),
            "all of its channels have ended for good",
        )
    }
}
