//! Handshake bytes of one session, and how many of them may be under way (`docs/control-frames.md`).

use sivshm_abi::limits::SESSION_CREDIT_BYTES;

use crate::complaint::FlowFault;

/// Credit that is given back before every byte was read: half of it, so that the device process
/// goes on while the process reads, and no byte costs a frame of its own.
const BATCH: usize = SESSION_CREDIT_BYTES / 2;

/// Both directions of a session.
///
/// # Invariants
/// `unread + owed <= SESSION_CREDIT_BYTES`; what is left is what the device process may send. So
/// what it sends within its credit always has a place here.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Bytes that have come, from `start` on, modulo the length.
    bytes: [u8; SESSION_CREDIT_BYTES],
    start: usize,
    /// How many of them no read has taken.
    unread: usize,
    /// Bytes that were read and for which the device process has no new credit yet.
    owed: usize,
    /// Bytes that the session may send.
    credit: usize,
}

impl Stream {
    /// A stream of a session that has just been opened.
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; SESSION_CREDIT_BYTES],
            start: 0,
            unread: 0,
            owed: 0,
            credit: SESSION_CREDIT_BYTES,
        }
    }

    /// Forgets everything, for another session.
    pub(crate) const fn restart(&mut self) {
        self.unread = 0;
        self.owed = 0;
        self.credit = SESSION_CREDIT_BYTES;
    }

    /// `DATA` has come.
    ///
    /// # Errors
    /// [`FlowFault::Data`]: it is more than the device process has credit for; nothing is kept.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), FlowFault> {
        if bytes.len() > SESSION_CREDIT_BYTES - self.unread - self.owed {
            return Err(FlowFault::Data);
        }
        let end = (self.start + self.unread) % SESSION_CREDIT_BYTES;
        let (wrapped, straight) = self.bytes.split_at_mut(end);
        for (to, byte) in straight.iter_mut().chain(wrapped).zip(bytes) {
            *to = *byte;
        }
        self.unread += bytes.len();
        Ok(())
    }

    /// Moves bytes that have come to `to`, and returns how many.
    pub(crate) fn take(&mut self, to: &mut [u8]) -> usize {
        let count = to.len().min(self.unread);
        let (wrapped, straight) = self.bytes.split_at(self.start);
        for (to, byte) in to
            .iter_mut()
            .take(count)
            .zip(straight.iter().chain(wrapped))
        {
            *to = *byte;
        }
        self.start = (self.start + count) % SESSION_CREDIT_BYTES;
        self.unread -= count;
        self.owed += count;
        count
    }

    /// Whether there is something to read.
    pub(crate) const fn has_unread(&self) -> bool {
        self.unread > 0
    }

    /// Credit that is to be given to the device process now, if any.
    pub(crate) fn due(&self) -> Option<u32> {
        let worth_a_frame = self.owed >= BATCH || (self.owed > 0 && self.unread == 0);
        (worth_a_frame.then_some(self.owed)).and_then(|owed| u32::try_from(owed).ok())
    }

    /// What was [`Self::due`] has been given.
    pub(crate) const fn given(&mut self) {
        self.owed = 0;
    }

    /// Bytes that the session may send.
    pub(crate) const fn credit(&self) -> usize {
        self.credit
    }

    /// The session has sent that many bytes, at most its credit.
    pub(crate) const fn sent(&mut self, bytes: usize) {
        self.credit -= bytes;
    }

    /// `RING` has come.
    ///
    /// # Errors
    /// [`FlowFault::Credit`]: it is more than the session has sent.
    pub(crate) fn gain(&mut self, credit: u32) -> Result<(), FlowFault> {
        let sum = (usize::try_from(credit).ok()).and_then(|credit| credit.checked_add(self.credit));
        self.credit = sum
            .filter(|sum| *sum <= SESSION_CREDIT_BYTES)
            .ok_or(FlowFault::Credit)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::vec::Vec;

    #[test]
    fn credit_is_given_back_in_few_frames() {
        let mut stream = Stream::new();
        stream.put(&[1; SESSION_CREDIT_BYTES]).unwrap();
        assert_eq!(stream.take(&mut [0; BATCH - 1]), BATCH - 1);
        assert_eq!(stream.due(), None, "less than half was read");
        assert_eq!(stream.take(&mut [0]), 1);
        assert_eq!(stream.due(), Some(u32::try_from(BATCH).unwrap()));
        stream.given();
        assert_eq!(stream.due(), None);
        assert_eq!(stream.take(&mut [0; BATCH - 1]), BATCH - 1);
        assert_eq!(stream.due(), None);
        assert_eq!(stream.take(&mut [0; 2]), 1);
        assert_eq!(stream.due(), Some(u32::try_from(BATCH).unwrap()));
        stream.given();
        stream.put(&[1]).unwrap();
        assert_eq!(stream.take(&mut [0; 2]), 1);
        assert_eq!(stream.due(), Some(1), "everything was read");
    }

    #[test]
    fn credit_has_a_bound_in_both_directions() {
        let mut stream = Stream::new();
        assert_eq!(stream.gain(1), Err(FlowFault::Credit));
        assert_eq!(stream.gain(u32::MAX), Err(FlowFault::Credit));
        stream.sent(SESSION_CREDIT_BYTES);
        assert_eq!(stream.credit(), 0);
        assert_eq!(stream.gain(7), Ok(()));
        assert_eq!(stream.gain(u32::MAX), Err(FlowFault::Credit));
        assert_eq!(stream.credit(), 7);
        stream.put(&[1; SESSION_CREDIT_BYTES]).unwrap();
        stream.take(&mut [0; BATCH]);
        let early = stream.put(&[2]);
        assert_eq!(early, Err(FlowFault::Data), "what was read is not credit");
        stream.given();
        assert_eq!(stream.put(&[2; BATCH + 1]), Err(FlowFault::Data));
        assert_eq!(stream.put(&[2; BATCH]), Ok(()));
    }

    proptest! {
        /// A queue of bytes, whatever the order of what comes, is read and is given back.
        #[test]
        fn bytes_come_out_as_they_went_in(
            steps in proptest::collection::vec((0_usize..3000, 0_usize..3000, any::<bool>()), 1..60),
        ) {
            let mut stream = Stream::new();
            let (mut queue, mut credit, mut next) = (VecDeque::new(), SESSION_CREDIT_BYTES, 0_u8);
            for (put, take, give) in steps {
                let bytes: Vec<u8> = (0..put).map(|_| { next = next.wrapping_add(1); next }).collect();
                match stream.put(&bytes) {
                    Ok(()) => {
                        prop_assert!(put <= credit);
                        credit -= put;
                        queue.extend(bytes);
                    }
                    Err(fault) => {
                        prop_assert_eq!(fault, FlowFault::Data);
                        prop_assert!(put > credit);
                    }
                }
                let mut to = std::vec![0; take];
                let count = stream.take(&mut to);
                prop_assert_eq!(count, take.min(queue.len()));
                let expected: Vec<u8> = queue.drain(..count).collect();
                prop_assert_eq!(&to[..count], expected);
                if let Some(due) = stream.due().filter(|_| give) {
                    credit += usize::try_from(due).unwrap();
                    stream.given();
                }
                prop_assert_eq!(stream.has_unread(), !queue.is_empty());
                prop_assert!(credit + queue.len() <= SESSION_CREDIT_BYTES);
            }
        }
    }
}
