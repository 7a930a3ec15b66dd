//! The steps of one pairing, one struct each; a step consumes the last (DESIGN section 9).
//!
//! ```text
//! writer: wanted ─> offered ─> opened ─> accepted ─> confirmed ─> live
//! reader: wanted ────────────> opened ─> accepted ─> confirmed ─> live
//! ```
//!
//! Both sides go through the same checks. Which of the two parties next to a device process has to
//! say what is in [`super::writer`] and [`super::reader`].

use std::time::{Duration, Instant};

use sivshm_abi::frame::SessionId;
use sivshm_handshake::service::limits::{INSTALL_WITHIN, STEP_WITHIN};
use sivshm_handshake::service::wire::{Accept, Agreed, Confirm, Hash};
use sivshm_handshake::service::{Agreement, CheckedAccept, CheckedOpen, ServiceFault};

use crate::run::admission::Scope;
use crate::run::limits::OPENED_WITHIN;

/// Where a pairing is.
#[derive(Debug, Default)]
pub enum Step {
    /// Nothing is under way. Also what a message leaves behind that is refused.
    #[default]
    Idle,
    /// The writer's session has its terms; its `open` is awaited.
    Offered(SessionId),
    /// The `open` is checked and passed on; `accept` is awaited.
    Opened(Opened),
    /// The `accept` is checked and passed on; `confirm` is awaited.
    Accepted(Accepted),
    /// Both services have agreed; the reader's `agreed` is awaited.
    Confirmed(Confirmed),
    /// Installed.
    Live(Live),
}

/// See [`Step::Opened`].
#[derive(Debug)]
pub struct Opened {
    session: SessionId,
    since: Instant,
    open: CheckedOpen,
    until: Instant,
}

/// See [`Step::Accepted`].
#[derive(Debug)]
pub struct Accepted {
    session: SessionId,
    since: Instant,
    accept: CheckedAccept,
    epoch: u64,
    until: Instant,
}

/// See [`Step::Confirmed`].
#[derive(Debug)]
pub struct Confirmed {
    session: SessionId,
    since: Instant,
    agreement: Agreement,
    until: Instant,
}

/// See [`Step::Live`].
#[derive(Debug)]
pub struct Live {
    /// Of which session.
    pub session: SessionId,
    since: Instant,
    /// What the grants stand on.
    pub agreement: Agreement,
    /// From the `open`, as it passed here, to the installation at both ends, once that is known.
    pub handshake: Option<Duration>,
    /// Until when the other device process has to say that it has installed, too.
    awaits: Option<Instant>,
}

impl Opened {
    /// A writer's `open`: checked, and passed to the peer.
    pub fn by_writer(session: SessionId, open: CheckedOpen, now: Instant) -> Self {
        Self {
            session,
            since: now,
            open,
            until: now + OPENED_WITHIN,
        }
    }

    /// The `open` is handed to the reader.
    pub fn to_reader(session: SessionId, open: CheckedOpen, now: Instant) -> Self {
        Self {
            session,
            since: now,
            open,
            until: now + STEP_WITHIN,
        }
    }

    /// The one place where an `accept` is checked.
    pub fn on_accept(self, accept: &Accept, scope: &Scope<'_>) -> Result<Accepted, ServiceFault> {
        Ok(Accepted {
            session: self.session,
            since: self.since,
            accept: self.open.accept(accept, &scope.credentials, scope.wall)?,
            epoch: self.open.epoch(),
            until: scope.now + STEP_WITHIN,
        })
    }
}

impl Accepted {
    /// The one place where a `confirm` is checked.
    pub fn on_confirm(self, confirm: &Confirm, now: Instant) -> Result<Confirmed, ServiceFault> {
        Ok(Confirmed {
            session: self.session,
            since: self.since,
            agreement: self.accept.confirm(confirm)?,
            until: now + STEP_WITHIN,
        })
    }
}

impl Confirmed {
    /// The reader says that it has verified the `confirm`, and this device process, which is the
    /// reader's, installs first; none if it means another.
    pub fn install_first(self, agreed: &Agreed, now: Instant) -> Option<Live> {
        (self.agreement.hash() == agreed.body.confirm).then(|| Live {
            session: self.session,
            since: self.since,
            agreement: self.agreement,
            handshake: None,
            awaits: Some(now + INSTALL_WITHIN),
        })
    }

    /// The same, passed on by the reader's device process, which has installed, so that both have once
    /// this one has; none if it means another. Its MAC is for the writer to check.
    pub fn install_last(self, agreed: &Agreed, now: Instant) -> Option<Live> {
        let live = self.install_first(agreed, now)?;
        live.on_installed(agreed.body.confirm, now)
    }
}

impl Live {
    /// The writer's device process says that it has installed, too; none if it means another
    /// pairing, or has said so before.
    pub fn on_installed(self, hash: Hash, now: Instant) -> Option<Self> {
        let awaited = self.awaits.is_some() && self.agreement.hash() == hash;
        awaited.then(|| Self {
            handshake: Some(now.saturating_duration_since(self.since)),
            awaits: None,
            ..self
        })
    }
}

impl Step {
    /// The session that has something under way.
    pub const fn session(&self) -> Option<SessionId> {
        match self {
            Self::Idle => None,
            Self::Offered(session)
            | Self::Opened(Opened { session, .. })
            | Self::Accepted(Accepted { session, .. })
            | Self::Confirmed(Confirmed { session, .. })
            | Self::Live(Live { session, .. }) => Some(*session),
        }
    }

    /// Until when the next message has to come.
    pub const fn until(&self) -> Option<Instant> {
        match self {
            Self::Idle | Self::Offered(_) => None,
            Self::Opened(Opened { until, .. })
            | Self::Accepted(Accepted { until, .. })
            | Self::Confirmed(Confirmed { until, .. }) => Some(*until),
            Self::Live(live) => live.awaits,
        }
    }

    /// The epoch of what is under way.
    pub fn epoch(&self) -> Option<u64> {
        match self {
            Self::Idle | Self::Offered(_) => None,
            Self::Opened(opened) => Some(opened.open.epoch()),
            Self::Accepted(accepted) => Some(accepted.epoch),
            Self::Confirmed(confirmed) => Some(confirmed.agreement.epoch()),
            Self::Live(live) => Some(live.agreement.epoch()),
        }
    }

    /// What was agreed, once it is installed here.
    pub const fn live(&self) -> Option<&Live> {
        match self {
            Self::Live(live) => Some(live),
            _ => None,
        }
    }
}
