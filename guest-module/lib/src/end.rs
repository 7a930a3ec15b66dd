//! What both ends of both kinds of channel share: grants, mappings, waiting and ringing.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sivshm_abi::frame::Reason;
use sivshm_abi::grant::{GrantId, Kind};
use sivshm_abi::name::ChannelName;
use sivshm_abi::uapi::SessionState;
use sivshm_handshake::service::ChannelKeys;
use sivshm_handshake::service::wire::Role;
use sivshm_ring::Shared;
use sivshm_ring::wake::Sleeper;

use crate::backend::{Bell, Granted, Status};
use crate::control::Control;
use crate::desk::{Ticket, Wanted};
use crate::error::{BadPeers, Error};
use crate::found::Found;
use crate::identity::service;
use crate::mapping::Mapping;
use crate::open::{Cancel, Open};
use crate::session::Session;
use crate::wait::{Deadline, Wait};

/// Looks before a wait sleeps: some microseconds, about what going to sleep and being woken costs.
const SPINS: u32 = 200;

/// Looks of a polling wait between two questions whether time is up and the grants still stand;
/// the processor is offered to others then.
const LOOKS_PER_CHECK: u32 = 1_000;

/// What a look at the channel has found.
pub(crate) enum Look<T> {
    /// What was waited for.
    Found(T),
    /// Nothing yet: the peer with this number has to act first.
    WaitFor(usize),
}

/// What a session holds of a channel as long as the caller has an end of it: dropping it closes the
/// channel's pairings.
#[derive(Debug)]
pub(crate) struct Hold {
    control: Arc<Control>,
    channel: ChannelName,
    ticket: Ticket,
    wait: Wait,
    cancel: Cancel,
}

impl Hold {
    /// Orders that a channel be opened.
    pub(crate) fn new(
        role: Option<Role>,
        session: &Session,
        channel: ChannelName,
        options: &Open,
    ) -> Result<Self, Error> {
        let peers = options.peers.iter().map(|peer| service(peer, session.id));
        let peers = peers.collect::<Result<BTreeSet<_>, _>>()?;
        if peers.is_empty() {
            return Err(Error::Peers(BadPeers::None));
        }
        let control = Arc::clone(&session.control);
        let wanted = Wanted {
            channel,
            peers,
            role,
            integrity: options.integrity,
        };
        Ok(Self {
            ticket: control.desk.want(&wanted),
            control,
            channel,
            wait: options.wait,
            cancel: options.cancel.clone(),
        })
    }

    fn await_open(&self, deadline: Deadline) -> Result<Found, Error> {
        let desk = &self.control.desk;
        desk.await_open(self.channel, self.ticket, &self.cancel, deadline)
    }

    /// The session's state, and whether all of these grants are there.
    fn list(&self, grants: &[GrantId]) -> Result<(Status, bool), Error> {
        let desk = &self.control.desk;
        let (status, granted) = desk.backend.list()?;
        desk.has_changed(status);
        if status.state == SessionState::Closed {
            return Err(Error::Ended(status.reason));
        }
        let stands = |id: &GrantId| granted.iter().any(|granted| granted.grant.id == *id);
        Ok((status, grants.iter().all(stands)))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.control.desk.release(self.channel, self.ticket);
    }
}

/// One end of a channel: its grants are live, or were.
#[derive(Debug)]
pub(crate) struct End {
    /// The grants that the end consists of.
    grants: Vec<GrantId>,
    /// The grants whose peers can be rung and heard; a peer's number is its index.
    peers: Vec<GrantId>,
    bells: Vec<Box<dyn Bell>>,
    /// The session's count of changes when the grants were last known to stand.
    changes: u64,
    /// Of each pairing, which one the end was built on.
    counts: Vec<u64>,
    /// What every call answers since the end was found to have ended.
    revoked: Option<Option<Reason>>,
    pub(crate) channel: ChannelName,
    pub(crate) kind: Kind,
    pub(crate) epoch: u64,
    /// What the two services have agreed on for the data, until it is taken.
    pub(crate) keys: Option<ChannelKeys>,
    data: Mapping,
    lines: Vec<Mapping>,
    hold: Arc<Hold>,
}

impl End {
    /// Waits until everybody has agreed, and takes the end.
    pub(crate) fn open(hold: Hold, deadline: Deadline) -> Result<(Role, Self), Error> {
        Self::take(&Arc::new(hold), deadline)
    }

