//! Waits for the peer's `manifest`, and compares it with the plan.

use sivshm_abi::directory::SliceId;
use sivshm_abi::grant::Generation;

use super::ready::ExpectReady;
use super::rights::Incoming;
use super::{Outbox, State, VerifiedPeer};
use crate::link::LinkId;
use crate::peer::Action;
use crate::terms::{Expected, REQUIRED_SEALS, SLICE_MODE};
use crate::wire::{Manifest, ManifestEntry, Message, SliceEntry};

/// Why a manifest is not what the plan says. Every fault but the first names the entry, from 0.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ManifestFault {
    /// Entries are missing or too many.
    #[error("peer: its manifest has {got} entries, the plan {want}")]
    Count {
        /// In the manifest.
        got: usize,
        /// In the plan.
        want: usize,
    },
    /// Something else than planned in this place.
    #[error("peer: entry {at} of its manifest is {got:?}, the plan says {want:?}")]
    Other {
        /// Which entry.
        at: usize,
        /// In the manifest.
        got: ManifestEntry,
        /// In the plan.
        want: Expected,
    },
    /// A slice of another size.
    #[error("peer: slice {} in entry {at} of its manifest has {got} bytes, the plan says {want}", slice.0)]
    Bytes {
        /// Which entry.
        at: usize,
        /// Which slice.
        slice: SliceId,
        /// In the manifest.
        got: u64,
        /// In the plan.
        want: u64,
    },
    /// A slice that could still change its size or be made executable.
    #[error("peer: slice {} in entry {at} of its manifest has seals {got:#x}, {REQUIRED_SEALS:#x} are required", slice.0)]
    Seals {
        /// Which entry.
        at: usize,
        /// Which slice.
        slice: SliceId,
        /// In the manifest.
        got: u32,
    },
    /// A slice that others could write, or whose owner could let them.
    #[error("peer: slice {} in entry {at} of its manifest belongs to {}:{} with mode {:o}, the plan says {}:{} with mode {SLICE_MODE:o}", slice.0, got.0, got.1, got.2, want.0, want.1)]
    Ownership {
        /// Which entry.
        at: usize,
        /// Which slice.
        slice: SliceId,
        /// Owner, group and mode in the manifest.
        got: (u32, u32, u32),
        /// Owner and group in the plan.
        want: (u32, u32),
    },
    /// A slice from before the last one of this number.
    #[error("peer: slice {} in entry {at} of its manifest has generation {}, but {} was seen already", slice.0, got.0, seen.0)]
    Generation {
        /// Which entry.
        at: usize,
        /// Which slice.
        slice: SliceId,
        /// In the manifest.
        got: Generation,
        /// Seen before.
        seen: Generation,
    },
}

/// The hellos agree; this side's manifest is sent.
#[derive(Debug)]
pub(crate) struct ExpectManifest<T> {
    pub(super) peer: VerifiedPeer,
    pub(super) link: LinkId,
    pub(super) instance: [u8; 16],
    pub(super) originals: Vec<T>,
    pub(super) expected: Vec<Expected>,
}

impl<T> ExpectManifest<T> {
    pub(super) fn on_manifest(
        self,
        manifest: Manifest,
        outbox: &mut Outbox<T>,
    ) -> Result<State<T>, ManifestFault> {
        let promised = manifest.into_entries();
        compare(&promised, &self.expected)?;
        if !promised.is_empty() {
            let count = promised.len();
            outbox.ask(Action::AllowRights { count });
        }
        outbox.say(Message::Ready);
        Ok(State::Ready(ExpectReady {
            peer: self.peer,
            link: self.link,
            instance: self.instance,
            originals: self.originals,
            incoming: Incoming::new(promised),
        }))
    }
}

fn compare(promised: &[ManifestEntry], expected: &[Expected]) -> Result<(), ManifestFault> {
    if promised.len() != expected.len() {
        return Err(ManifestFault::Count {
            got: promised.len(),
            want: expected.len(),
        });
    }
    for (at, (got, want)) in promised.iter().zip(expected).enumerate() {
        compare_entry(at, *got, *want)?;
    }
    Ok(())
}

fn compare_entry(at: usize, got: ManifestEntry, want: Expected) -> Result<(), ManifestFault> {
    match (got, want) {
        (ManifestEntry::Doorbell { .. }, Expected::Doorbell) => Ok(()),
        (
            ManifestEntry::Slice(entry),
            Expected::Slice {
                slice,
                bytes,
                uid,
                gid,
                generation,
            },
        ) if entry.slice == slice => compare_slice(at, &entry, bytes, (uid, gid), generation),
        (got, want) => Err(ManifestFault::Other { at, got, want }),
    }
}

fn compare_slice(
    at: usize,
    entry: &SliceEntry,
    bytes: u64,
    owner: (u32, u32),
    seen: Generation,
) -> Result<(), ManifestFault> {
    let slice = entry.slice;
    if entry.bytes != bytes {
        return Err(ManifestFault::Bytes {
            at,
            slice,
            got: entry.bytes,
            want: bytes,
        });
    }
    if entry.seals & REQUIRED_SEALS != REQUIRED_SEALS {
        return Err(ManifestFault::Seals {
            at,
            slice,
            got: entry.seals,
        });
    }
    if (entry.uid, entry.gid) != owner || entry.mode != SLICE_MODE {
        return Err(ManifestFault::Ownership {
            at,
            slice,
            got: (entry.uid, entry.gid, entry.mode),
            want: owner,
        });
    }
    if entry.generation < seen {
        return Err(ManifestFault::Generation {
            at,
            slice,
            got: entry.generation,
            seen,
        });
    }
    Ok(())
}
