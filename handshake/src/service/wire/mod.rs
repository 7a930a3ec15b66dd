//! Messages of the service handshake (`docs/service-handshake.md`, section 3).
//!
//! Inside the TLS connection of a session a message is a 32-bit length, an 8-bit type and the
//! payload, which begins with the pairing that the message is about; on a link between two device
//! processes the type and the payload ride in a `service` message. All integers are little-endian.
//! Every value has one encoding: what [`Message::take`] has read is written with the same bytes.

use std::fmt;

use sivshm_abi::frame::Reason;
use sivshm_abi::grant::Integrity;
use sivshm_abi::identity::SpiffeId;
use sivshm_abi::wire::{Malformed, Reader};

use super::limits::MAX_SERVICE_MESSAGE_BYTES;

mod accept;
mod agreed;
mod chain;
mod confirm;
mod field;
mod hash;
mod open;
mod pairing;
mod refusal;
mod terms;

pub(crate) use field::write_text;

pub use accept::{Accept, AcceptBody};
pub use agreed::{Agreed, AgreedBody};
pub use chain::{Chain, Signature};
pub use confirm::{Confirm, ConfirmBody};
pub use hash::Hash;
pub use open::{Open, OpenBody};
pub use pairing::{Pairing, Role};
pub use refusal::{RefusalReason, SERVICE_REFUSALS, ServiceRefusal};
pub use terms::Terms;

/// Bytes in front of every message inside TLS: 32-bit length, 8-bit type.
pub const HEADER_BYTES: usize = 5;

/// Type of a message.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MessageType {
    /// A service wants a pairing.
    Want,
    /// What the pairing's signatures have to say.
    Terms,
    /// The writer opens.
    Open,
    /// The reader accepts.
    Accept,
    /// The writer confirms.
    Confirm,
    /// The reader has verified the confirm.
    Agreed,
    /// The writer's device process has installed its grants, as the reader's has.
    Installed,
    /// A party refuses.
    Refusal,
    /// The pairing is over.
    End,
}

/// Every message type with its number, name and the ways that it goes.
pub const MESSAGE_TYPES: &[(MessageType, u8, &str, Ways)] = &[
    (MessageType::Want, 1, "want", Ways::new(true, false, false)),
    (
        MessageType::Terms,
        2,
        "terms",
        Ways::new(false, true, false),
    ),
    (MessageType::Open, 3, "open", Ways::new(true, true, true)),
    (
        MessageType::Accept,
        4,
        "accept",
        Ways::new(true, true, true),
    ),
    (
        MessageType::Confirm,
        5,
        "confirm",
        Ways::new(true, true, true),
    ),
    (
        MessageType::Agreed,
        6,
        "agreed",
        Ways::new(true, true, true),
    ),
    (
        MessageType::Installed,
        7,
        "installed",
        Ways::new(false, true, true),
    ),
    (
        MessageType::Refusal,
        8,
        "refusal",
        Ways::new(true, true, true),
    ),
    (MessageType::End, 9, "end", Ways::new(true, true, true)),
];

/// Which ways a message may go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ways {
    /// From a service to its device process.
    pub up: bool,
    /// From a device process to its service.
    pub down: bool,
    /// From a device process to another.
    pub across: bool,
}

impl Ways {
    const fn new(up: bool, down: bool, across: bool) -> Self {
        Self { up, down, across }
    }
}

impl MessageType {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Want => 1,
            Self::Terms => 2,
            Self::Open => 3,
            Self::Accept => 4,
            Self::Confirm => 5,
            Self::Agreed => 6,
            Self::Installed => 7,
            Self::Refusal => 8,
            Self::End => 9,
        }
    }

    /// Reads the number on the wire.
    ///
    /// # Errors
    /// A number that is no type of this version.
    pub fn from_code(code: u8) -> Result<Self, Malformed> {
        MESSAGE_TYPES
            .iter()
            .find(|(_, number, _, _)| *number == code)
            .map(|(kind, _, _, _)| *kind)
            .ok_or(Malformed::BadValue("message.type"))
    }

    fn ways(self) -> Option<Ways> {
        let mut types = MESSAGE_TYPES.iter();
        types
            .find(|(kind, _, _, _)| *kind == self)
            .map(|(_, _, _, ways)| *ways)
    }

    /// Whether a service may say it to its device process.
    pub(crate) fn goes_up(self) -> bool {
        self.ways().is_some_and(|ways| ways.up)
    }

    /// Whether a device process may say it to its service.
    pub(crate) fn goes_down(self) -> bool {
        self.ways().is_some_and(|ways| ways.down)
    }

    /// Whether a device process may say it to another.
    pub(crate) fn goes_across(self) -> bool {
        self.ways().is_some_and(|ways| ways.across)
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = MESSAGE_TYPES.iter().find(|(kind, ..)| kind == self);
        f.write_str(name.map_or("", |(_, _, name, _)| name))
    }
}

/// A message with a MAC, by a key that only the two services have.
pub(crate) trait Maced {
    /// What the MAC is over: the body, and the signature if there is one.
    fn maced_bytes(&self) -> Vec<u8>;

    fn mac(&self) -> &[u8; 32];
}

/// A message: the pairing that it is about, and what it says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// Which pairing.
    pub pairing: Pairing,
    /// What about it.
    pub content: Content,
}

