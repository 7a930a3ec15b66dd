//! What a service wants, and what becomes of it.

use sivshm_abi::frame::Reason;
use sivshm_abi::grant::{Integrity, Kind};
use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::ChannelName;

use crate::service::fault::ServiceFault;
use crate::service::keys::ChannelKeys;
use crate::service::wire::{Pairing, Role, ServiceRefusal};

/// One end of a channel that a service wants to share with one other service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Want {
    /// The channel.
    pub channel: ChannelName,
    /// Who is expected at the other end. The service takes nobody's word for it but its own.
    pub peer: SpiffeId,
    /// Which end it wants.
    pub role: Role,
    /// The integrity that the channel must have; any if absent.
    pub integrity: Option<Integrity>,
}

impl Want {
    /// The pairing, for a service with this identity.
    pub(super) const fn pairing(&self, me: SpiffeId) -> Pairing {
        Pairing {
            channel: self.channel,
            reader: match self.role {
                Role::Writer => self.peer,
                Role::Reader => me,
            },
        }
    }
}

/// What happened to a session or to a pairing.
#[derive(Debug)]
pub enum ClientEvent {
    /// The own VM's device process has proved who it is.
    Authenticated,
    /// Both services and both device processes have agreed; the grants are on their way.
    Opened(Opened),
    /// An attempt failed.
    Refused {
        /// The channel.
        channel: ChannelName,
        /// The other end.
        peer: SpiffeId,
        /// Who refuses, and why.
        refusal: ServiceRefusal,
        /// The finding in full, if this service is who refuses.
        fault: Option<ServiceFault>,
        /// Whether the client tries again. If not, it has forgotten the pairing.
        again: bool,
    },
    /// A pairing is over; its grants are gone, or going.
    Ended {
        /// The channel.
        channel: ChannelName,
        /// The other end.
        peer: SpiffeId,
        /// Why.
        reason: Reason,
        /// Whether the client opens it again. If not, it has forgotten the pairing.
        again: bool,
    },
}

/// How far a wish has come, for a person to whom it takes too long.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Stage {
    /// It is to be said: the session is not authenticated yet, or an attempt has just failed.
    Resting,
    /// The own device process has it, and no usable link with the other VM's.
    Link,
    /// The service at the other end has not answered yet.
    OtherEnd,
    /// Both services have answered, and the device processes have not installed the grants yet.
    Installation,
    /// The pairing is complete.
    Open,
}

/// A pairing, complete.
#[derive(Debug)]
pub struct Opened {
    /// The channel.
    pub channel: ChannelName,
    /// Who is at the other end, by its SVID.
    pub peer: SpiffeId,
    /// Which end the service has.
    pub role: Role,
    /// The epoch; the grants of this pairing carry it.
    pub epoch: u64,
    /// The channel's kind, as both services have signed or compared it.
    pub kind: Kind,
    /// The keys of the data, if the channel's integrity needs them.
    pub keys: Option<ChannelKeys>,
}
