//! The decisions: who may map, ring and wait for what (DESIGN section 10, I4).

use sivshm_abi::frame::SessionId;
use sivshm_abi::grant::{GrantId, GrantPeer, Vector};
use sivshm_abi::limits::PAGE_BYTES;

use crate::bells::Bells;
use crate::errno::Errno;
use crate::grants::{Held, Slot};
use crate::sessions::{Mm, Session};
use crate::windows::WindowNumber;
use crate::{Doorbell, Gate};

/// Who asks: an address space, through an open file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caller {
    /// The session of the open file.
    pub session: SessionId,
    /// The address space of the calling process.
    pub mm: Mm,
}

/// What a mapping is wanted for. It is always wanted for loads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// For stores.
    pub write: bool,
    /// To run what is in it.
    pub exec: bool,
    /// Shared, not a private copy.
    pub shared: bool,
}

/// A range of a window that may be mapped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Placement {
    /// The window.
    pub window: WindowNumber,
    /// First byte within it.
    pub offset: u64,
    /// Whether the mapping may ever become writable.
    pub writable: bool,
}

impl Gate {
    /// Whether `length` bytes from the `mmap` offset `offset` on may be mapped, and what they are.
    ///
    /// # Errors
    /// [`Errno::Ended`], [`Errno::Denied`] (another address space, not granted, store or execution
    /// not granted), [`Errno::Invalid`] (private, empty, unaligned).
    pub fn map(
        &self,
        caller: Caller,
        offset: u64,
        length: u64,
        wanted: Wanted,
    ) -> Result<Placement, Errno> {
        self.live_session(caller)?;
        if !wanted.shared
            || length == 0
            || !offset.is_multiple_of(PAGE_BYTES)
            || !length.is_multiple_of(PAGE_BYTES)
        {
            return Err(Errno::Invalid);
        }
        if wanted.exec {
            return Err(Errno::Denied);
        }
        self.place(caller, offset, length, wanted.write)
    }

    /// Whether the pages of `length` bytes from the `mmap` offset `offset` on may enter the page
    /// table of a mapping now; `write` if the mapping is writable at this moment, whatever the
    /// access that faulted. Hold the lock against [`Self::receive`] until they are in.
    ///
    /// # Errors
    /// As [`Self::map`]; the access gets `SIGBUS`.
    pub fn fault(
        &self,
        caller: Caller,
        offset: u64,
        length: u64,
        write: bool,
    ) -> Result<Placement, Errno> {
        self.live_session(caller)?;
        self.place(caller, offset, length, write)
    }

    /// What to write to the doorbell register to ring the peer of a grant.
    ///
    /// # Errors
    /// [`Errno::Ended`], [`Errno::Denied`], [`Errno::NoGrant`], [`Errno::NoPeer`].
    pub fn notify(&self, caller: Caller, grant: GrantId) -> Result<Doorbell, Errno> {
        let (_, _, peer) = self.peer_of(caller, grant)?;
        Ok(Doorbell {
            target: peer.ring,
            vector: Vector(0),
        })
    }

    /// The vector on which the peer of a grant rings, with the slot that a binding to it ends with.
    ///
    /// # Errors
    /// As [`Self::notify`].
    pub fn bell_of(&self, caller: Caller, grant: GrantId) -> Result<(Slot, Vector), Errno> {
        let (slot, _, peer) = self.peer_of(caller, grant)?;
        Ok((slot, peer.vector))
    }

    /// How often the peer of a grant has rung, if that is not `seen`.
    ///
    /// # Errors
    /// [`Errno::NotYet`] if it is: sleep until the vector of [`Self::bell_of`] fires or
    /// [`crate::Effect::Wake`] comes, and ask again. Else as [`Self::notify`].
    pub fn rings(
        &self,
        caller: Caller,
        grant: GrantId,
        seen: u64,
        bells: &Bells,
    ) -> Result<u64, Errno> {
        let (_, held, peer) = self.peer_of(caller, grant)?;
        let count = bells.count(peer.vector);
        if count == seen {
            return Err(Errno::NotYet);
        }
        held.waited.set(count);
        Ok(count)
    }

    /// Whether the peer of a grant has rung since [`Self::rings`] counted it.
    ///
    /// # Errors
    /// [`Errno::Denied`] for another address space.
    pub fn rung(&self, caller: Caller, bells: &Bells) -> Result<bool, Errno> {
        self.session(caller)?;
        let rung = |held: &Held| {
            (held.grant.peer).is_some_and(|peer| bells.count(peer.vector) != held.waited.get())
        };
        Ok(
            (self.grants.live_from(0))
                .any(|(_, held)| held.session == caller.session && rung(held)),
        )
    }

    /// The caller's session, live or not.
    pub(crate) fn session(&self, caller: Caller) -> Result<&Session, Errno> {
        let session = self.sessions.get(caller.session).ok_or(Errno::Ended)?;
        if session.owner.mm != caller.mm {
            return Err(Errno::Denied);
        }
        Ok(session)
    }

    pub(crate) fn live_session(&self, caller: Caller) -> Result<&Session, Errno> {
        let session = self.session(caller)?;
        if !session.is_live() {
            return Err(Errno::Ended);
        }
        Ok(session)
    }

    fn peer_of(&self, caller: Caller, grant: GrantId) -> Result<(Slot, &Held, GrantPeer), Errno> {
        self.live_session(caller)?;
        let (slot, held) = (self.grants.live_from(0))
            .find(|(_, held)| held.session == caller.session && held.grant.id == grant)
            .ok_or(Errno::NoGrant)?;
        let peer = held.grant.peer.ok_or(Errno::NoPeer)?;
        Ok((slot, held, peer))
    }

    /// Where the range lies, if one live grant of the session covers all of it.
    fn place(
        &self,
        caller: Caller,
        offset: u64,
        length: u64,
        write: bool,
    ) -> Result<Placement, Errno> {
        let slot = Slot::at(offset).ok_or(Errno::Denied)?;
        let within = offset - slot.offset();
        let held = self.grants.live(slot).ok_or(Errno::Denied)?;
        let grant = &held.grant;
        let window = WindowNumber(grant.window);
        let end = within.checked_add(length).ok_or(Errno::Denied)?;
        if held.session != caller.session
            || end > grant.length
            || (write && !grant.access.writable())
            || !self.windows.is_claimed(window)
        {
            return Err(Errno::Denied);
        }
        let offset = grant.offset.checked_add(within).ok_or(Errno::Denied)?;
        Ok(Placement {
            window,
            offset,
            writable: grant.access.writable(),
        })
    }
}
