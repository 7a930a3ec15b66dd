//! Waits for the end of the TLS handshake.

use super::admission::AwaitAdmission;
use super::{Outbox, Role, State};
use crate::identity::VerifiedIdentity;
use crate::peer::Action;

/// The peer has proved nothing yet.
#[derive(Debug)]
pub(crate) struct ExpectTls {
    pub(crate) role: Role,
}

impl ExpectTls {
    pub(crate) fn on_authenticated<T>(
        self,
        identity: VerifiedIdentity,
        outbox: &mut Outbox<T>,
    ) -> State<T> {
        outbox.ask(Action::CheckPeer { vm: identity.vm() });
        State::Admission(AwaitAdmission {
            role: self.role,
            identity,
        })
    }
}
