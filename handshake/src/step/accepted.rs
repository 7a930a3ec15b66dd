//! Waits for the peer's `accepted`; this side's originals are kept until then.

use super::{Outbox, State, VerifiedPeer};
use crate::link::LinkId;
use crate::peer::{Action, Established};
use crate::terms::Received;

/// All of the peer's descriptors are accepted; whether it accepted this side's is open.
#[derive(Debug)]
pub(crate) struct ExpectAccepted<T> {
    pub(super) peer: VerifiedPeer,
    pub(super) link: LinkId,
    pub(super) instance: [u8; 16],
    pub(super) originals: Vec<T>,
    pub(super) objects: Vec<Received<T>>,
}

impl<T> ExpectAccepted<T> {
    pub(super) fn on_accepted(self, outbox: &mut Outbox<T>) -> State<T> {
        drop(self.originals);
        outbox.ask(Action::Established(Established {
            peer: self.peer,
            link: self.link,
            instance: self.instance,
            objects: self.objects,
        }));
        State::Established
    }
}
