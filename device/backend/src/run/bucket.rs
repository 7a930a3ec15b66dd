//! A token bucket: how often something may happen.

use std::time::{Duration, Instant};

/// Time from one event to the next at `per_second` events a second.
#[must_use]
pub const fn interval(per_second: u32) -> Duration {
    match Duration::from_secs(1).checked_div(per_second) {
        Some(interval) => interval,
        None => Duration::MAX,
    }
}

/// Allows `capacity` events at once and one more every `interval`.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    capacity: u32,
    interval: Duration,
    tokens: u32,
    /// When the bucket last gained a token, or was full.
    filled: Instant,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub const fn new(capacity: u32, interval: Duration, now: Instant) -> Self {
        Self {
            capacity,
            interval,
            tokens: capacity,
            filled: now,
        }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }

    /// When there is a token again, if nobody takes one before.
    #[must_use]
    pub fn next(&self) -> Instant {
        match self.tokens {
            0 => self.filled + self.interval,
            _ => self.filled,
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        let gained = passed / self.interval.as_nanos().max(1);
        let room = self.capacity.saturating_sub(self.tokens);
        match u32::try_from(gained) {
            Ok(gained) if gained < room => {
                self.tokens = self.tokens.saturating_add(gained);
                self.filled += self.interval.saturating_mul(gained);
            }
            _ => {
                self.tokens = self.capacity;
                self.filled = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_allows_its_capacity_and_then_its_rate() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut bucket = TokenBucket::new(2, second, start);
        assert!(bucket.take(start) && bucket.take(start));
        assert!(!bucket.take(start));
        assert!(bucket.take(start + second));
        assert!(!bucket.take(start + second));
    }

    #[test]
    fn an_empty_bucket_says_when_it_is_not() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut bucket = TokenBucket::new(1, second, start);
        assert!(bucket.next() <= start);
        assert!(bucket.take(start));
        let next = bucket.next();
        assert_eq!(next, start + second);
        assert!(bucket.take(next));
    }

    #[test]
    fn a_long_pause_fills_it_and_no_more() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(2, Duration::from_millis(1), start);
        let later = start + Duration::from_secs(1_000_000);
        let taken = (0..5).filter(|_| bucket.take(later)).count();
        assert_eq!(taken, 2);
    }
}
