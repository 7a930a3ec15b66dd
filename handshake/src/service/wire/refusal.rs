//! `refusal`: who refuses a pairing, and why.

use std::fmt;

use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::wire::{Malformed, Reader};

use super::field::{read_party, write_id};

/// Why a party refuses a pairing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RefusalReason {
    /// A message broke the protocol.
    Protocol,
    /// An SVID is not one to believe.
    Svid,
    /// An SVID has ended.
    Expired,
    /// An SVID is on the revocation list.
    Withdrawn,
    /// The service at the other end is not the one wanted.
    Peer,
    /// The policy has no such channel.
    Policy,
    /// The channel is not protected as required.
    Integrity,
    /// The two sides' terms differ.
    Terms,
    /// A signature, a MAC or a key is wrong.
    Proof,
    /// The epoch differs from that of the channel's other pairings.
    Epoch,
    /// The open, or an answer, came too late or not at all.
    Late,
    /// A limit was exceeded.
    Flood,
    /// The other VM's device process is gone.
    PeerGone,
}

/// Every reason with its number, the words shown to a person, and whether a client tries again.
pub const SERVICE_REFUSALS: &[(RefusalReason, u16, &str, bool)] = &[
    (
        RefusalReason::Protocol,
        1,
        "a message broke the protocol",
        true,
    ),
    (
        RefusalReason::Svid,
        2,
        "an SVID is not to be believed here",
        true,
    ),
    (RefusalReason::Expired, 3, "an SVID has ended", true),
    (
        RefusalReason::Withdrawn,
        4,
        "an SVID is on the revocation list",
        true,
    ),
    (
        RefusalReason::Peer,
        5,
        "the other end's service is not the one wanted",
        false,
    ),
    (
        RefusalReason::Policy,
        6,
        "the policy has no such channel for this service",
        false,
    ),
    (
        RefusalReason::Integrity,
        7,
        "the channel is not protected as required",
        false,
    ),
    (
        RefusalReason::Terms,
        8,
        "the two sides' policies or host boots differ",
        true,
    ),
    (
        RefusalReason::Proof,
        9,
        "a signature, a MAC or a key is wrong",
        true,
    ),
    (
        RefusalReason::Epoch,
        10,
        "the epoch is not that of the channel's other readers",
        true,
    ),
    (
        RefusalReason::Late,
        11,
        "an open or an answer to it came too late",
        true,
    ),
    (RefusalReason::Flood, 12, "a limit was exceeded", true),
    (
        RefusalReason::PeerGone,
        13,
        "the other VM's device process is gone",
        true,
    ),
];

impl RefusalReason {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Protocol => 1,
            Self::Svid => 2,
            Self::Expired => 3,
            Self::Withdrawn => 4,
            Self::Peer => 5,
            Self::Policy => 6,
            Self::Integrity => 7,
            Self::Terms => 8,
            Self::Proof => 9,
            Self::Epoch => 10,
            Self::Late => 11,
            Self::Flood => 12,
            Self::PeerGone => 13,
        }
    }

    /// Reads the number on the wire.
    ///
    /// # Errors
    /// A number that is no reason of this version.
    pub fn from_code(code: u16) -> Result<Self, Malformed> {
        SERVICE_REFUSALS
            .iter()
            .find(|(_, number, ..)| *number == code)
            .map(|(reason, ..)| *reason)
            .ok_or(Malformed::BadValue("refusal.reason"))
    }

    /// Whether waiting can heal it, so that a client tries again.
    #[must_use]
    pub fn heals(self) -> bool {
        let mut refusals = SERVICE_REFUSALS.iter();
        refusals.any(|(reason, _, _, heals)| *reason == self && *heals)
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = SERVICE_REFUSALS.iter().find(|(reason, ..)| reason == self);
        f.write_str(line.map_or("", |(_, _, words, _)| words))
    }
}

/// `refusal`: who refuses a pairing, and why. It is over, unless its client opens it again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServiceRefusal {
    /// The refusing party: a service or a device process.
    pub by: SpiffeId,
    /// Why.
    pub reason: RefusalReason,
}

impl ServiceRefusal {
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        write_id(to, self.by);
        to.extend(self.reason.code().to_le_bytes());
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            by: read_party(from, "refusal.by")?,
            reason: RefusalReason::from_code(from.u16("refusal.reason")?)?,
        })
    }
}

impl fmt::Display for ServiceRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.by.subject {
            Subject::Device(vm) => write!(f, "the device process of VM `{vm}`")?,
            Subject::Service(vm, service) => write!(f, "service `{service}` in VM `{vm}`")?,
        }
        write!(f, " refused: {}", self.reason)
    }
}
