//! What sessions and channels need of the place where the program runs.

use std::fmt::Debug;
use std::time::Duration;

use sivshm_abi::frame::Reason;
use sivshm_abi::grant::{Grant, GrantId};
use sivshm_abi::uapi::SessionState;

use crate::error::Error;
use crate::mapping::Mapping;

/// A live grant, and the slot under which it is mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    pub(crate) slot: u32,
    pub(crate) grant: Grant,
}

/// A session's state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) state: SessionState,
    pub(crate) reason: Option<Reason>,
    /// Counts changes of the state and of the list of grants.
    pub(crate) changes: u64,
}

/// What the control thread sleeps for, besides [`Backend::wake`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awaited {
    /// Bytes to read, and changes of the session. Of no use any more once the session has closed.
    pub(crate) news: bool,
    /// Room for bytes to write.
    pub(crate) room: bool,
    /// Longest sleep.
    pub(crate) left: Option<Duration>,
}

/// One session: the guest's device file, or the gate of an attached process.
pub(crate) trait Backend: Debug + Send + Sync {
    /// The state alone. Cheap: it is asked before many accesses.
    fn status(&self) -> Result<Status, Error>;

    /// State and live grants.
    fn list(&self) -> Result<(Status, Vec<Granted>), Error>;

    /// Takes bytes that the device process has sent to the session: none if none are there, 0 once
    /// the session has closed.
    fn read(&self, to: &mut [u8]) -> Result<Option<usize>, Error>;

    /// Gives bytes to the device process, as many as it takes now.
    fn write(&self, from: &[u8]) -> Result<usize, Error>;

    /// Sleeps until something that is awaited has come, or [`Self::wake`] was called since the
    /// sleep before. May return early. The control thread's alone: where no kernel serves the
    /// session, this does.
    fn sleep(&self, awaited: Awaited) -> Result<(), Error>;

    /// Ends the control thread's sleep, or its next one.
    fn wake(&self);

    /// Maps a whole grant.
    fn map(&self, granted: &Granted) -> Result<Mapping, Error>;

    /// Rings the peer of a grant.
    fn ring(&self, grant: GrantId) -> Result<(), Error>;

    /// Where the rings of a grant's peer are heard.
    fn bell(&self, grant: &Grant) -> Result<Box<dyn Bell>, Error>;
}

/// Hears the rings of one peer, for one end of a channel.
pub(crate) trait Bell: Debug + Send {
    /// Sleeps until the peer has rung since the call before, or the session has changed, or `left`
    /// has passed. May return early.
    ///
    /// # Errors
    /// [`Error::Revoked`] without a reason if the grant has ended.
    fn sleep(&mut self, left: Option<Duration>) -> Result<(), Error>;
}
