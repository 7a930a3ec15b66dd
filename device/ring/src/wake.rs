//! How an end of a channel sleeps without missing the other (DESIGN section 11).
//!
//! The end that waits: spin briefly, publish `waiting`, look once more, sleep. The end that
//! advances: publish the count, then ring if the other is `waiting`. Each stores one word and then
//! loads the other's, so a full fence stands between the two on both sides: at least one of them
//! sees the other's store, and either the waiting end does not sleep or it is rung.
//!
//! A ring is a hint and memory is the truth: a peer may ring for nothing, which costs a look, or
//! never, which costs a timeout.

use crate::shared::Word64;
use crate::sync::store_load_fence;

/// The `waiting` flag of this end's own page.
#[derive(Clone, Copy, Debug)]
pub struct Sleeper(Word64);

impl Sleeper {
    pub(crate) const fn new(waiting: Word64) -> Self {
        Self(waiting)
    }

    /// Waits until `ready` finds something: looks `spins` times, then calls `sleep` between looks.
    ///
    /// `sleep` returns when the peer has rung since the call before, or at any other time; it
    /// bounds the wait by failing when the caller's time is up.
    ///
    /// # Errors
    /// The first error of `ready` or of `sleep`. Nothing is stored once `sleep` has failed, because what
    /// made it fail may have taken the page away; the peer goes on ringing until [`Self::rest`].
    pub fn wait<T, E>(
        self,
        spins: u32,
        mut ready: impl FnMut() -> Result<Option<T>, E>,
        mut sleep: impl FnMut() -> Result<(), E>,
    ) -> Result<T, E> {
        for _ in 0..spins {
            if let Some(found) = ready()? {
                return Ok(found);
            }
            core::hint::spin_loop();
        }
        loop {
            self.0.store(1);
            store_load_fence(); // SYNC POINT: sleep-or-ring
            let outcome = ready();
            if let Ok(None) = outcome {
                sleep()?;
            }
            self.0.store(0);
            if let Some(found) = outcome? {
                return Ok(found);
            }
        }
    }

    /// Tells the peer not to ring, after a wait whose sleep failed and left the page this end's.
    pub fn rest(self) {
        self.0.store(0);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::memory::Memory;

    #[test]
    fn a_page_is_left_alone_once_its_end_can_not_sleep() {
        let memory = Memory::new(64);
        let word = memory.shared().word64(0).unwrap();
        let sleeper = Sleeper::new(word);
        let refused: Result<(), &str> = sleeper.wait(
            0,
            || Ok(None),
            || {
                assert_eq!(word.load(), 1);
                // The page is another's from here on.
                word.store(7);
                Err("revoked")
            },
        );
        assert_eq!((refused, word.load()), (Err("revoked"), 7));
        sleeper.rest();
        assert_eq!(word.load(), 0);
    }
}
