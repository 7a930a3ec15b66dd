//! Waits for the peer's `ready`, and sends this side's descriptors then.

use sivshm_abi::wire::Malformed;

use super::rights::{ExpectRights, Incoming};
use super::{Outbox, State, VerifiedPeer};
use crate::limits::MAX_RIGHTS_PER_MESSAGE;
use crate::link::LinkId;
use crate::wire::{Message, Rights};

/// The peer's manifest is as planned; this side's `ready` is sent, so descriptors may come already.
#[derive(Debug)]
pub(crate) struct ExpectReady<T> {
    pub(super) peer: VerifiedPeer,
    pub(super) link: LinkId,
    pub(super) instance: [u8; 16],
    pub(super) originals: Vec<T>,
    pub(super) incoming: Incoming<T>,
}

impl<T: Clone> ExpectReady<T> {
    pub(super) fn on_ready(self, outbox: &mut Outbox<T>) -> Result<State<T>, Malformed> {
        // A batch is never empty and never too large, so its number is never refused.
        for batch in self.originals.chunks(MAX_RIGHTS_PER_MESSAGE) {
            let rights = Message::Rights(Rights::new(batch.len())?);
            outbox.give(rights, batch.to_vec());
        }
        let next = ExpectRights {
            peer: self.peer,
            link: self.link,
            instance: self.instance,
            originals: self.originals,
            incoming: self.incoming,
        };
        Ok(next.go_on(outbox))
    }
}
