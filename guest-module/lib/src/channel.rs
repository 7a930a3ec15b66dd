//! An end of a channel, before it is known which (DESIGN sections 9 and 11).

use sivshm_abi::grant::Kind;
use sivshm_abi::name::ChannelName;
use sivshm_handshake::service::wire::Role;

use crate::end::{End, Hold};
use crate::error::Error;
use crate::open::Open;
use crate::region::{RegionReader, RegionWriter};
use crate::ring::{Consumer, Producer};
use crate::session::Session;
use crate::wait::Deadline;

/// This service's end of a channel: which of the four it is, the policy says.
#[derive(Debug)]
pub enum Channel {
    /// The writing end of a region.
    RegionWriter(RegionWriter),
    /// A reading end of a region.
    RegionReader(RegionReader),
    /// The writing end of a ring.
    Producer(Producer),
    /// A reading end of a ring.
    Consumer(Consumer),
}

impl Channel {
    /// Opens this service's end of a channel, once the services at the other end have opened theirs
    /// and each has proved to the other who it is. An end of the channel that this session already
    /// has is revoked.
    ///
    /// Services that share several channels open them in the same order, or each in a thread of its
    /// own: an opening waits for its counterpart.
    ///
    /// # Errors
    /// [`Error::Refused`] says who does not want the channel, and why; [`Error::Timeout`] what was
    /// waited for; [`Error::Cancelled`]; [`Error::Ended`] and [`Error::Handshake`] that the session
    /// is of no use; [`Error::Name`] and [`Error::Peers`] that the caller's names are wrong;
    /// [`Error::Host`].
    pub fn open(session: &Session, name: &str, options: &Open) -> Result<Self, Error> {
        Self::open_as(None, session, name, options)
    }

    /// Opens the end that has a role.
    pub(crate) fn open_as(
        role: Option<Role>,
        session: &Session,
        name: &str,
        options: &Open,
    ) -> Result<Self, Error> {
        let deadline = Deadline::after(options.timeout);
        let hold = Hold::new(role, session, ChannelName::new(name)?, options)?;
        Self::new(End::open(hold, deadline)?)
    }

    fn new((role, end): (Role, End)) -> Result<Self, Error> {
        Ok(match (role, end.kind) {
            (Role::Writer, Kind::Region) => Self::RegionWriter(RegionWriter::new(end)?),
            (Role::Reader, Kind::Region) => Self::RegionReader(RegionReader::new(end)?),
            (Role::Writer, Kind::Ring { .. }) => Self::Producer(Producer::new(end)?),
            (Role::Reader, Kind::Ring { .. }) => Self::Consumer(Consumer::new(end)?),
        })
    }

    /// The writing end of a region.
    ///
    /// # Errors
    /// [`Error::Kind`] if it is another end; it is closed then.
    pub fn into_region_writer(self) -> Result<RegionWriter, Error> {
        match self {
            Self::RegionWriter(end) => Ok(end),
            _ => Err(Error::Kind("the writing end of a region")),
        }
    }

    /// A reading end of a region.
    ///
    /// # Errors
    /// As [`Self::into_region_writer`].
    pub fn into_region_reader(self) -> Result<RegionReader, Error> {
        match self {
            Self::RegionReader(end) => Ok(end),
            _ => Err(Error::Kind("a reading end of a region")),
        }
    }

    /// The writing end of a ring.
    ///
    /// # Errors
    /// As [`Self::into_region_writer`].
    pub fn into_producer(self) -> Result<Producer, Error> {
        match self {
            Self::Producer(end) => Ok(end),
            _ => Err(Error::Kind("the writing end of a ring")),
        }
    }

    /// A reading end of a ring.
    ///
    /// # Errors
    /// As [`Self::into_region_writer`].
    pub fn into_consumer(self) -> Result<Consumer, Error> {
        match self {
            Self::Consumer(end) => Ok(end),
            _ => Err(Error::Kind("a reading end of a ring")),
        }
    }
}
