//! Sessions: one for each open file of the guest device (DESIGN sections 2 and 10, I4).

use sivshm_abi::frame::{Facts, Payload, Reason, SessionId};
use sivshm_abi::limits::MAX_SESSIONS;

use crate::Gate;
use crate::errno::Errno;
use crate::stream::Stream;

/// Identity of an address space. The shim keeps it referenced while the session lives, so that no
/// other gets the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mm(pub u64);

/// Identity of a table of open files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Files(pub u64);

/// Who opened a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Owner {
    /// Whose pages may map its grants.
    pub mm: Mm,
    /// Whose close of the file ends it.
    pub files: Files,
}

/// Most sessions of one user at a time: the one it uses, and others that are being closed or
/// refused while it restarts. An eighth of all, so that no user takes the places of others.
pub(crate) const MAX_SESSIONS_PER_USER: usize = MAX_SESSIONS / 8;

/// How far a session has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// The place is unused.
    Free,
    /// `OPEN` is to be sent.
    Announcing,
    /// The device process knows it.
    Open,
    /// Its grants are leaving page tables; then `CLOSE` is to be sent.
    Ending,
    /// The device process knows that it has ended; the file is still there.
    Closed,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) number: SessionId,
    pub(crate) stage: Stage,
    pub(crate) owner: Owner,
    pub(crate) facts: Facts,
    /// Whether a grant has ever arrived.
    pub(crate) granted: bool,
    /// Slots that are live or not out of page tables yet.
    pub(crate) holds: u32,
    /// Whether the file is gone.
    pub(crate) released: bool,
    /// Why it, or the last of its grants that ended, has ended.
    pub(crate) reason: Option<Reason>,
    /// Counts changes of its state and of its list of grants.
    pub(crate) changes: u64,
    /// `changes` when they were last listed.
    pub(crate) listed: u64,
}

impl Session {
    const FREE: Self = Self {
        number: SessionId(0),
        stage: Stage::Free,
        owner: Owner {
            mm: Mm(0),
            files: Files(0),
        },
        facts: Facts {
            pid: 0,
            uid: 0,
            gid: 0,
            exe_sha256: None,
        },
        granted: false,
        holds: 0,
        released: false,
        reason: None,
        changes: 0,
        listed: 0,
    };

    /// Whether grants may be used.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Announcing | Stage::Open)
    }

    pub(crate) fn change(&mut self) {
        self.changes = self.changes.wrapping_add(1);
    }

    /// The device process knows that the session has ended.
    pub(crate) fn closed(&mut self) {
        self.stage = if self.released {
            Stage::Free
        } else {
            Stage::Closed
        };
    }
}

/// All sessions. Number `n` has place `n % MAX_SESSIONS`.
#[derive(Debug)]
pub(crate) struct Sessions {
    places: [Session; MAX_SESSIONS],
    /// By place; apart, so that no copy of a session is one of its bytes.
    streams: [Stream; MAX_SESSIONS],
    /// Numbers are given out upwards from here.
    next: u32,
}

impl Sessions {
    pub(crate) const fn new() -> Self {
        Self {
            places: [const { Session::FREE }; MAX_SESSIONS],
            streams: [const { Stream::new() }; MAX_SESSIONS],
            next: 0,
        }
    }

    /// Starts numbers at random: frames meant for a session of an earlier driver find none.
    pub(crate) fn start_numbers_at(&mut self, boot: &[u8; 16]) {
        let [a, b, c, d, ..] = *boot;
        self.next = u32::from_le_bytes([a, b, c, d]);
    }

    /// The session of this number, from its opening until its file is gone.
    pub(crate) fn get(&self, number: SessionId) -> Option<&Session> {
        let place = self.places.get(place_of(number))?;
        (place.stage != Stage::Free && place.number == number).then_some(place)
    }

    pub(crate) fn get_mut(&mut self, number: SessionId) -> Option<&mut Session> {
        let place = self.places.get_mut(place_of(number))?;
        (place.stage != Stage::Free && place.number == number).then_some(place)
    }

    /// The stream of the session of this number.
    pub(crate) fn stream(&self, number: SessionId) -> Option<&Stream> {
        self.get(number)?;
        self.streams.get(place_of(number))
    }

    pub(crate) fn stream_mut(&mut self, number: SessionId) -> Option<&mut Stream> {
        self.get(number)?;
        self.streams.get_mut(place_of(number))
    }

    /// The stream of the session of this number, if the device process knows the session.
    pub(crate) fn open_stream(&mut self, number: SessionId) -> Option<&mut Stream> {
        let open = self.get(number)?.stage == Stage::Open;
        self.stream_mut(number).filter(|_| open)
    }