/// What a message says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Content {
    /// See [`MessageType::Want`].
    Want {
        /// The service that it expects at the other end.
        peer: SpiffeId,
        /// The integrity that the channel must have; any if absent.
        integrity: Option<Integrity>,
    },
    /// See [`Terms`].
    Terms(Terms),
    /// See [`Open`].
    Open(Box<Open>),
    /// See [`Accept`].
    Accept(Box<Accept>),
    /// See [`Confirm`].
    Confirm(Confirm),
    /// See [`Agreed`].
    Agreed(Agreed),
    /// See [`MessageType::Installed`]; the confirm's hash.
    Installed(Hash),
    /// See [`ServiceRefusal`].
    Refusal(ServiceRefusal),
    /// See [`MessageType::End`].
    End(Reason),
}

/// The code of "any integrity" in a `want`.
const ANY_INTEGRITY: u8 = u8::MAX;

impl Message {
    /// The type that announces this message.
    #[must_use]
    pub const fn kind(&self) -> MessageType {
        match self.content {
            Content::Want { .. } => MessageType::Want,
            Content::Terms(_) => MessageType::Terms,
            Content::Open(_) => MessageType::Open,
            Content::Accept(_) => MessageType::Accept,
            Content::Confirm(_) => MessageType::Confirm,
            Content::Agreed(_) => MessageType::Agreed,
            Content::Installed(_) => MessageType::Installed,
            Content::Refusal(_) => MessageType::Refusal,
            Content::End(_) => MessageType::End,
        }
    }

    /// The message's bytes inside TLS, header first.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut typed = Vec::new();
        self.write(&mut typed);
        // Every message is shorter than MAX_SERVICE_MESSAGE_BYTES; the type is its first byte.
        let length = u32::try_from(typed.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + typed.len());
        bytes.extend(length.to_le_bytes());
        bytes.append(&mut typed);
        bytes
    }

    /// Takes the message at the front of `bytes`, and says how many bytes it had; none if it has
    /// not arrived whole.
    ///
    /// # Errors
    /// A message above [`MAX_SERVICE_MESSAGE_BYTES`] or an unknown type, both as soon as the header
    /// is there; bytes missing, bytes left over, or a value that the type does not have.
    pub fn take(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let mut from = Reader::new(bytes);
        if from.left() < HEADER_BYTES {
            return Ok(None);
        }
        let length = usize::try_from(from.u32("message.length")?)
            .ok()
            .filter(|length| *length <= MAX_SERVICE_MESSAGE_BYTES - HEADER_BYTES)
            .ok_or(Malformed::TooMany {
                what: "message bytes",
                max: MAX_SERVICE_MESSAGE_BYTES,
            })?;
        let kind = MessageType::from_code(from.u8("message.type")?)?;
        if from.left() < length {
            return Ok(None);
        }
        let mut payload = Reader::new(from.bytes(length, "message.payload")?);
        let message = Self::read_payload(kind, &mut payload)?;
        payload.finish("message")?;
        Ok(Some((message, HEADER_BYTES + length)))
    }

    /// Whether it may come from another device process.
    pub(crate) fn passes_links(&self) -> bool {
        self.kind().goes_across()
    }

    /// Appends type and payload.
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        to.push(self.kind().code());
        self.pairing.write(to);
        match &self.content {
            Content::Want { peer, integrity } => {
                field::write_id(to, *peer);
                to.push(integrity.map_or(ANY_INTEGRITY, Integrity::code));
            }
            Content::Terms(terms) => terms.write(to),
            Content::Open(open) => open.write(to),
            Content::Accept(accept) => accept.write(to),
            Content::Confirm(confirm) => confirm.write(to),
            Content::Agreed(agreed) => agreed.write(to),
            Content::Installed(hash) => to.extend(hash.0),
            Content::Refusal(refusal) => refusal.write(to),
            Content::End(reason) => to.extend(reason.code().to_le_bytes()),
        }
    }

    /// Reads type and payload; the caller judges what is left over.
    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let kind = MessageType::from_code(from.u8("message.type")?)?;
        Self::read_payload(kind, from)
    }

    fn read_payload(kind: MessageType, from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let pairing = Pairing::read(from)?;
        let content = match kind {
            MessageType::Want => Content::Want {
                peer: field::read_id(from, "want.peer")?,
                integrity: match from.u8("want.integrity")? {
                    ANY_INTEGRITY => None,
                    code => Some(Integrity::from_code(code)?),
                },
            },
            MessageType::Terms => Content::Terms(Terms::read(from)?),
            MessageType::Open => Content::Open(Box::new(Open::read(from)?)),
            MessageType::Accept => Content::Accept(Box::new(Accept::read(from)?)),
            MessageType::Confirm => Content::Confirm(Confirm::read(from)?),
            MessageType::Agreed => Content::Agreed(Agreed::read(from)?),
            MessageType::Installed => Content::Installed(Hash(from.array("installed.hash")?)),
            MessageType::Refusal => Content::Refusal(ServiceRefusal::read(from)?),
            MessageType::End => Content::End(Reason::from_code(from.u16("end.reason")?)?),
        };
        Ok(Self { pairing, content })
    }
}
