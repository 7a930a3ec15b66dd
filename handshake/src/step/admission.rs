//! Waits for the caller's word on the peer: the plan's, and the kernel's.

use std::time::SystemTime;

use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::VmName;

use super::hello::ExpectHello;
use super::{Outbox, Role, State};
use crate::credentials::Credentials;
use crate::identity::{IdentityFault, VerifiedIdentity};
use crate::limits::MAX_MANIFEST_ENTRIES;
use crate::refusal::{Blame, RefusalCode};
use crate::terms::{LinkTerms, PeerUid};
use crate::tls::unix_time;
use crate::wire::{Hello, Manifest, Message, PROTOCOL_VERSION};

/// Evidence that the party at the other end of the socket is the device process of a VM: it holds
/// the key of that VM's SVID, and the kernel says that it runs under the uid that the plan gives
/// that device process. The second half is what keeps out a relay between two honest ends.
///
/// Made by [`crate::PeerHandshake::admit`] and by nothing else.
#[derive(Debug, Eq, PartialEq)]
pub struct VerifiedPeer {
    identity: VerifiedIdentity,
    uid: PeerUid,
}

impl VerifiedPeer {
    /// The one place where the two halves meet.
    fn new(
        identity: VerifiedIdentity,
        found: PeerUid,
        planned: Option<PeerUid>,
    ) -> Result<Self, AdmissionFault> {
        let vm = identity.vm();
        let planned = planned.ok_or(AdmissionFault::NoLink { vm })?;
        if found != planned {
            return Err(AdmissionFault::Uid { vm, found, planned });
        }
        Ok(Self {
            identity,
            uid: found,
        })
    }

    /// The VM whose device process it is.
    #[must_use]
    pub const fn vm(&self) -> VmName {
        self.identity.vm()
    }

    /// Its SPIFFE ID.
    #[must_use]
    pub const fn id(&self) -> SpiffeId {
        self.identity.id()
    }

    /// The last second at which its SVID, and every issuer's certificate, is valid.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.identity.not_after()
    }

    /// Judges its SVID again, by what `credentials` trust and at `wall`.
    ///
    /// # Errors
    /// Why it is not to be believed any more: expired, withdrawn, or of unknown status.
    pub fn revalidate(
        &self,
        credentials: &Credentials,
        wall: SystemTime,
    ) -> Result<(), IdentityFault> {
        self.identity
            .revalidate(&credentials.trust, unix_time(wall))
    }

    /// Its uid.
    #[must_use]
    pub const fn uid(&self) -> PeerUid {
        self.uid
    }
}

/// Why a party that is who it says may not be here.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AdmissionFault {
    /// The plan has no link with it.
    #[error(
        "policy: no channel joins this VM and `{vm}`; if one should, check that both run the same policy"
    )]
    NoLink {
        /// The VM that its SVID names.
        vm: VmName,
    },
    /// Somebody else is at the other end of the socket.
    #[error("peer: a process of uid {} presents the SVID of `{vm}`, whose device process has uid {}: something relays, or the SVID was copied", found.0, planned.0)]
    Uid {
        /// The VM that the SVID names.
        vm: VmName,
        /// What the kernel says.
        found: PeerUid,
        /// What the plan says.
        planned: PeerUid,
    },
    /// This side can't say all that it would send.
    #[error(
        "policy: {count} descriptors for one peer are too many: at most {MAX_MANIFEST_ENTRIES}; use fewer slices"
    )]
    TooMany {
        /// Descriptors.
        count: usize,
    },
}

impl AdmissionFault {
    pub(crate) const fn blame(&self) -> Blame {
        match self {
            Self::NoLink { .. } | Self::TooMany { .. } => Blame::Policy,
            Self::Uid { .. } => Blame::Peer,
        }
    }

    pub(crate) const fn code(&self) -> RefusalCode {
        match self {
            Self::NoLink { .. } => RefusalCode::NoLink,
            Self::TooMany { .. } => RefusalCode::Manifest,
            Self::Uid { .. } => RefusalCode::Uid,
        }
    }
}

/// The peer has proved its SVID; who runs it is open.
#[derive(Debug)]
pub(crate) struct AwaitAdmission {
    pub(super) role: Role,
    pub(super) identity: VerifiedIdentity,
}

impl AwaitAdmission {
    pub(crate) fn on_peer_uid<T: Clone>(
        self,
        found: PeerUid,
        planned: Option<PeerUid>,
        grant: impl FnOnce(&VerifiedPeer) -> LinkTerms<T>,
        outbox: &mut Outbox<T>,
    ) -> Result<State<T>, AdmissionFault> {
        let peer = VerifiedPeer::new(self.identity, found, planned)?;
        let terms = grant(&peer);
        let entries: Vec<_> = terms.outgoing.iter().map(|out| out.entry).collect();
        let count = entries.len();
        let manifest = Manifest::new(entries).map_err(|_| AdmissionFault::TooMany { count })?;
        let ours = Hello {
            version: PROTOCOL_VERSION,
            connection: match self.role {
                Role::Dialer { connection } => connection,
                Role::Listener => 0,
            },
            instance: terms.instance,
            host_boot: terms.host_boot,
            policy_serial: terms.policy_serial,
            contract: terms.contract,
        };
        outbox.say(Message::Hello(ours));
        Ok(State::Hello(ExpectHello {
            role: self.role,
            peer,
            ours,
            manifest,
            originals: terms.outgoing.into_iter().map(|out| out.original).collect(),
            expected: terms.incoming,
        }))
    }
}
