//! Messages of the peer protocol, as they travel inside TLS (`docs/peer-handshake.md`, section 3).
//!
//! A message is a 32-bit length of its payload, an 8-bit type and the payload; all integers are
//! little-endian. [`Message::take`] is the only reader: what it returns obeys every limit.

use std::fmt;

use sivshm_abi::name::ChannelName;
use sivshm_abi::wire::{Malformed, Reader};

use crate::limits::{MAX_PAYLOAD_BYTES, MAX_RIGHTS_PER_MESSAGE};
use crate::service;

mod hello;
mod manifest;
mod told;

pub use hello::{Contract, Hello};
pub use manifest::{Manifest, ManifestEntry, SliceEntry};
pub use told::Told;

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
    /// A message of the service handshake, passed on.
    Service,
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
    (MessageType::Service, 9, "service"),
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
            Self::Service => 9,
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
    /// See [`service::wire::Message`].
    Service(Box<service::wire::Message>),
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
            Self::Service(_) => MessageType::Service,
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
            Self::Service(message) => message.write(&mut payload),
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
            MessageType::Service => {
                Self::Service(Box::new(service::wire::Message::read(&mut from)?))
            }
        };
        from.finish("message")?;
        Ok(message)
    }
}
