//! Grants and the slots that hold them (DESIGN sections 9 and 10).

use sivshm_abi::frame::{Reason, SessionId};
use sivshm_abi::grant::{Generation, Grant, GrantId};
use sivshm_abi::limits::{GRANT_OFFSET_SHIFT, MAX_GRANTS, PAGE_BYTES};

use crate::Gate;
use crate::bells::Mark;
use crate::bits::Bits;
use crate::complaint::GrantFault;
use crate::sessions::Stage;
use crate::windows::WindowNumber;

/// Number under which a grant is mapped: `mmap`'s offset is `slot << GRANT_OFFSET_SHIFT` plus an
/// offset within the grant.
///
/// A number is never used twice: its low bits are a place in a table, the others count how often
/// the place was used. So a mapping of a grant that has ended can't turn into one of another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slot(pub u32);

const PLACES: u32 = 1 << MAX_GRANTS.ilog2();
const _: () = assert!(PLACES as usize == MAX_GRANTS);

/// Uses of one place. After that many it stays empty: offsets stay below 2^62.
const MAX_USES: u32 = 1 << (62 - GRANT_OFFSET_SHIFT - PLACES.ilog2());

impl Slot {
    /// Its place, below [`MAX_GRANTS`]: no two slots that are in use have the same.
    #[must_use]
    pub const fn place(self) -> usize {
        (self.0 % PLACES) as usize
    }

    /// The slot that an `mmap` offset lies in.
    #[must_use]
    pub fn at(offset: u64) -> Option<Self> {
        u32::try_from(offset >> GRANT_OFFSET_SHIFT).ok().map(Self)
    }

    /// First `mmap` offset of the grant.
    #[must_use]
    pub const fn offset(self) -> u64 {
        (self.0 as u64) << GRANT_OFFSET_SHIFT
    }
}

/// How far a grant has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Life {
    /// It may be mapped.
    Live,
    /// It may not; [`crate::Effect::Unmap`] is due.
    Ending,
    /// The shim is taking its pages out of page tables.
    Unmapping,
    /// Its pages are gone; `REVOKED` is to be sent.
    Unmapped,
}

/// One granted range, from `GRANT` until its pages are gone and the device process knows.
#[derive(Debug)]
pub(crate) struct Held {
    life: Life,
    pub(crate) session: SessionId,
    pub(crate) grant: Grant,
    /// The generation that a `REVOKE` named, which `REVOKED` will repeat.
    answer: Option<Generation>,
    /// Rings of the peer that the session has waited for.
    pub(crate) waited: Mark,
}

#[derive(Debug)]
struct Place {
    uses: u32,
    held: Option<Held>,
}

/// All slots.
#[derive(Debug)]
pub(crate) struct Grants {
    places: [Place; MAX_GRANTS],
    /// Places below this have been used.
    used: usize,
    /// Places whose grant is [`Life::Ending`].
    ending: Bits<{ MAX_GRANTS / 64 }>,
    /// Places whose grant is [`Life::Unmapped`].
    answering: Bits<{ MAX_GRANTS / 64 }>,
}

impl Grants {
    pub(crate) const fn new() -> Self {
        Self {
            places: [const {
                Place {
                    uses: 0,
                    held: None,
                }
            }; MAX_GRANTS],
            used: 0,
            ending: Bits::new(),
            answering: Bits::new(),
        }
    }

    /// The live grant of a slot.
    pub(crate) fn live(&self, slot: Slot) -> Option<&Held> {
        let place = self.places.get(slot.place())?;
        let held = place.held.as_ref()?;
        (slot_of(slot.place(), place.uses) == slot && held.life == Life::Live).then_some(held)
    }

    /// Every live grant from place `from` on.
    pub(crate) fn live_from(&self, from: usize) -> impl Iterator<Item = (Slot, &Held)> {
        (self.places.iter().enumerate().take(self.used).skip(from)).filter_map(|(at, place)| {
            let held = place.held.as_ref()?;
            (held.life == Life::Live).then_some((slot_of(at, place.uses), held))
        })
    }

    /// The session of some live grant in a window.
    pub(crate) fn holder_in(&self, window: WindowNumber) -> Option<SessionId> {
        (self.live_from(0))
            .find_map(|(_, held)| (held.grant.window == window.0).then_some(held.session))
    }

    /// Installs a grant that was found valid.
    fn install(
        &mut self,
        limit: usize,
        session: SessionId,
        grant: &Grant,
    ) -> Result<(), GrantFault> {
        let held = || {
            self.places
                .iter()
                .take(self.used)
                .filter_map(|place| place.held.as_ref())
        };
        let duplicate = |held: &Held| {
            held.grant.id == grant.id
                || (held.life == Life::Live
                    && held.session == session
                    && held.grant.channel == grant.channel
                    && held.grant.part == grant.part)
        };
        if held().any(duplicate) {
            return Err(GrantFault::Duplicate);
        }
        if held().count() >= limit {
            return Err(GrantFault::Full);
        }
        let (at, place) = (self.places.iter_mut().enumerate())
            .find(|(_, place)| place.held.is_none() && place.uses < MAX_USES)
            .ok_or(GrantFault::Full)?;
        place.held = Some(Held {
            life: Life::Live,
            session,
            grant: *grant,
            answer: None,
            waited: Mark::new(),
        });
        self.used = self.used.max(at + 1);
        Ok(())
    }

