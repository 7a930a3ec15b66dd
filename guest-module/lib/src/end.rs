//! What both ends of both kinds of channel share: grants, mappings, waiting and ringing.

use std::cell::Cell;
use std::sync::Arc;

use sivshm_abi::grant::{GrantId, Kind};
use sivshm_ring::Shared;
use sivshm_ring::wake::Sleeper;

use crate::backend::{Backend, Bell, Granted};
use crate::error::Error;
use crate::mapping::Mapping;
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

/// One end of a channel: its grants are live, or were.
#[derive(Debug)]
pub(crate) struct End {
    backend: Arc<dyn Backend>,
    wait: Wait,
    /// The grants that the end consists of.
    grants: Vec<GrantId>,
    /// The grants whose peers can be rung and heard; a peer's number is its index.
    peers: Vec<GrantId>,
    bells: Vec<Box<dyn Bell>>,
    /// The session's count of changes when the grants were last known to stand.
    changes: u64,
    pub(crate) kind: Kind,
    pub(crate) epoch: u64,
    data: Mapping,
    lines: Vec<Mapping>,
}

impl End {
    /// Maps the channel's range and its lines, in the order of their readers.
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        wait: Wait,
        changes: u64,
        data: &Granted,
        lines: &[Granted],
    ) -> Result<Self, Error> {
        let map = |granted: &Granted| backend.map(granted);
        let bell = |granted: &Granted| backend.bell(&granted.grant);
        let id = |granted: &Granted| granted.grant.id;
        Ok(Self {
            wait,
            grants: lines.iter().chain([data]).map(id).collect(),
            peers: lines.iter().map(id).collect(),
            bells: lines.iter().map(bell).collect::<Result<_, _>>()?,
            changes,
            kind: data.grant.kind,
            epoch: data.grant.epoch,
            data: map(data)?,
            lines: lines.iter().map(map).collect::<Result<_, _>>()?,
            backend,
        })
    }

    /// The channel's range.
    pub(crate) fn data(&self) -> Shared {
        self.data.shared()
    }

    /// The lines, by reader.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Shared> {
        self.lines.iter().map(Mapping::shared)
    }

    /// Whether the grants still stand.
    ///
    /// # Errors
    /// [`Error::Revoked`] if not.
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        let status = self.backend.status()?;
        if status.changes == self.changes {
            return Ok(());
        }
        let (status, granted) = self.backend.list()?;
        let stands = |id: &GrantId| granted.iter().any(|granted| granted.grant.id == *id);
        if !self.grants.iter().all(stands) {
            return Err(Error::Revoked(status.reason));
        }
        self.changes = status.changes;
        Ok(())
    }

    /// Rings a peer.
    pub(crate) fn ring(&mut self, peer: usize) -> Result<(), Error> {
        let Some(grant) = self.peers.get(peer) else {
            return Ok(());
        };
        match self.backend.ring(*grant) {
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
        match self.wait {
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
                sleeper.wait(SPINS, ready, || {
                    self.check()?;
                    self.sleep(blocker.get(), deadline, what)
                })
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

    /// The error itself, unless it is the peer's fault and the grants have ended meanwhile: then
    /// the memory is not the peer's any more, and nobody is to blame for what is in it.
    pub(crate) fn blame(&mut self, error: Error) -> Error {
        match error {
            Error::Peer(_) => self.check().err().unwrap_or(error),
            error => error,
        }
    }

    /// The error of a grant that the backend does not know any more.
    fn revoked(&mut self) -> Error {
        self.check().err().unwrap_or(Error::Revoked(None))
    }
}
