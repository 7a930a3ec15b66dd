//! The wall clock as this device process believes it: SVIDs, CRLs and opens are judged by it, and the
//! audit bears its time.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use sivshm_sys::clock::{ClockSet, since_boot};

/// A wall clock that never goes back within a run.
///
/// It follows the host's clock, which may be set ahead, and goes on by the time since the host's
/// boot, asleep or awake, when the host's clock is set back: what has expired stays expired.
#[derive(Debug)]
pub struct Clock {
    /// The latest time that was told, and the nanoseconds since the boot at that moment.
    latest: Cell<(SystemTime, u64)>,
    /// Readable when the host's clock was set.
    pub set: ClockSet,
}

impl Clock {
    /// Starts with what the host's clock shows.
    ///
    /// # Errors
    /// The host has no clock of the boot, or can't watch its wall clock.
    pub fn start() -> io::Result<Self> {
        Ok(Self {
            latest: Cell::new((SystemTime::now(), since_boot()?)),
            set: ClockSet::watch()?,
        })
    }

    /// The time.
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        let (_, before) = self.latest.get();
        // The clock was there at the start, so it is there now.
        self.advance(SystemTime::now(), since_boot().unwrap_or(before))
    }

    /// The moment at which [`Self::wall`] says `at`, unless the clock is set meanwhile; none if that
    /// is further away than an [`Instant`] can be.
    #[must_use]
    pub fn instant_of(&self, at: SystemTime, now: Instant) -> Option<Instant> {
        let left = at.duration_since(self.wall()).unwrap_or(Duration::ZERO);
        now.checked_add(left)
    }

    /// The time, given what the host's two clocks show.
    fn advance(&self, system: SystemTime, since_boot: u64) -> SystemTime {
        let (latest, before) = self.latest.get();
        let elapsed = Duration::from_nanos(since_boot.saturating_sub(before));
        let counted = latest.checked_add(elapsed).unwrap_or(latest);
        let wall = system.max(counted);
        self.latest.set((wall, since_boot.max(before)));
        wall
    }
}

#[cfg(test)]
impl Clock {
    /// As if the host's clock were set ahead, and then back again.
    pub(crate) fn set_ahead(&self, by: Duration) {
        let (latest, since_boot) = self.latest.get();
        self.advance(latest + by, since_boot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn nanos(of: Duration) -> u64 {
        u64::try_from(of.as_nanos()).unwrap()
    }

    #[test]
    fn a_clock_that_is_set_back_changes_nothing() {
        let clock = Clock::start().unwrap();
        let (start, boot) = clock.latest.get();
        let expiry = start + HOUR;
        assert!(clock.advance(expiry, boot + nanos(HOUR)) >= expiry);
        // Set back by a day, again and again, while a minute passes each time.
        for minute in 1..10 {
            let passed = HOUR + Duration::from_secs(60 * minute);
            let wall = clock.advance(start - 24 * HOUR, boot + nanos(passed));
            assert_eq!(wall, start + passed);
        }
    }

    #[test]
    fn a_clock_that_is_set_ahead_is_followed_and_never_left() {
        let clock = Clock::start().unwrap();
        let (start, boot) = clock.latest.get();
        let ahead = start + 24 * HOUR;
        assert_eq!(clock.advance(ahead, boot), ahead);
        assert_eq!(clock.advance(start, boot), ahead);
        assert_eq!(clock.advance(start, boot + nanos(HOUR)), ahead + HOUR);
    }

    #[test]
    fn time_asleep_counts() {
        let clock = Clock::start().unwrap();
        let (start, boot) = clock.latest.get();
        assert_eq!(clock.advance(start, boot + nanos(HOUR)), start + HOUR);
    }

    #[test]
    fn a_deadline_is_as_far_away_as_its_time() {
        let clock = Clock::start().unwrap();
        let now = Instant::now();
        let at = clock.instant_of(clock.wall() + HOUR, now).unwrap();
        let left = at - now;
        assert!(
            left <= HOUR && left > HOUR - Duration::from_secs(60),
            "{left:?}"
        );
        let past = clock.wall() - HOUR;
        assert_eq!(clock.instant_of(past, now), Some(now));
    }
}
