//! The steps of a link, one struct and one file each; a step consumes the last.
//!
//! ```text
//! tls ─> admission ─> hello ─> manifest ─> ready ─> rights ─> accepted ─> established ─> ended
//! ```
//!
//! Both sides go through the same steps. `hello`, `manifest`, `ready`, `rights` and `accepted` of a
//! peer always come in this order, because each of them answers a message that this side sends in
//! this order too.

mod accepted;
mod admission;
mod established;
mod hello;
mod manifest;
mod ready;
mod rights;
mod tls;

pub use admission::{AdmissionFault, VerifiedPeer};
pub use hello::HelloFault;
pub use manifest::ManifestFault;
pub use rights::RightsFault;
pub(crate) use tls::ExpectTls;

use crate::peer::Action;
use crate::refusal::{Refusal, Step};
use crate::terms::Arrived;
use crate::tls::TlsFault;
use crate::wire::Message;

use accepted::ExpectAccepted;
use admission::AwaitAdmission;
use hello::ExpectHello;
use manifest::ExpectManifest;
use ready::ExpectReady;
use rights::ExpectRights;

/// Who began.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// This side dialed and numbered the connection.
    Dialer { connection: u64 },
    /// The peer dialed.
    Listener,
}

/// Where a machine is.
#[derive(Debug, Default)]
pub(crate) enum State<T> {
    Tls(ExpectTls),
    Admission(AwaitAdmission),
    Hello(ExpectHello<T>),
    Manifest(ExpectManifest<T>),
    Ready(ExpectReady<T>),
    Rights(ExpectRights<T>),
    Accepted(ExpectAccepted<T>),
    Established,
    /// The link is over. Also what a step leaves behind while it runs, so that one that fails ends
    /// the machine.
    #[default]
    Ended,
}

impl<T: Clone> State<T> {
    pub(crate) const fn waiting(&self) -> Step {
        match self {
            Self::Tls(_) => Step::Tls,
            Self::Admission(_) => Step::Admission,
            Self::Hello(_) => Step::Hello,
            Self::Manifest(_) => Step::Manifest,
            Self::Ready(_) => Step::Ready,
            Self::Rights(_) => Step::Rights,
            Self::Accepted(_) => Step::Accepted,
            Self::Established => Step::Established,
            Self::Ended => Step::Ended,
        }
    }

    /// Hands a message to the step whose turn it is.
    pub(crate) fn on_message(
        self,
        message: Message,
        outbox: &mut Outbox<T>,
    ) -> Result<Self, Refusal> {
        let waiting = self.waiting();
        match (self, message) {
            (Self::Hello(step), Message::Hello(hello)) => Ok(step.on_hello(hello, outbox)?),
            (Self::Manifest(step), Message::Manifest(manifest)) => {
                Ok(step.on_manifest(manifest, outbox)?)
            }
            (Self::Ready(step), Message::Ready) => Ok(step.on_ready(outbox)?),
            (Self::Rights(step), Message::Rights(rights)) => Ok(step.on_rights(rights, outbox)?),
            (Self::Accepted(step), Message::Accepted) => Ok(step.on_accepted(outbox)),
            (Self::Established, Message::Revoke(channel)) => {
                Ok(established::on_revoke(channel, outbox))
            }
            (Self::Established, Message::Service(message)) if message.passes_links() => {
                Ok(established::on_service(message, outbox))
            }
            (Self::Established, Message::Bye) => Ok(established::on_bye(outbox)),
            (_, Message::Refusal(told)) => Err(Refusal::Told(told)),
            (_, Message::Bye) => Err(TlsFault::Closed.into()),
            (_, message) => Err(Refusal::OutOfTurn {
                got: message.kind(),
                waiting,
            }),
        }
    }

    /// Takes descriptors in the order of their coming; only a machine that has said `ready` does.
    pub(crate) fn take_rights(&mut self, rights: Vec<Arrived<T>>) -> Result<(), Refusal> {
        if rights.is_empty() {
            return Ok(());
        }
        match self {
            Self::Ready(step) => Ok(step.incoming.take(rights)?),
            Self::Rights(step) => Ok(step.incoming.take(rights)?),
            state => Err(RightsFault::Uninvited {
                count: rights.len(),
                waiting: state.waiting(),
            }
            .into()),
        }
    }
}

/// What a step wants done.
pub(crate) enum Intent<T> {
    /// Tell the peer.
    Say(Message),
    /// Tell the peer, and give it descriptors with the message.
    Give(Message, Vec<T>),
    /// Tell the caller.
    Ask(Action<T>),
}

/// What the steps of one entry want done, in order. Nothing of it is if one of them refuses.
pub(crate) struct Outbox<T>(pub(crate) Vec<Intent<T>>);

impl<T> Outbox<T> {
    fn say(&mut self, message: Message) {
        self.0.push(Intent::Say(message));
    }

    fn give(&mut self, message: Message, rights: Vec<T>) {
        self.0.push(Intent::Give(message, rights));
    }

    fn ask(&mut self, action: Action<T>) {
        self.0.push(Intent::Ask(action));
    }
}
