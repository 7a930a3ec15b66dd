//! Why a session or a pairing fails, and what its parties are told.

use std::fmt;

use sivshm_abi::wire::Malformed;

use super::wire::{MessageType, RefusalReason};
use crate::identity::IdentityFault;
use crate::tls::{ConnectionFault, TlsFault};

/// Why a session or a pairing fails.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ServiceFault {
    /// TLS itself failed. The session is over.
    #[error(transparent)]
    Tls(#[from] TlsFault),
    /// A certificate is not the SVID that it has to be.
    #[error(transparent)]
    Identity(#[from] IdentityFault),
    /// Bytes that are no message. The session is over.
    #[error("peer: bytes that are no message of the service protocol: {0}")]
    Malformed(#[from] Malformed),
    /// A message that may not come now, or from there.
    #[error("peer: `{got}` came while waiting for {waiting}")]
    OutOfTurn {
        /// What came.
        got: MessageType,
        /// What was awaited.
        waiting: &'static str,
    },
    /// What the other side says is not what this side's plan, or wish, says.
    #[error("policy: the {0} is not the one that this side requires; compare both sides' policies")]
    Differs(Term),
    /// The open's time is over, or begins too far in the future.
    #[error("peer: the open is not good at this time; check both clocks")]
    Late,
    /// Something that was to be proved is not.
    #[error("peer: {0}")]
    Proof(#[from] Proof),
    /// The own key can't sign, or there is no randomness.
    #[error("host: cryptography failed here; check that the system's random device works")]
    Crypto,
    /// A wish that can't be.
    #[error("host: this can't be wanted: {0}")]
    Wish(&'static str),
    /// The session had ended before.
    #[error("host: the session had ended already")]
    Ended,
}

/// What two sides of a pairing have to agree on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Term {
    /// The trust domain.
    TrustDomain,
    /// The contract between the two VMs.
    Contract,
    /// Serial number of the policy.
    Serial,
    /// The channel.
    Channel,
    /// The channel's kind and geometry.
    Kind,
    /// The channel's integrity.
    Integrity,
    /// Generation of the slice.
    SliceGeneration,
    /// This boot of the host.
    HostBoot,
    /// The writing service.
    Writer,
    /// The reading service.
    Reader,
    /// Which of the two this side is.
    Role,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TrustDomain => "trust domain",
            Self::Contract => "contract",
            Self::Serial => "policy's serial",
            Self::Channel => "channel",
            Self::Kind => "channel's kind",
            Self::Integrity => "channel's integrity",
            Self::SliceGeneration => "slice's generation",
            Self::HostBoot => "host's boot",
            Self::Writer => "writing service",
            Self::Reader => "reading service",
            Self::Role => "service's role",
        })
    }
}

/// What a party did not prove.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Proof {
    /// The chain is another than the one that was signed.
    #[error("the SVID is another than the one that was signed")]
    Chain,
    /// The signature is not by the SVID's key, or over something else.
    #[error("the signature is wrong")]
    Signature,
    /// It answers another message than the one that was sent.
    #[error("the message answers another exchange than this one")]
    Exchange,
    /// The key for the agreement has a small order.
    #[error("the key has no secret in common with any other")]
    Key,
    /// The MAC is wrong: it was made by somebody who does not have the keys.
    #[error("the MAC is wrong")]
    Mac,
}

impl From<ConnectionFault> for ServiceFault {
    fn from(fault: ConnectionFault) -> Self {
        match fault {
            ConnectionFault::Tls(fault) => Self::Tls(fault),
            ConnectionFault::Identity(fault) => Self::Identity(fault),
        }
    }
}

impl ServiceFault {
    /// What the other parties of the pairing are told.
    #[must_use]
    pub const fn reason(&self) -> RefusalReason {
        match self {
            Self::Identity(IdentityFault::Expired) => RefusalReason::Expired,
            Self::Identity(IdentityFault::Revoked) => RefusalReason::Withdrawn,
            Self::Identity(_) => RefusalReason::Svid,
            Self::Differs(term) => match term {
                Term::Writer | Term::Reader => RefusalReason::Peer,
                Term::Channel | Term::Kind | Term::Role => RefusalReason::Policy,
                Term::Integrity => RefusalReason::Integrity,
                Term::TrustDomain
                | Term::Contract
                | Term::Serial
                | Term::SliceGeneration
                | Term::HostBoot => RefusalReason::Terms,
            },
            Self::Late => RefusalReason::Late,
            Self::Proof(_) => RefusalReason::Proof,
            Self::Tls(_)
            | Self::Malformed(_)
            | Self::OutOfTurn { .. }
            | Self::Crypto
            | Self::Wish(_)
            | Self::Ended => RefusalReason::Protocol,
        }
    }
}
