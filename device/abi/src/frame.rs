//! Frames of the control rings between a guest's gate and its device process (DESIGN section 7,
//! `docs/control-frames.md`).

use crate::grant::{Generation, Grant, GrantId};
use crate::limits::{MAX_DATA_BYTES, MAX_PAYLOAD_BYTES};
use crate::wire::{Malformed, NoSpace, Reader, Writer};

/// Number of a session, chosen by the guest's gate; 0 is the connection itself. A number is not
/// used again before the device process has seen its `CLOSE`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(pub u32);

/// Type of a frame.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum FrameType {
    /// Guest to host, session 0: the driver has (re)started; every earlier session is gone.
    Hello,
    /// Guest to host: a process has opened `/dev/sivshm`.
    Open,
    /// Either way: bytes of the session's TLS connection with the device process.
    Data,
    /// Host to guest: a range is granted to the session.
    Grant,
    /// Host to guest: a grant has ended.
    Revoke,
    /// Guest to host: the pages of a revoked grant are gone from every page table.
    Revoked,
    /// Either way: the session has ended.
    Close,
    /// Either way: the sender of this has consumed `DATA` and lets the other send that much more.
    Ring,
}

/// Every frame type with its number and name, for the dispatch, the documents and their test.
pub const FRAME_TYPES: &[(FrameType, u16, &str)] = &[
    (FrameType::Open, 1, "OPEN"),
    (FrameType::Data, 2, "DATA"),
    (FrameType::Grant, 3, "GRANT"),
    (FrameType::Revoke, 4, "REVOKE"),
    (FrameType::Revoked, 5, "REVOKED"),
    (FrameType::Close, 6, "CLOSE"),
    (FrameType::Ring, 7, "RING"),
    (FrameType::Hello, 8, "HELLO"),
];

impl FrameType {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Open => 1,
            Self::Data => 2,
            Self::Grant => 3,
            Self::Revoke => 4,
            Self::Revoked => 5,
            Self::Close => 6,
            Self::Ring => 7,
            Self::Hello => 8,
        }
    }

    /// Reads the number on the wire.
    ///
    /// # Errors
    /// A number that is no frame type of this version.
    pub fn from_code(code: u16) -> Result<Self, Malformed> {
        FRAME_TYPES
            .iter()
            .find(|(_, number, _)| *number == code)
            .map(|(kind, _, _)| *kind)
            .ok_or(Malformed::BadValue("frame.type"))
    }
}

/// What precedes every payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameHeader {
    /// Bytes of the payload that follows; at most [`MAX_PAYLOAD_BYTES`].
    pub length: u32,
    /// What the payload is.
    pub kind: FrameType,
    /// Which session it is about.
    pub session: SessionId,
}

impl FrameHeader {
    /// Bytes of the header.
    pub const BYTES: usize = 12;

    /// The header's bytes: length, type, flags (0), session.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let [a, b, c, d] = self.length.to_le_bytes();
        let [e, f] = self.kind.code().to_le_bytes();
        let [g, h, i, j] = self.session.0.to_le_bytes();
        [a, b, c, d, e, f, 0, 0, g, h, i, j]
    }

    /// Reads a header.
    ///
    /// # Errors
    /// A payload longer than the limit, an unknown type, a flag that is set.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let length = from.u32("frame.length")?;
        let kind = FrameType::from_code(from.u16("frame.type")?)?;
        let flags = from.u16("frame.flags")?;
        let session = SessionId(from.u32("frame.session")?);
        if usize::try_from(length).map_or(true, |length| length > MAX_PAYLOAD_BYTES) {
            return Err(Malformed::BadValue("frame.length"));
        }
        if flags != 0 {
            return Err(Malformed::BadValue("frame.flags"));
        }
        Ok(Self {
            length,
            kind,
            session,
        })
    }
}

/// Why a grant or a session ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reason {
    /// The process closed its file, or exited.
    Closed,
    /// The operator revoked it.
    Admin,
    /// The peer's device process is gone.
    PeerGone,
    /// No service of this VM matches the facts of the process.
    NoService,
    /// A live session already plays this service's role.
    RoleTaken,
    /// The session, or the guest, exceeded a limit.
    Flood,
    /// The other side broke the protocol.
    Protocol,
    /// The service did not prove with an SVID who it is.
    Unproved,
    /// An SVID that the grant stands on has ended.
    Expired,
    /// An SVID that the grant stands on is on the revocation list.
    Withdrawn,
    /// The policy in force does not have the channel any more.
    Policy,
    /// The service at the other end closed the channel or its session.
    OtherEnd,
    /// The other side did not complete the channel's opening in time.
    Incomplete,
}

