//! How an end of a channel waits, and for how long.

use std::time::{Duration, Instant};

use crate::error::Error;

/// How to wait for the other end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wait {
    /// Look a few times, then sleep until the peer rings.
    Interrupt,
    /// Look again and again: the lowest latency, for a processor of its own. The peer never rings.
    Poll,
}

/// When a wait ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// `timeout` from now on; a time too far away to be expressed never comes.
    pub(crate) fn after(timeout: Duration) -> Self {
        Self(Instant::now().checked_add(timeout))
    }

    /// The time that is left, if there is an end.
    ///
    /// # Errors
    /// [`Error::Timeout`] naming what was waited for, once the time is up.
    pub(crate) fn left(self, what: &'static str) -> Result<Option<Duration>, Error> {
        let left = self
            .0
            .map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Error::Timeout(what));
        }
        Ok(left)
    }
}