    /// Takes the end once it is granted; one that ends before it is taken is waited for again.
    fn take(hold: &Arc<Hold>, deadline: Deadline) -> Result<(Role, Self), Error> {
        loop {
            let found = hold.await_open(deadline)?;
            let role = found.role;
            let grants: Vec<_> = found.grants().collect();
            match Self::new(Arc::clone(hold), found) {
                Ok(end) => return Ok((role, end)),
                Err(error) if hold.list(&grants)?.1 => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Maps the channel's range and its lines, in the order of their readers.
    fn new(hold: Arc<Hold>, found: Found) -> Result<Self, Error> {
        let backend = &*hold.control.desk.backend;
        let Found { data, lines, .. } = &found;
        let map = |granted: &Granted| backend.map(granted);
        let bell = |granted: &Granted| backend.bell(&granted.grant);
        Ok(Self {
            grants: found.grants().collect(),
            peers: lines.iter().map(|granted| granted.grant.id).collect(),
            bells: lines.iter().map(bell).collect::<Result<_, _>>()?,
            data: map(data)?,
            lines: lines.iter().map(map).collect::<Result<_, _>>()?,
            changes: found.changes,
            counts: found.counts,
            revoked: None,
            channel: hold.channel,
            kind: found.kind,
            epoch: found.epoch,
            keys: found.keys,
            hold,
        })
    }

    /// The end of the channel's next pairings, in place of one that has ended; none if it stands.
    pub(crate) fn renew(&mut self, timeout: Duration) -> Result<Option<Self>, Error> {
        match self.check() {
            Ok(()) => Ok(None),
            Err(Error::Revoked(_)) => {
                let (_, end) = Self::take(&self.hold, Deadline::after(timeout))?;
                Ok(Some(end))
            }
            Err(error) => Err(error),
        }
    }

    /// The channel's range.
    pub(crate) fn data(&self) -> Shared {
        self.data.shared()
    }

    /// The lines, by reader.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Shared> {
        self.lines.iter().map(Mapping::shared)
    }

    /// Whether the pairings and their grants still stand. Once they do not, they never do again.
    ///
    /// # Errors
    /// [`Error::Revoked`], [`Error::Ended`], [`Error::Handshake`].
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        if let Some(reason) = self.revoked {
            return Err(Error::Revoked(reason));
        }
        let outcome = self.look();
        if let Err(Error::Revoked(reason)) = outcome {
            self.revoked = Some(reason);
        }
        outcome
    }

    fn look(&mut self) -> Result<(), Error> {
        let desk = &self.hold.control.desk;
        desk.check(self.hold.channel, self.hold.ticket, &self.counts)?;
        let status = desk.backend.status()?;
        if status.changes == self.changes {
            return Ok(());
        }
        let (status, all) = self.hold.list(&self.grants)?;
        if !all {
            return Err(Error::Revoked(status.reason));
        }
        self.changes = status.changes;
        Ok(())
    }

    /// Rings a peer.
    #[cold]
    pub(crate) fn ring(&mut self, peer: usize) -> Result<(), Error> {
        let Some(grant) = self.peers.get(peer) else {
            return Ok(());
        };
        match self.hold.control.desk.backend.ring(*grant) {
            Err(Error::Revoked(None)) => Err(self.revoked()),
            outcome => outcome,
        }
    }

    /// Waits until `look` finds something, as the end was told to wait.
    pub(crate) fn wait<T>(
        &mut self,
        sleeper: Sleeper,
        deadline: Deadline,
        what: &'static str,
        mut look: impl FnMut() -> Result<Look<T>, Error>,
    ) -> Result<T, Error> {
        self.check()?;
        let outcome = self.wait_unblamed(sleeper, deadline, what, &mut look);
        outcome.map_err(|error| self.blame(error))
    }

    fn wait_unblamed<T>(
        &mut self,
        sleeper: Sleeper,
        deadline: Deadline,
        what: &'static str,
        look: &mut impl FnMut() -> Result<Look<T>, Error>,
    ) -> Result<T, Error> {
        match self.hold.wait {
            Wait::Poll => loop {
                for _ in 0..LOOKS_PER_CHECK {
                    if let Look::Found(found) = look()? {
                        return Ok(found);
                    }
                    std::hint::spin_loop();
                }
                deadline.left(what)?;
                self.check()?;
                std::thread::yield_now();
            },
            Wait::Interrupt => {
                let blocker = Cell::new(0);
                let ready = || {
                    Ok(match look()? {
                        Look::Found(found) => Some(found),
                        Look::WaitFor(peer) => {
                            blocker.set(peer);
                            None
                        }
                    })
                };
                let outcome = sleeper.wait(SPINS, ready, || {
                    self.check()?;
                    self.sleep(blocker.get(), deadline, what)
                });
                // Any other error may mean that the page is gone.
                if let Err(Error::Timeout(_)) = outcome {
                    sleeper.rest();
                }
                outcome
            }
        }
    }

    fn sleep(&mut self, peer: usize, deadline: Deadline, what: &'static str) -> Result<(), Error> {
        let left = deadline.left(what)?;
        let Some(bell) = self.bells.get_mut(peer) else {
            return Ok(());
        };
        match bell.sleep(left) {
            Err(Error::Revoked(None)) => Err(self.revoked()),
            outcome => outcome,
        }
    }

    /// The error itself, unless it says that the memory is wrong and the grants have ended meanwhile:
    /// then it is not the peer's memory any more, and nobody is to blame for what is in it.
    #[cold]
    pub(crate) fn blame(&mut self, error: Error) -> Error {
        match error {
            Error::Peer(_) | Error::Integrity(_) => self.check().err().unwrap_or(error),
            error => error,
        }
    }

    /// The error of a grant that the backend does not know any more.
    fn revoked(&mut self) -> Error {
        self.check().err().unwrap_or(Error::Revoked(None))
    }
}
