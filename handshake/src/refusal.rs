//! Why a link is refused, whose fault that is, and what the peer is told.

use std::fmt;

use sivshm_abi::wire::Malformed;

use crate::identity::IdentityFault;
use crate::step::{AdmissionFault, HelloFault, ManifestFault, RightsFault};
use crate::tls::{ConnectionFault, TlsFault};
use crate::wire::{MessageType, Told};

/// Who has to change something before the link can be.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Blame {
    /// The other device process, or whoever plays it.
    Peer,
    /// The policy, on one side or both.
    Policy,
    /// This host.
    Host,
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer => "peer",
            Self::Policy => "policy",
            Self::Host => "host",
        })
    }
}

/// All that a refused party learns, apart from TLS's own alerts.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RefusalCode {
    /// A message broke the protocol.
    Protocol,
    /// The two builds speak different versions.
    Version,
    /// The policy has no link between the two VMs.
    NoLink,
    /// The process is not the device process of the VM that its SVID names.
    Uid,
    /// The two hosts' boots differ.
    HostBoot,
    /// The contracts differ.
    Contract,
    /// The policies' serial numbers differ.
    Serial,
    /// The manifest is not what the policy plans.
    Manifest,
    /// The descriptors are not what the manifest says.
    Rights,
    /// The handshake took too long.
    Timeout,
}

/// Every refusal code with its number and the words shown to a person.
pub const REFUSAL_CODES: &[(RefusalCode, u16, &str)] = &[
    (RefusalCode::Protocol, 1, "a message broke the protocol"),
    (
        RefusalCode::Version,
        2,
        "the two builds speak different versions",
    ),
    (
        RefusalCode::NoLink,
        3,
        "the policy has no link between the two VMs",
    ),
    (
        RefusalCode::Uid,
        4,
        "the process is not the device process of the VM that its SVID names",
    ),
    (
        RefusalCode::HostBoot,
        5,
        "the two are not on the same boot of one host",
    ),
    (
        RefusalCode::Contract,
        6,
        "the two policies differ about this link",
    ),
    (
        RefusalCode::Serial,
        7,
        "the two policies have different serial numbers",
    ),
    (
        RefusalCode::Manifest,
        8,
        "the manifest is not what the policy plans",
    ),
    (
        RefusalCode::Rights,
        9,
        "the descriptors are not what the manifest says",
    ),
    (RefusalCode::Timeout, 10, "the handshake took too long"),
];

impl RefusalCode {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Protocol => 1,
            Self::Version => 2,
            Self::NoLink => 3,
            Self::Uid => 4,
            Self::HostBoot => 5,
            Self::Contract => 6,
            Self::Serial => 7,
            Self::Manifest => 8,
            Self::Rights => 9,
            Self::Timeout => 10,
        }
    }

    /// Reads the number on the wire.
    ///
    /// # Errors
    /// A number that is no code of this version.
    pub fn from_code(code: u16) -> Result<Self, Malformed> {
        REFUSAL_CODES
            .iter()
            .find(|(_, number, _)| *number == code)
            .map(|(refusal, _, _)| *refusal)
            .ok_or(Malformed::BadValue("refusal.code"))
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = REFUSAL_CODES.iter().find(|(refusal, _, _)| refusal == self);
        f.write_str(line.map_or("", |(_, _, words)| words))
    }
}

