//! What every message begins with: which pairing it is about.

use std::fmt;

use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::ChannelName;
use sivshm_abi::wire::{Malformed, Reader};

use super::field::{read_id, write_id};

/// A channel and one of its readers. A channel with several readers has one pairing for each.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Pairing {
    /// The channel.
    pub channel: ChannelName,
    /// The reader; a service.
    pub reader: SpiffeId,
}

impl Pairing {
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.channel.to_field());
        write_id(to, self.reader);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            channel: read_channel(from, "message.channel")?,
            reader: read_id(from, "message.reader")?,
        })
    }
}

pub(super) fn read_channel(
    from: &mut Reader<'_>,
    what: &'static str,
) -> Result<ChannelName, Malformed> {
    ChannelName::from_field(&from.array(what)?).map_err(|_| Malformed::BadValue(what))
}

impl fmt::Display for Pairing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` to {}", self.channel, self.reader)
    }
}

/// Which end of a channel a service has.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// It writes, and opens.
    Writer,
    /// It reads, and accepts.
    Reader,
}

impl Role {
    /// The value on the wire and in what is signed: 1 writer, 2 reader.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Writer => 1,
            Self::Reader => 2,
        }
    }

    pub(super) const fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            1 => Ok(Self::Writer),
            2 => Ok(Self::Reader),
            _ => Err(Malformed::BadValue("role")),
        }
    }

    /// Reads a role that has to be this one.
    pub(super) fn expect(self, from: &mut Reader<'_>, what: &'static str) -> Result<(), Malformed> {
        if from.u8(what)? == self.code() {
            Ok(())
        } else {
            Err(Malformed::BadValue(what))
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
        })
    }
}
