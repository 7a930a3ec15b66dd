//! What can go wrong, and whose fault it is.

use std::io;

use sivshm_abi::frame::Reason;
use sivshm_abi::name::BadName;
use sivshm_ring::OutOfBounds;
use sivshm_ring::line::Fault;

/// Why a call failed. Each message says who is to blame or what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    /// The caller's text is no channel name.
    #[error("not a channel name: {0}")]
    Name(#[from] BadName),
    /// The session has ended: open a new one, unless the reason says that it would be of no use.
    #[error("the session has ended: {}", .0.map_or("no reason was given", Reason::words))]
    Ended(Option<Reason>),
    /// The channel's grants have ended: take the channel again, or end.
    #[error("the channel was revoked: {}", .0.map_or("no reason was given", Reason::words))]
    Revoked(Option<Reason>),
    /// Time is up.
    #[error("timed out waiting for {0}")]
    Timeout(&'static str),
    /// The other end stored what no correct end stores; don't use the channel any more.
    #[error("the peer broke the channel's protocol")]
    Peer(#[source] Fault),
    /// The other end overwrites slots faster than they can be read; trying again is in order.
    #[error("the peer overwrites slots faster than they are read")]
    Outrun,
    /// The policy says another kind for this channel.
    #[error("the policy has another kind for this channel than the {0} asked for")]
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