/// Why there is no link. The machine that returned one is over.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// TLS itself failed.
    #[error(transparent)]
    Tls(#[from] TlsFault),
    /// The peer's certificate is not the SVID that it has to be.
    #[error(transparent)]
    Identity(#[from] IdentityFault),
    /// The peer is who it says, and may not be here.
    #[error(transparent)]
    Admission(#[from] AdmissionFault),
    /// The two sides' hellos do not fit together.
    #[error(transparent)]
    Hello(#[from] HelloFault),
    /// The peer's manifest is not what the plan says.
    #[error(transparent)]
    Manifest(#[from] ManifestFault),
    /// The peer's descriptors are not what its manifest says.
    #[error(transparent)]
    Rights(#[from] RightsFault),
    /// The peer's bytes are no message.
    #[error(
        "peer: bytes that are no message of the peer protocol: {0}; check that both builds are the same"
    )]
    Malformed(#[from] Malformed),
    /// The peer's message is not the one whose turn it is.
    #[error("peer: `{got}` came while waiting for {waiting}; check that both builds are the same")]
    OutOfTurn {
        /// What came.
        got: MessageType,
        /// What was awaited.
        waiting: Step,
    },
    /// The peer refused this side.
    #[error("{blame}: the peer refused the link: {words}", blame = self.blame(), words = Words(.0))]
    Told(Told),
    /// The deadline passed.
    #[error(
        "peer: nothing for too long while waiting for {waiting}; check that the peer's device process runs"
    )]
    Timeout {
        /// What was awaited.
        waiting: Step,
    },
    /// The machine had ended before: with a refusal, or because the peer left.
    #[error("host: the link had ended already")]
    Ended,
}

impl From<ConnectionFault> for Refusal {
    fn from(fault: ConnectionFault) -> Self {
        match fault {
            ConnectionFault::Tls(fault) => Self::Tls(fault),
            ConnectionFault::Identity(fault) => Self::Identity(fault),
        }
    }
}

/// What a machine waits for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Step {
    /// The end of the TLS handshake.
    Tls,
    /// The caller's word on the peer.
    Admission,
    /// `hello`.
    Hello,
    /// `manifest`.
    Manifest,
    /// `ready`.
    Ready,
    /// `rights` and what rides on them.
    Rights,
    /// `accepted`.
    Accepted,
    /// Whatever an established link brings.
    Established,
    /// Nothing any more.
    Ended,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "the TLS handshake",
            Self::Admission => "admission",
            Self::Hello => "`hello`",
            Self::Manifest => "`manifest`",
            Self::Ready => "`ready`",
            Self::Rights => "`rights`",
            Self::Accepted => "`accepted`",
            Self::Established => "`revoke`, `service` or `bye`",
            Self::Ended => "nothing",
        })
    }
}

impl Refusal {
    /// Who has to change something.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Tls(fault) => fault.blame(),
            Self::Admission(fault) => fault.blame(),
            Self::Hello(fault) => fault.blame(),
            Self::Told(told) => match told.code() {
                RefusalCode::NoLink | RefusalCode::Contract | RefusalCode::Serial => Blame::Policy,
                _ => Blame::Host,
            },
            Self::Ended => Blame::Host,
            Self::Identity(_)
            | Self::Manifest(_)
            | Self::Rights(_)
            | Self::Malformed(_)
            | Self::OutOfTurn { .. }
            | Self::Timeout { .. } => Blame::Peer,
        }
    }

    /// What the peer is told; nothing where TLS has said it, or the peer is gone.
    pub(crate) fn told(&self) -> Option<Told> {
        let code = match self {
            Self::Tls(_) | Self::Identity(_) | Self::Told(_) | Self::Ended => return None,
            Self::Hello(fault) => return Some(fault.told()),
            Self::Admission(fault) => fault.code(),
            Self::Manifest(_) => RefusalCode::Manifest,
            Self::Rights(_) => RefusalCode::Rights,
            Self::Malformed(_) | Self::OutOfTurn { .. } => RefusalCode::Protocol,
            Self::Timeout { .. } => RefusalCode::Timeout,
        };
        Some(Told::Code(code))
    }
}

/// The peer's reason in words.
struct Words<'a>(&'a Told);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.code())?;
        match self.0 {
            Told::Contract { refuser, refused } => {
                write!(
                    f,
                    " (peer {refuser}, here {refused}); give both the same policy file"
                )
            }
            Told::Code(_) => f.write_str("; its log says more"),
        }
    }
}
