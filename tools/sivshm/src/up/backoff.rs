//! How long to wait before a device process is started again.

use std::time::Duration;

/// First wait: longer than a start takes (tens of milliseconds), shorter than a person notices.
const FIRST: Duration = Duration::from_millis(250);

/// Longest wait: a device process that can't run costs two starts a minute, and one whose cause was
/// mended is back within half a minute.
const LONGEST: Duration = Duration::from_secs(30);

/// A run of this length was a good one: the next wait is the first again.
const STEADY: Duration = Duration::from_secs(60);

/// Doubling waits between runs that end early.
#[derive(Debug, Default)]
pub struct Backoff {
    early_ends: u32,
}

impl Backoff {
    /// The wait after a run of this length.
    pub fn after(&mut self, run: Duration) -> Duration {
        if run >= STEADY {
            self.early_ends = 0;
        }
        let factor = 1_u32.checked_shl(self.early_ends).unwrap_or(u32::MAX);
        self.early_ends = self.early_ends.saturating_add(1);
        FIRST.saturating_mul(factor).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_a_good_run() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..9).map(|_| backoff.after(Duration::ZERO)).collect();
        assert_eq!(waits[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(waits[8], LONGEST);
        for _ in 0..100 {
            assert_eq!(backoff.after(Duration::ZERO), LONGEST);
        }
        assert_eq!(backoff.after(STEADY), FIRST);
    }
}
