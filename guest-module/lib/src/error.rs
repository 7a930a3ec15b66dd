//! What can go wrong, and whose fault it is.

use std::io;

use sivshm_abi::frame::Reason;
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::BadName;
use sivshm_handshake::service::ServiceFault;
use sivshm_handshake::service::wire::ServiceRefusal;
use sivshm_ring::OutOfBounds;
use sivshm_ring::line::Fault;
use sivshm_ring::region::CopyError;
use sivshm_ring::slots::IntegrityFault;

use crate::integrity::KeyFault;

/// Who has refused a channel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Party {
    /// This process: what the others say does not fit what it asked for.
    Own,
    /// The device process of this VM.
    OwnDevice,
    /// The device process of the VM at the other end.
    PeerDevice,
    /// The service at the other end.
    Peer,
}

impl Party {
    /// Who `by` is, as `own` sees it.
    pub(crate) fn of(by: SpiffeId, own: SpiffeId) -> Self {
        match (by.subject, own.subject) {
            _ if by == own => Self::Own,
            (Subject::Device(vm), Subject::Service(own, _)) if vm == own => Self::OwnDevice,
            (Subject::Device(_), _) => Self::PeerDevice,
            (Subject::Service(..), _) => Self::Peer,
        }
    }
}

/// Why a call failed. Each message says who is to blame or what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An identity can't be used.
    #[error("the identity from {place} can't be used")]
    Identity {
        /// File, environment variable, or the SPIFFE ID that is not the one asked for.
        place: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The session could not be opened.
    #[error("can't open a session at {place}: {hint}")]
    Open {
        /// Device file, socket or environment variable.
        place: String,
        /// What to do.
        hint: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The caller's text is no name of a channel or service.
    #[error("not a name: {0}")]
    Name(#[from] BadName),
    /// The caller's peers are not those that the channel's end has.
    #[error("{0}")]
    Peers(BadPeers),
    /// This service and its VM's device process do not believe each other.
    #[error("the handshake with this VM's device process failed")]
    Handshake(#[from] ServiceFault),
    /// Somebody does not want the channel.
    #[error("{refusal}")]
    Refused {
        /// Who, seen from here.
        by: Party,
        /// Who by name, and why.
        refusal: Box<ServiceRefusal>,
    },
    /// The caller has given up the opening.
    #[error("the opening was cancelled by this program")]
    Cancelled,
    /// The session has ended: open a new one, unless the reason says that it would be of no use.
    #[error("the session has ended: {}", .0.map_or("no reason was given", Reason::words))]
    Ended(Option<Reason>),
    /// The channel has ended: renew its end, or drop it.
    #[error("the channel was revoked: {}", .0.map_or("no reason was given", Reason::words))]
    Revoked(Option<Reason>),
    /// Time is up.
    #[error("timed out waiting for {0}")]
    Timeout(&'static str),
    /// The other end stored what no correct end stores; don't use the channel any more.
    #[error("the peer broke the channel's protocol")]
    Peer(#[source] Fault),
    /// A slot is not the next one of the producer's; the following call goes on behind it.
    #[error("the channel's integrity is broken")]
    Integrity(#[from] IntegrityFault),
    /// The channel's key can't be used: open the channel again.
    #[error("the channel has no usable key")]
    Key(#[from] KeyFault),
    /// The other end overwrites slots faster than they can be read; trying again is in order.
    #[error("the peer overwrites slots faster than they are read")]
    Outrun,
    /// The policy gives this service another end of the channel, or another kind.
    #[error("by the policy this end of the channel is not {0}")]
    Kind(&'static str),
    /// The caller's bytes do not fit the channel, or its buffer does not hold the message.
    #[error("{needed} bytes do not fit the {available} that there are")]
    TooLong {
        /// Bytes that were to be moved.
        needed: usize,
        /// Bytes of room for them.
        available: usize,
    },
    /// The kernel, or the device process behind it, failed.
    #[error("the host failed to {doing}")]
    Host {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Why the peers that a caller names can't be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadPeers {
    /// None is named.
    #[error("name the peer: a service that opens a channel says whom it expects")]
    None,
    /// A text is no other service's name.
    #[error(
        "`{0}` names no other service: write VM/SERVICE, or its SPIFFE ID in this trust domain"
    )]
    NoService(String),
    /// The end has another number of peers.
    #[error("{named} peers are named, but this end of the channel has {wanted}: name each once")]
    Number {
        /// Peers that the caller names.
        named: usize,
        /// Peers of the end.
        wanted: usize,
    },
}

impl Error {
    /// Maps a system's error to [`Error::Host`].
    pub(crate) fn host<E: Into<io::Error>>(doing: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::Host {
            doing,
            source: source.into(),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Peer(fault)
    }
}

impl From<OutOfBounds> for Error {
    fn from(refused: OutOfBounds) -> Self {
        Self::TooLong {
            needed: refused.offset.saturating_add(refused.bytes),
            available: refused.len,
        }
    }
}

impl From<CopyError> for Error {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::OutOfBounds(refused) => refused.into(),
            CopyError::Fault(fault) => fault.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{device, service};

    #[test]
    fn every_party_is_told_from_the_others() {
        let own = service("manager", "mapper");
        for (by, party) in [
            (own, Party::Own),
            (device("manager"), Party::OwnDevice),
            (device("worker-1"), Party::PeerDevice),
            (service("worker-1", "reducer"), Party::Peer),
            (service("worker-1", "mapper"), Party::Peer),
        ] {
            assert_eq!(Party::of(by, own), party, "{by}");
        }
    }
}