/// Every reason with its number and the words shown to a person.
pub const REASONS: &[(Reason, u16, &str)] = &[
    (Reason::Closed, 1, "closed by its owner"),
    (Reason::Admin, 2, "revoked by the operator"),
    (Reason::PeerGone, 3, "the peer is gone"),
    (
        Reason::NoService,
        4,
        "the policy names no service of this VM that this process matches",
    ),
    (
        Reason::RoleTaken,
        5,
        "another live session already is this service",
    ),
    (Reason::Flood, 6, "a limit was exceeded"),
    (Reason::Protocol, 7, "the control protocol was broken"),
    (
        Reason::Unproved,
        8,
        "the service did not prove by an SVID who it is",
    ),
    (Reason::Expired, 9, "an SVID has ended; renew it"),
    (Reason::Withdrawn, 10, "an SVID is on the revocation list"),
    (
        Reason::Policy,
        11,
        "the policy in force does not have the channel any more",
    ),
    (
        Reason::OtherEnd,
        12,
        "the service at the other end closed the channel",
    ),
    (
        Reason::Incomplete,
        13,
        "the other side did not complete the opening in time",
    ),
];

impl Reason {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Closed => 1,
            Self::Admin => 2,
            Self::PeerGone => 3,
            Self::NoService => 4,
            Self::RoleTaken => 5,
            Self::Flood => 6,
            Self::Protocol => 7,
            Self::Unproved => 8,
            Self::Expired => 9,
            Self::Withdrawn => 10,
            Self::Policy => 11,
            Self::OtherEnd => 12,
            Self::Incomplete => 13,
        }
    }

    /// Reads the number on the wire.
    ///
    /// # Errors
    /// A number that is no reason of this version.
    pub fn from_code(code: u16) -> Result<Self, Malformed> {
        REASONS
            .iter()
            .find(|(_, number, _)| *number == code)
            .map(|(reason, _, _)| *reason)
            .ok_or(Malformed::BadValue("reason"))
    }

    /// The words shown to a person.
    #[must_use]
    pub fn words(self) -> &'static str {
        REASONS
            .iter()
            .find(|(reason, _, _)| *reason == self)
            .map_or("", |(_, _, words)| *words)
    }
}

/// Facts that a guest kernel attests about the process behind a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Facts {
    /// Process identifier in the guest's initial namespace. For the log only.
    pub pid: u32,
    /// Effective user of the opener.
    pub uid: u32,
    /// Effective group of the opener.
    pub gid: u32,
    /// SHA-256 of the executable, if the kernel could take it.
    pub exe_sha256: Option<[u8; 32]>,
}

/// Payload of a frame, by type; the bytes of `DATA` stay where they were read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Payload<'a> {
    /// `HELLO`: ABI version of the driver and random identifier of the guest's boot.
    Hello {
        /// [`crate::directory::VERSION`] as the driver was built with.
        version: u32,
        /// `guest_boot`.
        boot: [u8; 16],
    },
    /// `OPEN`.
    Open(Facts),
    /// `DATA`: 1 to [`MAX_DATA_BYTES`] bytes.
    Data(&'a [u8]),
    /// `GRANT`.
    Grant(Grant),
    /// `REVOKE`.
    Revoke {
        /// Which grant.
        grant: GrantId,
        /// Every generation up to this one ends.
        generation: Generation,
        /// Why.
        reason: Reason,
    },
    /// `REVOKED`.
    Revoked {
        /// Which grant.
        grant: GrantId,
        /// The generation that the `REVOKE` named.
        generation: Generation,
    },
    /// `CLOSE`.
    Close(Reason),
    /// `RING`.
    Ring {
        /// Bytes of `DATA` that the receiver of this may send beyond what it could before.
        credit: u32,
    },
}

/// Longest payload of this version, in bytes: that of `DATA`.
pub const LONGEST_PAYLOAD_BYTES: usize = MAX_DATA_BYTES;

const _: () = assert!(LONGEST_PAYLOAD_BYTES >= Grant::BYTES);

