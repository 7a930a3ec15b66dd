//! Messages of the peer protocol, as they travel inside TLS (`docs/peer-handshake.md`, section 3).
//!
//! A message is a 32-bit length of its payload, an 8-bit type and the payload; all integers are
//! little-endian. [`Message::take`] is the only reader: what it returns obeys every limit.

use std::fmt;

use sivshm_abi::directory::SliceId;
use sivshm_abi::grant::Generation;
use sivshm_abi::name::ChannelName;
use sivshm_abi::wire::{Malformed, Reader};

use crate::limits::{MAX_MANIFEST_ENTRIES, MAX_PAYLOAD_BYTES, MAX_RIGHTS_PER_MESSAGE};
use crate::refusal::RefusalCode;

/// Version of the messages. Both sides must have the same.
pub const PROTOCOL_VERSION: u16 = 1;

/// Bytes in front of every payload: 32-bit length, 8-bit type.
pub const HEADER_BYTES: usize = 5;

/// Type of a message.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MessageType {
    /// Who speaks and on what terms.
    Hello,
    /// Which descriptors will come.
    Manifest,
    /// The manifest is as the policy plans; descriptors may come.
    Ready,
    /// Carries descriptors.
    Rights,
    /// All descriptors came and are what the manifest says.
    Accepted,
    /// The link ends, and why.
    Refusal,
    /// The operator ended a channel.
    Revoke,
    /// The sender leaves in good order.
    Bye,
}

/// Every message type with its number and name.
pub const MESSAGE_TYPES: &[(MessageType, u8, &str)] = &[
    (MessageType::Hello, 1, "hello"),
    (MessageType::Manifest, 2, "manifest"),
    (MessageType::Ready, 3, "ready"),
    (MessageType::Rights, 4, "rights"),
    (MessageType::Accepted, 5, "accepted"),
    (MessageType::Refusal, 6, "refusal"),
    (MessageType::Revoke, 7, "revoke"),
    (MessageType::Bye, 8, "bye"),
];

impl MessageType {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Manifest => 2,
            Self::Ready => 3,
            Self::Rights => 4,
            Self::Accepted => 5,
            Self::Refusal => 6,
            Self::Revoke => 7,
            Self::Bye => 8,
        }
    }

    /// Reads the number on the wire.
    ///
    /// # Errors
    /// A number that is no type of this version.
    pub fn from_code(code: u8) -> Result<Self, Malformed> {
        MESSAGE_TYPES
            .iter()
            .find(|(_, number, _)| *number == code)
            .map(|(kind, _, _)| *kind)
            .ok_or(Malformed::BadValue("message.type"))
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = MESSAGE_TYPES.iter().find(|(kind, _, _)| kind == self);
        f.write_str(name.map_or("", |(_, _, name)| name))
    }
}

/// SHA-256 of the contract between two VMs. Displays as hexadecimal.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Contract(pub [u8; 32]);

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contract({self})")
    }
}

/// `hello`: who speaks and on what terms.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub version: u16,
    /// The dialer's number of this connection; 0 from the listener.
    pub connection: u64,
    /// Random identifier of this run of the sender.
    pub instance: [u8; 16],
    /// Random identifier of this boot of the host.
    pub host_boot: [u8; 16],
    /// Serial number of the sender's policy.
    pub policy_serial: u64,
    /// The contract between the two VMs, as the sender's policy has it.
    pub contract: Contract,
}

impl Hello {
    /// Bytes of the payload.
    pub const BYTES: usize = 2 + 8 + 16 + 16 + 8 + 32;

    fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.version.to_le_bytes());
        to.extend(self.connection.to_le_bytes());
        to.extend(self.instance);
        to.extend(self.host_boot);
        to.extend(self.policy_serial.to_le_bytes());
        to.extend(self.contract.0);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            version: from.u16("hello.version")?,
            connection: from.u64("hello.connection")?,
            instance: from.array("hello.instance")?,
            host_boot: from.array("hello.host_boot")?,
            policy_serial: from.u64("hello.policy_serial")?,
            contract: Contract(from.array("hello.contract")?),
        })
    }
}

