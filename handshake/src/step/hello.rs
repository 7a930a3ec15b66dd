//! Waits for the peer's `hello`, and compares it with this side's.

use super::manifest::ExpectManifest;
use super::{Outbox, Role, State, VerifiedPeer};
use crate::link::LinkId;
use crate::refusal::{Blame, RefusalCode};
use crate::terms::Expected;
use crate::wire::{Contract, Hello, Manifest, Message, Told};

/// Why two hellos do not fit together.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HelloFault {
    /// Another version of the messages.
    #[error(
        "peer: it speaks version {theirs} of the peer protocol, this build version {ours}; update the older one"
    )]
    Version {
        /// This side's.
        ours: u16,
        /// The peer's.
        theirs: u16,
    },
    /// A listener numbered the connection.
    #[error(
        "peer: the listener numbered the connection ({connection}), which is the dialer's to do"
    )]
    Connection {
        /// The number.
        connection: u64,
    },
    /// Another host, or another boot of this one.
    #[error("peer: it says that it runs on another boot of the host; start it again")]
    HostBoot,
    /// The policies differ about this link.
    #[error(
        "policy: the two sides' contracts differ (here {ours}, peer {theirs}); give both the same policy file and start the older one again"
    )]
    Contract {
        /// This side's.
        ours: Contract,
        /// The peer's.
        theirs: Contract,
    },
    /// The policies differ elsewhere.
    #[error(
        "policy: the two sides' policies differ in their serial (here {ours}, peer {theirs}); start the older one again"
    )]
    Serial {
        /// This side's.
        ours: u64,
        /// The peer's.
        theirs: u64,
    },
}

impl HelloFault {
    pub(crate) const fn blame(&self) -> Blame {
        match self {
            Self::Version { .. } | Self::Connection { .. } | Self::HostBoot => Blame::Peer,
            Self::Contract { .. } | Self::Serial { .. } => Blame::Policy,
        }
    }

    pub(crate) const fn told(&self) -> Told {
        match *self {
            Self::Version { .. } => Told::Code(RefusalCode::Version),
            Self::Connection { .. } => Told::Code(RefusalCode::Protocol),
            Self::HostBoot => Told::Code(RefusalCode::HostBoot),
            Self::Contract { ours, theirs } => Told::Contract {
                refuser: ours,
                refused: theirs,
            },
            Self::Serial { .. } => Told::Code(RefusalCode::Serial),
        }
    }
}

/// The peer is admitted; this side's `hello` is sent.
#[derive(Debug)]
pub(crate) struct ExpectHello<T> {
    pub(super) role: Role,
    pub(super) peer: VerifiedPeer,
    pub(super) ours: Hello,
    pub(super) manifest: Manifest,
    pub(super) originals: Vec<T>,
    pub(super) expected: Vec<Expected>,
}

impl<T> ExpectHello<T> {
    pub(super) fn on_hello(
        self,
        theirs: Hello,
        outbox: &mut Outbox<T>,
    ) -> Result<State<T>, HelloFault> {
        let link = self.agree(&theirs)?;
        outbox.say(Message::Manifest(self.manifest));
        Ok(State::Manifest(ExpectManifest {
            peer: self.peer,
            link,
            instance: theirs.instance,
            originals: self.originals,
            expected: self.expected,
        }))
    }

    fn agree(&self, theirs: &Hello) -> Result<LinkId, HelloFault> {
        let ours = &self.ours;
        if ours.version != theirs.version {
            return Err(HelloFault::Version {
                ours: ours.version,
                theirs: theirs.version,
            });
        }
        if ours.host_boot != theirs.host_boot {
            return Err(HelloFault::HostBoot);
        }
        if ours.contract != theirs.contract {
            return Err(HelloFault::Contract {
                ours: ours.contract,
                theirs: theirs.contract,
            });
        }
        if ours.policy_serial != theirs.policy_serial {
            return Err(HelloFault::Serial {
                ours: ours.policy_serial,
                theirs: theirs.policy_serial,
            });
        }
        match self.role {
            Role::Dialer { connection } if theirs.connection == 0 => {
                Ok(LinkId::new(ours.instance, theirs.instance, connection))
            }
            Role::Dialer { .. } => Err(HelloFault::Connection {
                connection: theirs.connection,
            }),
            Role::Listener => Ok(LinkId::new(
                theirs.instance,
                ours.instance,
                theirs.connection,
            )),
        }
    }
}