impl<'a> Payload<'a> {
    /// The payload by itself; none for `DATA`, whose bytes are elsewhere.
    #[must_use]
    pub const fn detached(self) -> Option<Payload<'static>> {
        Some(match self {
            Self::Data(_) => return None,
            Self::Hello { version, boot } => Payload::Hello { version, boot },
            Self::Open(facts) => Payload::Open(facts),
            Self::Grant(grant) => Payload::Grant(grant),
            Self::Revoke {
                grant,
                generation,
                reason,
            } => Payload::Revoke {
                grant,
                generation,
                reason,
            },
            Self::Revoked { grant, generation } => Payload::Revoked { grant, generation },
            Self::Close(reason) => Payload::Close(reason),
            Self::Ring { credit } => Payload::Ring { credit },
        })
    }

    /// The frame type that carries this payload.
    #[must_use]
    pub const fn kind(&self) -> FrameType {
        match self {
            Self::Hello { .. } => FrameType::Hello,
            Self::Open(_) => FrameType::Open,
            Self::Data(_) => FrameType::Data,
            Self::Grant(_) => FrameType::Grant,
            Self::Revoke { .. } => FrameType::Revoke,
            Self::Revoked { .. } => FrameType::Revoked,
            Self::Close(_) => FrameType::Close,
            Self::Ring { .. } => FrameType::Ring,
        }
    }

    /// Appends the payload's bytes.
    ///
    /// # Errors
    /// [`NoSpace`] if the writer has less than [`LONGEST_PAYLOAD_BYTES`] left.
    pub fn write(&self, to: &mut Writer<'_>) -> Result<(), NoSpace> {
        match self {
            Self::Hello { version, boot } => {
                to.u32(*version)?;
                to.bytes(boot)
            }
            Self::Open(facts) => {
                to.u32(facts.pid)?;
                to.u32(facts.uid)?;
                to.u32(facts.gid)?;
                to.u32(u32::from(facts.exe_sha256.is_some()))?;
                to.bytes(&facts.exe_sha256.unwrap_or_default())
            }
            Self::Data(bytes) => to.bytes(bytes),
            Self::Grant(grant) => grant.write(to),
            Self::Revoke {
                grant,
                generation,
                reason,
            } => {
                to.u32(grant.0)?;
                to.u64(generation.0)?;
                to.u16(reason.code())
            }
            Self::Revoked { grant, generation } => {
                to.u32(grant.0)?;
                to.u64(generation.0)
            }
            Self::Close(reason) => to.u16(reason.code()),
            Self::Ring { credit } => to.u32(*credit),
        }
    }

    /// Reads the payload of a frame of type `kind`.
    ///
    /// # Errors
    /// Bytes missing, bytes left over, or a value that the type does not have.
    pub fn read(kind: FrameType, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let payload = match kind {
            FrameType::Hello => Self::Hello {
                version: from.u32("hello.version")?,
                boot: from.array("hello.boot")?,
            },
            FrameType::Open => {
                let pid = from.u32("open.pid")?;
                let uid = from.u32("open.uid")?;
                let gid = from.u32("open.gid")?;
                let known = from.u32("open.exe_known")?;
                let digest = from.array("open.exe_sha256")?;
                let exe_sha256 = match known {
                    0 => None,
                    1 => Some(digest),
                    _ => return Err(Malformed::BadValue("open.exe_known")),
                };
                Self::Open(Facts {
                    pid,
                    uid,
                    gid,
                    exe_sha256,
                })
            }
            FrameType::Data => {
                let bytes = from.bytes(from.left(), "data.bytes")?;
                if bytes.is_empty() || bytes.len() > MAX_DATA_BYTES {
                    return Err(Malformed::BadValue("data.bytes"));
                }
                Self::Data(bytes)
            }
            FrameType::Grant => Self::Grant(Grant::read(&mut from)?),
            FrameType::Revoke => Self::Revoke {
                grant: GrantId(from.u32("revoke.grant")?),
                generation: Generation(from.u64("revoke.generation")?),
                reason: Reason::from_code(from.u16("revoke.reason")?)?,
            },
            FrameType::Revoked => Self::Revoked {
                grant: GrantId(from.u32("revoked.grant")?),
                generation: Generation(from.u64("revoked.generation")?),
            },
            FrameType::Close => Self::Close(Reason::from_code(from.u16("close.reason")?)?),
            FrameType::Ring => Self::Ring {
                credit: from.u32("ring.credit")?,
            },
        };
        from.finish("frame")?;
        Ok(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tables_and_codes_agree() {
        for (kind, code, _) in FRAME_TYPES {
            assert_eq!(kind.code(), *code);
            assert_eq!(FrameType::from_code(*code), Ok(*kind));
        }
        for (reason, code, words) in REASONS {
            assert_eq!(reason.code(), *code);
            assert_eq!(Reason::from_code(*code), Ok(*reason));
            assert_eq!(reason.words(), *words);
        }
    }

    #[test]
    fn payloads_survive_the_wire() {
        let payloads = [
            Payload::Hello {
                version: 1,
                boot: [3; 16],
            },
            Payload::Open(Facts {
                pid: 1,
                uid: 1000,
                gid: 1000,
                exe_sha256: Some([9; 32]),
            }),
            Payload::Open(Facts {
                pid: 1,
                uid: 1000,
                gid: 1000,
                exe_sha256: None,
            }),
            Payload::Revoke {
                grant: GrantId(1),
                generation: Generation(2),
                reason: Reason::Admin,
            },
            Payload::Revoked {
                grant: GrantId(1),
                generation: Generation(2),
            },
            Payload::Close(Reason::Closed),
            Payload::Data(&[7; MAX_DATA_BYTES]),
            Payload::Ring { credit: 4096 },
        ];
        for payload in payloads {
            let mut space = [0; LONGEST_PAYLOAD_BYTES];
            let mut writer = Writer::new(&mut space);
            payload.write(&mut writer).unwrap();
            let len = writer.written();
            assert_eq!(Payload::read(payload.kind(), &space[..len]), Ok(payload));
        }
    }

    #[test]
    fn data_is_neither_empty_nor_too_long() {
        let too_long = [0; MAX_DATA_BYTES + 1];
        for bytes in [&too_long[..0], &too_long] {
            let read = Payload::read(FrameType::Data, bytes);
            assert_eq!(read, Err(Malformed::BadValue("data.bytes")));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(code in 0_u16..10, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(kind) = FrameType::from_code(code) {
                let _ = Payload::read(kind, &bytes);
            }
            if let Some(header) = bytes.first_chunk() {
                let _ = FrameHeader::from_bytes(header);
            }
        }
    }
}
