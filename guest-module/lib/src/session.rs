//! A session, and how it finds its end of a channel.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sivshm_abi::grant::{Grant, Kind, Part};
use sivshm_abi::name::ChannelName;
use sivshm_abi::uapi::{DEVICE_PATH, SessionState};

use crate::attached::{ATTACH_VARIABLE, Attached};
use crate::backend::{Backend, Granted};
use crate::devnode::DevNode;
use crate::end::End;
use crate::error::Error;
use crate::region::{RegionReader, RegionWriter};
use crate::ring::{Consumer, Producer};
use crate::wait::{Deadline, Wait};

/// One open file of the guest device, or what stands in for it in an attached host process.
///
/// Which service it is, and so which channels it has, is decided by the VM's device process from
/// what the kernel attests. The session ends when it and every end taken from it are dropped, and
/// belongs to this process: a child that was forked has no access.
#[derive(Debug)]
pub struct Session {
    backend: Arc<dyn Backend>,
}

/// Which end of a channel is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Side {
    Writer,
    Reader,
}

impl Session {
    /// Opens a session where this program runs: attached if the environment says so, else at
    /// [`DEVICE_PATH`].
    ///
    /// # Errors
    /// [`Error::Open`]
    pub fn open() -> Result<Self, Error> {
        match std::env::var(ATTACH_VARIABLE) {
            Ok(text) => Self::attach(&text),
            Err(_) => Self::open_device(Path::new(DEVICE_PATH)),
        }
    }

    /// Opens a session at a device file.
    ///
    /// # Errors
    /// [`Error::Open`]
    pub fn open_device(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            backend: Arc::new(DevNode::open(path)?),
        })
    }

    /// Opens the session of an attached process.
    pub(crate) fn attach(text: &str) -> Result<Self, Error> {
        Ok(Self {
            backend: Arc::new(Attached::open(text)?),
        })
    }

    /// Takes the writing end of a region, once every reader's VM is there.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it is not granted in time, [`Error::Ended`] if the session has ended,
    /// [`Error::Kind`], [`Error::Name`], [`Error::Host`].
    pub fn region_writer(
        &self,
        channel: &str,
        wait: Wait,
        timeout: Duration,
    ) -> Result<RegionWriter, Error> {
        RegionWriter::new(self.end(channel, Side::Writer, is_region, "region", wait, timeout)?)
    }

    /// Takes the reading end of a region, once its writer's VM is there.
    ///
    /// # Errors
    /// As [`Self::region_writer`].
    pub fn region_reader(
        &self,
        channel: &str,
        wait: Wait,
        timeout: Duration,
    ) -> Result<RegionReader, Error> {
        RegionReader::new(self.end(channel, Side::Reader, is_region, "region", wait, timeout)?)
    }

    /// Takes the writing end of a ring, once every reader's VM is there.
    ///
    /// # Errors
    /// As [`Self::region_writer`].
    pub fn producer(
        &self,
        channel: &str,
        wait: Wait,
        timeout: Duration,
    ) -> Result<Producer, Error> {
        Producer::new(self.end(channel, Side::Writer, is_ring, "ring", wait, timeout)?)
    }

    /// Takes a reading end of a ring, once its writer's VM is there.
    ///
    /// # Errors
    /// As [`Self::region_writer`].
    pub fn consumer(
        &self,
        channel: &str,
        wait: Wait,
        timeout: Duration,
    ) -> Result<Consumer, Error> {
        Consumer::new(self.end(channel, Side::Reader, is_ring, "ring", wait, timeout)?)
    }

    /// Waits until all grants of an end are there, and takes it.
    fn end(
        &self,
        channel: &str,
        side: Side,
        is_kind: fn(Kind) -> bool,
        kind: &'static str,
        wait: Wait,
        timeout: Duration,
    ) -> Result<End, Error> {
        const WHAT: &str = "the channel's grants: is the other VM up, and does the policy name it?";
        let channel = ChannelName::new(channel)?;
        let deadline = Deadline::after(timeout);
        loop {
            let (status, granted) = self.backend.list()?;
            if status.state == SessionState::Closed {
                return Err(Error::Ended(status.reason));
            }
            if let Some((data, lines)) = find(&granted, channel, side) {
                if !is_kind(data.grant.kind) {
                    return Err(Error::Kind(kind));
                }
                return End::new(
                    Arc::clone(&self.backend),
                    wait,
                    status.changes,
                    &data,
                    &lines,
                );
            }
            (self.backend).wait_change(status.changes, deadline.left(WHAT)?)?;
        }
    }
}

const fn is_region(kind: Kind) -> bool {
    matches!(kind, Kind::Region)
}

const fn is_ring(kind: Kind) -> bool {
    matches!(kind, Kind::Ring { .. })
}

/// The grants of one end of a channel, if all of them are there: the data, and the lines in the
/// order of their readers.
fn find(granted: &[Granted], channel: ChannelName, side: Side) -> Option<(Granted, Vec<Granted>)> {
    let writes = side == Side::Writer;
    let ours = |grant: &Grant| {
        let data = grant.part == Part::Data;
        // A writer stores to the data and loads from lines; a reader the other way round.
        grant.channel == channel && grant.access.writable() == (data == writes)
    };
    let mut parts = granted.iter().filter(|granted| ours(&granted.grant));
    let data = *parts.clone().find(|part| part.grant.part == Part::Data)?;
    let mut lines: Vec<_> = parts
        .by_ref()
        .filter(|part| part.grant.epoch == data.grant.epoch)
        .filter_map(|part| match part.grant.part {
            Part::Ack(reader) => Some((reader, *part)),
            Part::Data => None,
        })
        .collect();
    lines.sort_by_key(|(reader, _)| *reader);
    let wanted = if writes {
        usize::from(data.grant.readers)
    } else {
        1
    };
    (lines.len() == wanted).then(|| (data, lines.into_iter().map(|(_, part)| part).collect()))
}
