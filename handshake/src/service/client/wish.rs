//! What a service wants, how far it has come, and when it is tried again.

use std::time::{Duration, Instant};

use sivshm_abi::frame::Reason;

use super::event::Want;
use super::step::Step;
use crate::service::limits::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::service::wire::Content;

/// A wish and how far it has come.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) want: Want,
    pub(super) step: Step,
    /// When the attempt under way began, or the last one.
    began: Instant,
    /// When a resting wish is said again.
    due: Instant,
    /// Attempts in a row that failed soon.
    failures: u32,
}

impl Wish {
    /// A new wish, to be said at once.
    pub(super) const fn new(want: Want, now: Instant) -> Self {
        Self {
            want,
            step: Step::Resting,
            began: now,
            due: now,
            failures: 0,
        }
    }

    pub(super) const fn rests(&self) -> bool {
        matches!(self.step, Step::Resting)
    }

    /// When it is to be said; none while an attempt is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.rests().then_some(self.due)
    }

    /// Begins an attempt, and gives what to say.
    pub(super) fn begin(&mut self, now: Instant) -> Content {
        self.step = Step::Terms;
        self.began = now;
        Content::Want {
            peer: self.want.peer,
            integrity: self.want.integrity,
        }
    }

    /// Rests after an attempt that failed: longer after each that failed soon, not at all after one
    /// that lasted.
    pub(super) fn rest(&mut self, now: Instant) {
        self.step = Step::Resting;
        let pause = if now.duration_since(self.began) >= LONGEST_PAUSE {
            self.failures = 0;
            Duration::ZERO
        } else {
            let pause = FIRST_PAUSE.saturating_mul(1_u32 << self.failures.min(16));
            self.failures = self.failures.saturating_add(1);
            pause.min(LONGEST_PAUSE)
        };
        self.due = now + pause;
    }
}

/// Whether a pairing that ended so is wanted again. An SVID that has ended or is withdrawn is the other
/// end's, which can come back with a new one: with the own SVID the whole session ends.
pub(super) const fn reopens(reason: Reason) -> bool {
    !matches!(reason, Reason::Closed | Reason::Admin | Reason::Policy)
}
