//! Flow control of one session's `DATA`, in both directions (`docs/control-frames.md`, section 2).
//!
//! Each direction starts with [`SESSION_CREDIT_BYTES`]. A sender never has more under way; the
//! receiver gives back what it has consumed.

use std::collections::VecDeque;

use sivshm_abi::limits::{MAX_DATA_BYTES, SESSION_CREDIT_BYTES};

/// The guest sent more than it may, or gave back what it never had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Overdrawn;

/// More waits for the guest than the session can have any use for: it does not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unread;

/// Both directions of one session.
#[derive(Debug)]
pub struct Flow {
    /// Bytes that the guest may still send.
    window: usize,
    /// Bytes of the guest that were consumed and not given back yet.
    consumed: usize,
    /// Bytes that the guest still takes.
    credit: usize,
    /// Bytes for the guest that are not in a frame yet.
    waiting: VecDeque<u8>,
    /// Bytes that may wait.
    max: usize,
}

impl Flow {
    /// A session's start; at most `max` bytes may wait for the guest.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self {
            window: SESSION_CREDIT_BYTES,
            consumed: 0,
            credit: SESSION_CREDIT_BYTES,
            waiting: VecDeque::new(),
            max,
        }
    }

    /// Takes `bytes` of the guest.
    ///
    /// # Errors
    /// It has no credit for so many.
    pub fn take(&mut self, bytes: usize) -> Result<(), Overdrawn> {
        self.window = self.window.checked_sub(bytes).ok_or(Overdrawn)?;
        self.consumed = self.consumed.saturating_add(bytes);
        Ok(())
    }

    /// What to give back for everything that was taken; none if nothing was.
    pub fn give_back(&mut self) -> Option<u32> {
        let bytes = std::mem::take(&mut self.consumed);
        self.window = self.window.saturating_add(bytes);
        u32::try_from(bytes).ok().filter(|bytes| *bytes != 0)
    }

    /// The guest has consumed `bytes`.
    ///
    /// # Errors
    /// So many were not under way.
    pub fn given_back(&mut self, bytes: u32) -> Result<(), Overdrawn> {
        let bytes = usize::try_from(bytes).map_err(|_| Overdrawn)?;
        let credit = self.credit.checked_add(bytes).ok_or(Overdrawn)?;
        if credit > SESSION_CREDIT_BYTES {
            return Err(Overdrawn);
        }
        self.credit = credit;
        Ok(())
    }

    /// Appends bytes for the guest.
    ///
    /// # Errors
    /// Too many wait already.
    pub fn queue(&mut self, bytes: &[u8]) -> Result<(), Unread> {
        if self.waiting.len().saturating_add(bytes.len()) > self.max {
            return Err(Unread);
        }
        self.waiting.extend(bytes);
        Ok(())
    }

    /// The bytes of the next `DATA` frame; none while nothing waits or the guest takes no more.
    pub fn cut(&mut self) -> Option<Vec<u8>> {
        let bytes = self.waiting.len().min(self.credit).min(MAX_DATA_BYTES);
        self.credit = self.credit.saturating_sub(bytes);
        (bytes != 0).then(|| self.waiting.drain(..bytes).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_guest_may_send_what_it_has_credit_for_and_no_more() {
        let mut flow = Flow::new(0);
        assert_eq!(flow.give_back(), None);
        flow.take(SESSION_CREDIT_BYTES).unwrap();
        assert_eq!(flow.take(1), Err(Overdrawn));
        let all = u32::try_from(SESSION_CREDIT_BYTES).unwrap();
        assert_eq!(flow.give_back(), Some(all));
        flow.take(SESSION_CREDIT_BYTES).unwrap();
    }

    #[test]
    fn a_guest_can_not_give_back_what_it_never_had() {
        let mut flow = Flow::new(10);
        assert_eq!(flow.given_back(1), Err(Overdrawn));
        flow.queue(&[0; 10]).unwrap();
        assert_eq!(flow.queue(&[0]), Err(Unread));
        assert_eq!(flow.cut().map(|bytes| bytes.len()), Some(10));
        assert_eq!(flow.given_back(11), Err(Overdrawn));
        flow.given_back(10).unwrap();
        assert_eq!(flow.given_back(u32::MAX), Err(Overdrawn));
    }

    proptest! {
        /// Bytes arrive in order, in frames that the guest takes, and never more than its credit.
        #[test]
        fn bytes_keep_their_order_and_their_bounds(
            pieces in proptest::collection::vec(0_usize..5000, 1..20),
            returns in proptest::collection::vec(any::<bool>(), 60),
        ) {
            let total: usize = pieces.iter().sum();
            let bytes: Vec<u8> = (0..=250).cycle().take(total).collect();
            let mut flow = Flow::new(total);
            let mut rest = bytes.as_slice();
            for piece in pieces {
                let (next, after) = rest.split_at(piece);
                flow.queue(next).unwrap();
                rest = after;
            }
            let (mut got, mut under_way) = (Vec::new(), 0);
            for give_back in returns {
                if let Some(data) = flow.cut() {
                    prop_assert!(data.len() <= MAX_DATA_BYTES);
                    under_way += data.len();
                    got.extend(data);
                }
                prop_assert!(under_way <= SESSION_CREDIT_BYTES);
                if give_back {
                    flow.given_back(u32::try_from(under_way).unwrap()).unwrap();
                    under_way = 0;
                }
            }
            prop_assert_eq!(&got[..], &bytes[..got.len()]);
        }
    }
}
