//! What a session can learn about itself.

use sivshm_abi::frame::Reason;
use sivshm_abi::grant::Grant;
use sivshm_abi::uapi::SessionState;

use crate::Gate;
use crate::decide::Caller;
use crate::errno::Errno;
use crate::grants::Slot;
use crate::sessions::Stage;

/// State of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listing {
    /// How far it has come.
    pub state: SessionState,
    /// Why it, or the last of its grants that ended, has ended.
    pub reason: Option<Reason>,
    /// Counts changes of the state and of the list of grants.
    pub changes: u64,
    /// Live grants.
    pub grants: u32,
}

impl Gate {
    /// The session's state. Its changes so far count as seen; [`Self::next_grant`] has the grants.
    ///
    /// # Errors
    /// [`Errno::Denied`] for another address space.
    pub fn list(&mut self, caller: Caller) -> Result<Listing, Errno> {
        let session = self.session(caller)?;
        let state = match session.stage {
            Stage::Announcing | Stage::Open if session.granted => SessionState::Active,
            Stage::Announcing | Stage::Open => SessionState::Opening,
            Stage::Free | Stage::Ending | Stage::Closed => SessionState::Closed,
        };
        let of_session =
            (self.grants.live_from(0)).filter(|(_, held)| held.session == caller.session);
        let listing = Listing {
            state,
            reason: session.reason,
            changes: session.changes,
            grants: of_session.fold(0, |count, _| count + 1),
        };
        if let Some(session) = self.sessions.get_mut(caller.session) {
            session.listed = listing.changes;
        }
        Ok(listing)
    }

    /// The session's first live grant at place `from` or above; go on behind [`Slot::place`].
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn next_grant(&self, caller: Caller, from: usize) -> Result<Option<(Slot, &Grant)>, Errno> {
        self.session(caller)?;
        Ok((self.grants.live_from(from))
            .find(|(_, held)| held.session == caller.session)
            .map(|(slot, held)| (slot, &held.grant)))
    }
}
