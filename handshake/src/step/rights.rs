//! Waits for the peer's descriptors, and compares each with its entry of the manifest.

use super::accepted::ExpectAccepted;
use super::{Outbox, State, VerifiedPeer};
use crate::link::LinkId;
use crate::peer::Action;
use crate::refusal::Step;
use crate::terms::{Arrived, EventfdFacts, MemfdFacts, ObjectFacts, Received};
use crate::wire::{ManifestEntry, Message, Rights, SliceEntry};

/// Why descriptors are not what the manifest says. Entries are numbered from 0.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RightsFault {
    /// Descriptors when none may come.
    #[error("peer: {count} descriptors came while waiting for {waiting}, when none may")]
    Uninvited {
        /// How many.
        count: usize,
        /// What was awaited.
        waiting: Step,
    },
    /// More descriptors than entries.
    #[error("peer: its manifest has {promised} entries, but {came} descriptors came")]
    Surplus {
        /// Entries.
        promised: usize,
        /// Descriptors.
        came: usize,
    },
    /// Fewer descriptors than `rights` messages say.
    #[error(
        "peer: it says that {announced} descriptors are sent, but {came} came: one was dropped on the way, or never sent"
    )]
    Missing {
        /// By the messages.
        announced: usize,
        /// Descriptors.
        came: usize,
    },
    /// A descriptor that belongs to another entry.
    #[error("peer: descriptor {at} is the one of entry {belongs} of its manifest")]
    Reordered {
        /// Its place.
        at: usize,
        /// Its entry.
        belongs: usize,
    },
    /// A descriptor of an object that the manifest doesn't name.
    #[error("peer: descriptor {at} is an object that its manifest doesn't name: {got:?}")]
    Substituted {
        /// Its place.
        at: usize,
        /// What it is.
        got: ObjectFacts,
    },
    /// A slice through which this side could write.
    #[error("peer: descriptor {at} is not read-only")]
    Writable {
        /// Its place.
        at: usize,
    },
    /// The right object, with another size, owner, group, mode or without a seal.
    #[error(
        "peer: descriptor {at} differs from its manifest in {field}: it has {got:#o}, the manifest says {want:#o} (octal)"
    )]
    Differs {
        /// Its place.
        at: usize,
        /// In what.
        field: &'static str,
        /// What the kernel says.
        got: u64,
        /// What the manifest says.
        want: u64,
    },
    /// An eventfd that is a semaphore, or blocks.
    #[error("peer: the doorbell in descriptor {at} {what}")]
    Doorbell {
        /// Its place.
        at: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// The descriptors that a peer has promised, and those that came.
#[derive(Debug)]
pub(super) struct Incoming<T> {
    promised: Vec<ManifestEntry>,
    came: Vec<Received<T>>,
    announced: usize,
}

impl<T> Incoming<T> {
    pub(super) const fn new(promised: Vec<ManifestEntry>) -> Self {
        Self {
            promised,
            came: Vec::new(),
            announced: 0,
        }
    }

    /// Takes descriptors in the order of their coming.
    pub(super) fn take(&mut self, rights: Vec<Arrived<T>>) -> Result<(), RightsFault> {
        let came = self.came.len() + rights.len();
        if came > self.promised.len() {
            return Err(RightsFault::Surplus {
                promised: self.promised.len(),
                came,
            });
        }
        for Arrived { descriptor, facts } in rights {
            let at = self.came.len();
            // The count above leaves an entry for each.
            if let Some(entry) = self.promised.get(at).copied() {
                self.compare(at, entry, facts)?;
                self.came.push(Received { entry, descriptor });
            }
        }
        Ok(())
    }

    fn compare(
        &self,
        at: usize,
        entry: ManifestEntry,
        facts: ObjectFacts,
    ) -> Result<(), RightsFault> {
        match (entry, facts) {
            (ManifestEntry::Slice(want), ObjectFacts::Memfd(got))
                if is_same_object(entry, facts) =>
            {
                compare_memfd(at, &want, &got)
            }
            (ManifestEntry::Doorbell { .. }, ObjectFacts::Eventfd(got))
                if is_same_object(entry, facts) =>
            {
                compare_eventfd(at, &got)
            }
            _ => {
                let mut entries = self.promised.iter();
                Err(
                    match entries.position(|other| is_same_object(*other, facts)) {
                        Some(belongs) => RightsFault::Reordered { at, belongs },
                        None => RightsFault::Substituted { at, got: facts },
                    },
                )
            }
        }
    }

    /// Takes a `rights` message. Its descriptors ride on its first byte, so they have come.
    fn announce(&mut self, rights: Rights) -> Result<(), RightsFault> {
        self.announced += rights.count();
        if self.announced > self.came.len() {
            return Err(RightsFault::Missing {
                announced: self.announced,
                came: self.came.len(),
            });
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.announced == self.promised.len()
    }
}

/// Whether a descriptor refers to the object that an entry names.
fn is_same_object(entry: ManifestEntry, facts: ObjectFacts) -> bool {
    match (entry, facts) {
        (ManifestEntry::Slice(want), ObjectFacts::Memfd(got)) => {
            (want.dev, want.ino) == (got.dev, got.ino)
        }
        (ManifestEntry::Doorbell { id }, ObjectFacts::Eventfd(got)) => id == got.id,
        _ => false,
    }
}

fn compare_memfd(at: usize, want: &SliceEntry, got: &MemfdFacts) -> Result<(), RightsFault> {
    if !got.read_only {
        return Err(RightsFault::Writable { at });
    }
    // Seals can be added, never removed: more of them than the manifest says are no fault.
    let seals = got.seals & want.seals;
    let fields = [
        ("size", got.bytes, want.bytes),
        ("seals", seals.into(), want.seals.into()),
        ("owner", got.uid.into(), want.uid.into()),
        ("group", got.gid.into(), want.gid.into()),
        ("mode", got.mode.into(), want.mode.into()),
    ];
    match fields.into_iter().find(|(_, got, want)| got != want) {
        None => Ok(()),
        Some((field, got, want)) => Err(RightsFault::Differs {
            at,
            field,
            got,
            want,
        }),
    }
}

const fn compare_eventfd(at: usize, got: &EventfdFacts) -> Result<(), RightsFault> {
    match (got.semaphore, got.nonblocking) {
        (true, _) => Err(RightsFault::Doorbell {
            at,
            what: "is a semaphore: its ringer would never be heard again",
        }),
        (_, false) => Err(RightsFault::Doorbell {
            at,
            what: "blocks: its ringer could be stopped",
        }),
        (false, true) => Ok(()),
    }
}

/// Both manifests are agreed; this side's descriptors are sent.
#[derive(Debug)]
pub(crate) struct ExpectRights<T> {
    pub(super) peer: VerifiedPeer,
    pub(super) link: LinkId,
    pub(super) instance: [u8; 16],
    pub(super) originals: Vec<T>,
    pub(super) incoming: Incoming<T>,
}

impl<T> ExpectRights<T> {
    pub(super) fn on_rights(
        mut self,
        rights: Rights,
        outbox: &mut Outbox<T>,
    ) -> Result<State<T>, RightsFault> {
        self.incoming.announce(rights)?;
        Ok(self.go_on(outbox))
    }

    /// Stays until all descriptors are in, then accepts them.
    pub(super) fn go_on(self, outbox: &mut Outbox<T>) -> State<T> {
        if !self.incoming.is_complete() {
            return State::Rights(self);
        }
        if !self.incoming.promised.is_empty() {
            outbox.ask(Action::DenyRights);
        }
        outbox.say(Message::Accepted);
        State::Accepted(ExpectAccepted {
            peer: self.peer,
            link: self.link,
            instance: self.instance,
            originals: self.originals,
            objects: self.incoming.came,
        })
    }
}