/// A memfd as its creator describes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SliceEntry {
    /// Which slice of the plan.
    pub slice: SliceId,
    /// Bytes.
    pub bytes: u64,
    /// Generation of the slice.
    pub generation: Generation,
    /// Seals, as `F_GET_SEALS` gives them.
    pub seals: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits, `st_mode & 0o7777`.
    pub mode: u32,
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// One descriptor that will come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ManifestEntry {
    /// A slice that the sender's VM writes and the receiver's VM reads.
    Slice(SliceEntry),
    /// The eventfd by which the receiver's VM rings the sender's.
    Doorbell {
        /// `eventfd-id` of its fdinfo.
        id: u64,
    },
}

impl ManifestEntry {
    /// Bytes of the longest entry: a slice's, with its tag.
    pub const MAX_BYTES: usize = 1 + 4 + 8 + 8 + 4 * 4 + 8 + 8;

    const SLICE: u8 = 1;
    const DOORBELL: u8 = 2;

    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Slice(slice) => {
                to.push(Self::SLICE);
                to.extend(slice.slice.0.to_le_bytes());
                to.extend(slice.bytes.to_le_bytes());
                to.extend(slice.generation.0.to_le_bytes());
                for field in [slice.seals, slice.uid, slice.gid, slice.mode] {
                    to.extend(field.to_le_bytes());
                }
                to.extend(slice.dev.to_le_bytes());
                to.extend(slice.ino.to_le_bytes());
            }
            Self::Doorbell { id } => {
                to.push(Self::DOORBELL);
                to.extend(id.to_le_bytes());
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8("manifest.entry")? {
            Self::SLICE => Ok(Self::Slice(SliceEntry {
                slice: SliceId(from.u32("manifest.slice")?),
                bytes: from.u64("manifest.bytes")?,
                generation: Generation(from.u64("manifest.generation")?),
                seals: from.u32("manifest.seals")?,
                uid: from.u32("manifest.uid")?,
                gid: from.u32("manifest.gid")?,
                mode: from.u32("manifest.mode")?,
                dev: from.u64("manifest.dev")?,
                ino: from.u64("manifest.ino")?,
            })),
            Self::DOORBELL => Ok(Self::Doorbell {
                id: from.u64("manifest.eventfd")?,
            }),
            _ => Err(Malformed::BadValue("manifest.entry")),
        }
    }
}

/// `manifest`: which descriptors will come, in the order of their coming.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Manifest {
    // At most MAX_MANIFEST_ENTRIES.
    entries: Vec<ManifestEntry>,
}

impl Manifest {
    /// Makes a manifest.
    ///
    /// # Errors
    /// More than [`MAX_MANIFEST_ENTRIES`] entries.
    pub fn new(entries: Vec<ManifestEntry>) -> Result<Self, Malformed> {
        if entries.len() > MAX_MANIFEST_ENTRIES {
            return Err(Self::TOO_MANY);
        }
        Ok(Self { entries })
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[ManifestEntry] {
        &self.entries
    }

    /// The entries, taken out.
    #[must_use]
    pub fn into_entries(self) -> Vec<ManifestEntry> {
        self.entries
    }

    const TOO_MANY: Malformed = Malformed::TooMany {
        what: "manifest entries",
        max: MAX_MANIFEST_ENTRIES,
    };

    fn write(&self, to: &mut Vec<u8>) {
        // `new` and `read` bound the number of entries below the largest u16.
        let count = u16::try_from(self.entries.len()).unwrap_or(u16::MAX);
        to.extend(count.to_le_bytes());
        self.entries.iter().for_each(|entry| entry.write(to));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let count = usize::from(from.u16("manifest.count")?);
        if count > MAX_MANIFEST_ENTRIES {
            return Err(Self::TOO_MANY);
        }
        let entries = (0..count).map(|_| ManifestEntry::read(from));
        Ok(Self {
            entries: entries.collect::<Result<_, _>>()?,
        })
    }
}

/// `rights`: how many descriptors ride on this message; 1 to [`MAX_RIGHTS_PER_MESSAGE`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rights(u8);

impl Rights {
    /// States a number of descriptors.
    ///
    /// # Errors
    /// 0, or more than [`MAX_RIGHTS_PER_MESSAGE`].
    pub fn new(count: usize) -> Result<Self, Malformed> {
        match u8::try_from(count) {
            Ok(count @ 1..) if usize::from(count) <= MAX_RIGHTS_PER_MESSAGE => Ok(Self(count)),
            _ => Err(Malformed::BadValue("rights.count")),
        }
    }

    /// The number.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.0)
    }
}

