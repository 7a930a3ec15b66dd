//! A session, and the typed fronts of [`Channel::open`].

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use sivshm_abi::identity::SpiffeId;
use sivshm_abi::uapi::DEVICE_PATH;
use sivshm_handshake::service::ServiceClient;
use sivshm_handshake::service::wire::Role;

use crate::attached::{ATTACH_VARIABLE, Attached};
use crate::backend::Backend;
use crate::channel::Channel;
use crate::control::Control;
use crate::desk::Desk;
use crate::devnode::DevNode;
use crate::error::Error;
use crate::identity::Identity;
use crate::open::Open;
use crate::region::{RegionReader, RegionWriter};
use crate::ring::{Consumer, Producer};

/// One open file of the guest device, or what stands in for it in an attached host process, and a
/// thread that proves to the VM's device process whose it is.
///
/// Which channels it has follows from the policy, from its identity, and from what the kernel
/// attests about this process. The session ends when it and every end taken from it are dropped,
/// and belongs to this process: a child that was forked has no access, and has to leave session and
/// ends alone.
#[derive(Debug)]
pub struct Session {
    pub(crate) control: Arc<Control>,
    pub(crate) id: SpiffeId,
}

impl Session {
    /// Opens a session where this program runs: attached if the environment says so, else at
    /// [`DEVICE_PATH`]. What the device process thinks of the identity is what the first opening of
    /// a channel says.
    ///
    /// # Errors
    /// [`Error::Open`]; [`Error::Handshake`] if the identity can't be used.
    pub fn open(identity: &Identity) -> Result<Self, Error> {
        match std::env::var(ATTACH_VARIABLE) {
            Ok(text) => Self::attach(identity, &text),
            Err(_) => Self::open_device(identity, Path::new(DEVICE_PATH)),
        }
    }

    /// Opens a session at a device file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_device(identity: &Identity, path: &Path) -> Result<Self, Error> {
        Self::start(identity, Box::new(DevNode::open(path)?))
    }

    /// Opens the session of an attached process.
    pub(crate) fn attach(identity: &Identity, text: &str) -> Result<Self, Error> {
        Self::start(identity, Box::new(Attached::open(text)?))
    }

    pub(crate) fn start(identity: &Identity, backend: Box<dyn Backend>) -> Result<Self, Error> {
        let client = ServiceClient::dial(identity.credentials(), SystemTime::now())?;
        let control = Control::start(Desk::new(backend, identity.id()), client);
        Ok(Self {
            control: Arc::new(control.map_err(Error::host("start a thread"))?),
            id: identity.id(),
        })
    }

    /// Opens the writing end of a region.
    ///
    /// # Errors
    /// As [`Channel::open`]; [`Error::Kind`] if this service's end of the channel is another.
    pub fn region_writer(&self, channel: &str, options: &Open) -> Result<RegionWriter, Error> {
        Channel::open_as(Some(Role::Writer), self, channel, options)?.into_region_writer()
    }

    /// Opens a reading end of a region.
    ///
    /// # Errors
    /// As [`Self::region_writer`].
    pub fn region_reader(&self, channel: &str, options: &Open) -> Result<RegionReader, Error> {
        Channel::open_as(Some(Role::Reader), self, channel, options)?.into_region_reader()
    }

    /// Opens the writing end of a ring.
    ///
    /// # Errors
    /// As [`Self::region_writer`].
    pub fn producer(&self, channel: &str, options: &Open) -> Result<Producer, Error> {
        Channel::open_as(Some(Role::Writer), self, channel, options)?.into_producer()
    }

    /// Opens a reading end of a ring.
    ///
    /// # Errors
    /// As [`Self::region_writer`].
    pub fn consumer(&self, channel: &str, options: &Open) -> Result<Consumer, Error> {
        Channel::open_as(Some(Role::Reader), self, channel, options)?.into_consumer()
    }
}