    /// The first session about which the device process is to be told something, and what. New
    /// ones wait for `complete` windows: their grants could not be mapped.
    pub(crate) fn first_owed(&self, complete: bool) -> Option<(SessionId, Payload<'static>)> {
        let owed = |(session, stream): (&Session, &Stream)| {
            let payload = match session.stage {
                Stage::Announcing if complete => Payload::Open(session.facts),
                Stage::Open => Payload::Ring {
                    credit: stream.due()?,
                },
                Stage::Ending if session.holds == 0 => {
                    Payload::Close(session.reason.unwrap_or(Reason::Closed))
                }
                _ => return None,
            };
            Some((session.number, payload))
        };
        self.places.iter().zip(&self.streams).find_map(owed)
    }

    /// The device process has been told what [`Self::first_owed`] said, or nobody is left to be
    /// told. Whether the session can send from now on.
    pub(crate) fn told(&mut self, number: SessionId, what: &Payload<'_>) -> bool {
        if let Payload::Ring { .. } = what {
            if let Some(stream) = self.stream_mut(number) {
                stream.given();
            }
            return false;
        }
        let Some(session) = self.get_mut(number) else {
            return false;
        };
        let opened = session.stage == Stage::Announcing;
        if opened {
            session.stage = Stage::Open;
        } else {
            session.closed();
        }
        opened
    }

    /// The first live session, if there is one.
    pub(crate) fn first_live(&self) -> Option<SessionId> {
        (self.places.iter()).find_map(|session| session.is_live().then_some(session.number))
    }

    fn open(&mut self, limit: usize, owner: Owner, facts: Facts) -> Result<SessionId, Errno> {
        let used = || (self.places.iter()).filter(|session| session.stage != Stage::Free);
        let of_user = used().filter(|session| session.facts.uid == facts.uid);
        if used().count() >= limit || of_user.count() >= MAX_SESSIONS_PER_USER {
            return Err(Errno::TooManySessions);
        }
        // The next numbers have each place once; number 0 is the connection itself.
        for _ in 0..=MAX_SESSIONS {
            let number = SessionId(self.next);
            self.next = self.next.wrapping_add(1);
            let place = (self.places.get_mut(place_of(number))).ok_or(Errno::TooManySessions)?;
            if place.stage == Stage::Free && number.0 != 0 {
                *place = Session {
                    number,
                    stage: Stage::Announcing,
                    owner,
                    facts,
                    ..Session::FREE
                };
                if let Some(stream) = self.streams.get_mut(place_of(number)) {
                    stream.restart();
                }
                return Ok(number);
            }
        }
        Err(Errno::TooManySessions)
    }
}

const fn place_of(number: SessionId) -> usize {
    number.0 as usize % MAX_SESSIONS
}

impl Gate {
    /// Opens a session for the process that `facts` describe. Effects are due afterwards.
    ///
    /// # Errors
    /// [`Errno::NoDevice`] without a port, [`Errno::TooManySessions`] over the VM's or the user's
    /// number of sessions.
    pub fn open(&mut self, owner: Owner, facts: Facts) -> Result<SessionId, Errno> {
        let link = self.link.as_ref().ok_or(Errno::NoDevice)?;
        (self.sessions).open(usize::from(link.head.max_sessions), owner, facts)
    }

    /// Some table of open files has closed the session's file: if it is the owner's, the session
    /// ends. Effects are due afterwards; carry them out before the close returns.
    pub fn close(&mut self, session: SessionId, by: Files) {
        if (self.sessions.get(session)).is_some_and(|open| open.owner.files == by) {
            self.end_session(session, Reason::Closed);
        }
    }

    /// The session's file is gone: no call names the session again. Effects are due afterwards.
    pub fn release(&mut self, session: SessionId) {
        self.end_session(session, Reason::Closed);
        if let Some(open) = self.sessions.get_mut(session) {
            open.released = true;
            if open.stage == Stage::Closed {
                open.closed();
            }
        }
    }

    /// Ends a session and all its grants, unless it has ended already.
    pub(crate) fn end_session(&mut self, number: SessionId, reason: Reason) {
        let Some(session) = self.sessions.get_mut(number) else {
            return;
        };
        match session.stage {
            // The device process has never heard of it.
            Stage::Announcing => session.closed(),
            Stage::Open => session.stage = Stage::Ending,
            Stage::Free | Stage::Ending | Stage::Closed => return,
        }
        session.reason = Some(reason);
        session.change();
        self.grants.end_all_of(number);
        self.due.wake = true;
    }
}