/// `refusal`: all that a refused party is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Told {
    /// The two policies differ about this link.
    Contract {
        /// The contract as the refusing party has it.
        refuser: Contract,
        /// The contract as the refused party's hello gave it.
        refused: Contract,
    },
    /// Any other reason.
    Code(RefusalCode),
}

impl Told {
    /// The number of the reason.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Contract { .. } => RefusalCode::Contract,
            Self::Code(code) => *code,
        }
    }

    fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.code().code().to_le_bytes());
        if let Self::Contract { refuser, refused } = self {
            to.extend(refuser.0);
            to.extend(refused.0);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match RefusalCode::from_code(from.u16("refusal.code")?)? {
            RefusalCode::Contract => Ok(Self::Contract {
                refuser: Contract(from.array("refusal.refuser")?),
                refused: Contract(from.array("refusal.refused")?),
            }),
            code => Ok(Self::Code(code)),
        }
    }
}

/// A message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Manifest`].
    Manifest(Manifest),
    /// See [`MessageType::Ready`].
    Ready,
    /// See [`Rights`].
    Rights(Rights),
    /// See [`MessageType::Accepted`].
    Accepted,
    /// See [`Told`].
    Refusal(Told),
    /// See [`MessageType::Revoke`].
    Revoke(ChannelName),
    /// See [`MessageType::Bye`].
    Bye,
}

impl Message {
    /// The type that announces this message.
    #[must_use]
    pub const fn kind(&self) -> MessageType {
        match self {
            Self::Hello(_) => MessageType::Hello,
            Self::Manifest(_) => MessageType::Manifest,
            Self::Ready => MessageType::Ready,
            Self::Rights(_) => MessageType::Rights,
            Self::Accepted => MessageType::Accepted,
            Self::Refusal(_) => MessageType::Refusal,
            Self::Revoke(_) => MessageType::Revoke,
            Self::Bye => MessageType::Bye,
        }
    }

    /// The message's bytes, header first.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        match self {
            Self::Hello(hello) => hello.write(&mut payload),
            Self::Manifest(manifest) => manifest.write(&mut payload),
            Self::Rights(rights) => payload.push(rights.0),
            Self::Refusal(told) => told.write(&mut payload),
            Self::Revoke(channel) => payload.extend(channel.to_field()),
            Self::Ready | Self::Accepted | Self::Bye => {}
        }
        // Every payload is shorter than MAX_PAYLOAD_BYTES, far below the largest u32.
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend(length.to_le_bytes());
        bytes.push(self.kind().code());
        bytes.append(&mut payload);
        bytes
    }

    /// Takes the message at the front of `bytes`, and says how many bytes it had; none if it has
    /// not arrived whole.
    ///
    /// # Errors
    /// A payload above [`MAX_PAYLOAD_BYTES`] or an unknown type, both as soon as the header is
    /// there; otherwise as [`Self::read`].
    pub fn take(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let mut from = Reader::new(bytes);
        if from.left() < HEADER_BYTES {
            return Ok(None);
        }
        let length = usize::try_from(from.u32("message.length")?)
            .ok()
            .filter(|length| *length <= MAX_PAYLOAD_BYTES)
            .ok_or(Malformed::TooMany {
                what: "payload bytes",
                max: MAX_PAYLOAD_BYTES,
            })?;
        let kind = MessageType::from_code(from.u8("message.type")?)?;
        if from.left() < length {
            return Ok(None);
        }
        let message = Self::read(kind, from.bytes(length, "message.payload")?)?;
        Ok(Some((message, HEADER_BYTES + length)))
    }

    /// Reads the payload of a message of type `kind`.
    ///
    /// # Errors
    /// Bytes missing, bytes left over, or a value that the type does not have.
    pub fn read(kind: MessageType, payload: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(payload);
        let message = match kind {
            MessageType::Hello => Self::Hello(Hello::read(&mut from)?),
            MessageType::Manifest => Self::Manifest(Manifest::read(&mut from)?),
            MessageType::Ready => Self::Ready,
            MessageType::Rights => Self::Rights(Rights::new(from.u8("rights.count")?.into())?),
            MessageType::Accepted => Self::Accepted,
            MessageType::Refusal => Self::Refusal(Told::read(&mut from)?),
            MessageType::Revoke => Self::Revoke(
                ChannelName::from_field(&from.array("revoke.channel")?)
                    .map_err(|_| Malformed::BadValue("revoke.channel"))?,
            ),
            MessageType::Bye => Self::Bye,
        };
        from.finish("message")?;
        Ok(message)
    }
}