    /// Ends a session's live grants.
    pub(crate) fn end_all_of(&mut self, session: SessionId) {
        for (at, place) in self.places.iter_mut().enumerate().take(self.used) {
            if let Some(held) = &mut place.held
                && held.session == session
                && held.life == Life::Live
            {
                held.life = Life::Ending;
                self.ending.insert(at);
            }
        }
    }

    /// The next slot to unmap.
    pub(crate) fn take_ending(&mut self) -> Option<Slot> {
        let at = self.ending.first()?;
        self.ending.remove(at);
        let place = self.places.get_mut(at)?;
        place.held.as_mut()?.life = Life::Unmapping;
        Some(slot_of(at, place.uses))
    }

    /// The next `REVOKED` to send, with its place.
    pub(crate) fn first_answer(&self) -> Option<(usize, SessionId, GrantId, Generation)> {
        let at = self.answering.first()?;
        let held = self.places.get(at)?.held.as_ref()?;
        Some((at, held.session, held.grant.id, held.answer?))
    }

    /// The `REVOKED` of this place was sent.
    pub(crate) fn answered(&mut self, at: usize) {
        self.answering.remove(at);
        self.free(at);
    }

    fn free(&mut self, at: usize) {
        if let Some(place) = self.places.get_mut(at) {
            place.held = None;
            place.uses += 1;
        }
    }
}

fn slot_of(place: usize, uses: u32) -> Slot {
    // Both fit: `place` is below `PLACES`, and `uses` below `MAX_USES`.
    Slot(u32::try_from(place).unwrap_or(u32::MAX) | uses << PLACES.ilog2())
}

impl Gate {
    /// A `GRANT` has arrived. One for a session that is not open has crossed its `CLOSE`.
    pub(crate) fn on_grant(&mut self, session: SessionId, grant: &Grant) -> Result<(), GrantFault> {
        let (Some(link), Some(open)) = (&self.link, self.sessions.get_mut(session)) else {
            return Ok(());
        };
        if open.stage != Stage::Open {
            return Ok(());
        }
        let window = (self.windows.entry(WindowNumber(grant.window))).ok_or(GrantFault::Window)?;
        let end = grant.offset.checked_add(grant.length);
        if grant.length == 0
            || !grant.offset.is_multiple_of(PAGE_BYTES)
            || !grant.length.is_multiple_of(PAGE_BYTES)
            || end.is_none_or(|end| end > window.bytes)
        {
            return Err(GrantFault::Range);
        }
        if grant.access.writable() && !window.access.writable() {
            return Err(GrantFault::Access);
        }
        let vectors = 1..link.head.vectors;
        if (grant.peer).is_some_and(|peer| !vectors.contains(&peer.vector.0)) {
            return Err(GrantFault::Vector);
        }
        if grant.expiry != 0 {
            return Err(GrantFault::Expiry);
        }
        if (self.revoked).covers(grant.channel, grant.part, grant.generation) {
            return Err(GrantFault::Revoked);
        }
        (self.grants).install(usize::from(link.head.max_grants), session, grant)?;
        open.granted = true;
        open.holds += 1;
        open.change();
        self.due.wake = true;
        Ok(())
    }

    /// A `REVOKE` has arrived. Whether the pages are already gone: then the caller answers.
    pub(crate) fn on_revoke(
        &mut self,
        session: SessionId,
        grant: GrantId,
        generation: Generation,
        reason: Reason,
    ) -> bool {
        let named = |place: &&mut Place| {
            (place.held.as_ref())
                .is_some_and(|held| held.session == session && held.grant.id == grant)
        };
        let used = self.grants.used;
        let Some((at, held)) = (self.grants.places.iter_mut().enumerate().take(used))
            .find(|(_, place)| named(place))
            .and_then(|(at, place)| Some((at, place.held.as_mut()?)))
        else {
            return true;
        };
        let (channel, part) = (held.grant.channel, held.grant.part);
        self.revoked.record(channel, part, generation);
        if generation < held.grant.generation {
            return true;
        }
        held.answer = Some(generation);
        if held.life == Life::Live {
            held.life = Life::Ending;
            self.grants.ending.insert(at);
            if let Some(open) = self.sessions.get_mut(session) {
                open.reason = Some(reason);
                open.change();
            }
            self.due.wake = true;
        }
        false
    }

    /// The pages of a slot are gone from every page table, as [`crate::Effect::Unmap`] asked.
    pub fn unmapped(&mut self, slot: Slot) {
        let at = slot.place();
        let Some(held) = (self.grants.places.get_mut(at)).and_then(|place| place.held.as_mut())
        else {
            return;
        };
        if held.life != Life::Unmapping {
            return;
        }
        if let Some(session) = self.sessions.get_mut(held.session) {
            session.holds -= 1;
        }
        if held.answer.is_some() {
            held.life = Life::Unmapped;
            self.grants.answering.insert(at);
        } else {
            self.grants.free(at);
        }
    }
}
