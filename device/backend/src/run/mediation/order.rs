//! What goes in and out of mediation, and why something is refused.

use sivshm_abi::frame::{Reason, SessionId};
use sivshm_handshake::service::wire::{Content, Message, MessageType, RefusalReason};
use sivshm_handshake::service::{OpenTerms, ServiceFault};

use super::planned::{PairingId, Planned};
use crate::audit::{Blame, Decision};
use crate::run::admission::Scope;

/// Something to do.
#[derive(Debug)]
pub enum Order {
    /// Record this, before anything that follows.
    Record(Note),
    /// Tell a service of this VM.
    Tell(SessionId, Message),
    /// Pass to the device process of a peer.
    Pass(usize, Message),
    /// Grant this VM's end of a pairing to a session; [`super::Mediation::agreement`] says for what. If that
    /// fails, what follows is not so: [`super::Mediation::not_installed`] has what is to be done instead.
    Install(PairingId, SessionId),
    /// Take back what a session was granted; [`super::Mediation::taken_back`] has how it goes on.
    TakeBack(PairingId, SessionId, Reason),
}

/// What is to be recorded about a pairing.
#[derive(Debug)]
pub struct Note {
    /// How it was decided.
    pub decision: Decision,
    /// Who is at fault, if it is a denial or an end.
    pub blame: Blame,
    /// The services.
    pub who: String,
    /// The channel.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// What pairings have to know about grants and sessions.
pub trait Gate {
    /// Whether the guest has let go of everything that it was granted for a pairing and that has
    /// been taken back.
    fn settled(&self, scope: &Scope<'_>, pairing: &Planned) -> bool;
    /// Which service of the VM a session has proved to be.
    fn service(&self, session: SessionId) -> Option<usize>;
}

/// One of the two parties next to this device process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Party {
    /// The service of this VM.
    Service,
    /// The peer's device process.
    Peer,
}

/// What a step wants done.
#[derive(Debug)]
pub(super) enum Act {
    Tell(Content),
    Pass(Content),
    Install,
}

/// What a step looks at.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) scope: &'a Scope<'a>,
    /// What kind of message it is about.
    pub(super) kind: MessageType,
    /// What an `open` of the pairing has to say; none while the peer's slices are not known.
    pub(super) terms: Option<OpenTerms>,
    /// The epoch of the channel's other pairings.
    pub(super) epoch: Option<u64>,
}

/// Why a message is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Checked(#[from] ServiceFault),
    #[error("{0}")]
    Refused(RefusalReason),
    #[error("`{0}` came when something else was awaited")]
    OutOfTurn(MessageType),
}

impl From<RefusalReason> for Fault {
    fn from(reason: RefusalReason) -> Self {
        Self::Refused(reason)
    }
}

impl Fault {
    pub(super) const fn reason(&self) -> RefusalReason {
        match self {
            Self::Checked(fault) => fault.reason(),
            Self::Refused(reason) => *reason,
            Self::OutOfTurn(_) => RefusalReason::Protocol,
        }
    }
}

/// Whether a message makes its receiver verify signatures, or begins what ends in that.
#[must_use]
pub const fn is_costly(content: &Content) -> bool {
    matches!(
        content,
        Content::Want { .. } | Content::Open(_) | Content::Accept(_) | Content::Confirm(_)
    )
}
