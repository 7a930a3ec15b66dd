//! Whether the guest lets go of what was taken from it (DESIGN section 9).
//!
//! A guest kernel that does not acknowledge is stuck, paused or hostile. Nothing that a device process
//! can do takes pages out of a running VMM; ending the VMM does, and that is the supervisor's to do
//! if the policy says so.

use std::time::{Duration, Instant};

use sivshm_policy::plan::Uncontained as Remedy;

use crate::admin_wire::{AdminEvent, Uncontained};
use crate::audit::{Blame, Event};
use crate::run::limits::REVOKED_WITHIN;
use crate::run::{EventLoop, RunError};

impl EventLoop<'_> {
    /// When a guest that does not acknowledge until then is not contained.
    pub(super) fn containment_deadline(&self) -> Option<Instant> {
        let ended = self.control.sessions.longest_ending()?;
        // One moment after the last at which it is still in time.
        let late = REVOKED_WITHIN + Duration::from_nanos(1);
        (!self.lifetime.told).then_some(ended + late)
    }

    /// Says once that the guest does not let go; again only after it has.
    pub(super) fn judge_containment(&mut self, now: Instant) -> Result<(), RunError> {
        if self.control.sessions.contained(now) {
            self.lifetime.told = false;
            return Ok(());
        }
        if std::mem::replace(&mut self.lifetime.told, true) {
            return Ok(());
        }
        let event = self.uncontained();
        let reason = match self.vm.uncontained {
            Remedy::EndVmm => "not acknowledged in time; the policy wants its VMM ended",
            Remedy::Show => "not acknowledged in time; the policy wants that to be shown",
        };
        self.record_end(
            Event::Containment,
            Blame::Guest,
            "the end of grants",
            reason,
        )?;
        self.tell_watchers(&event)
    }

    /// What who begins to watch has missed.
    pub(in crate::run) fn missed_event(&self) -> Option<AdminEvent> {
        self.lifetime.told.then(|| self.uncontained())
    }

    fn uncontained(&self) -> AdminEvent {
        AdminEvent::Uncontained(Uncontained {
            vm: self.vm.name.as_str().to_owned(),
            end_vmm: self.vm.uncontained == Remedy::EndVmm,
        })
    }
}
