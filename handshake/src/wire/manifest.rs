//! `manifest`: which descriptors will come.

use sivshm_abi::directory::SliceId;
use sivshm_abi::grant::Generation;
use sivshm_abi::wire::{Malformed, Reader};

use crate::limits::MAX_MANIFEST_ENTRIES;

/// A memfd as its creator describes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SliceEntry {
    /// Which slice of the plan.
    pub slice: SliceId,
    /// Bytes.
    pub bytes: u64,
    /// Generation of the slice.
    pub generation: Generation,
    /// Seals, as `F_GET_SEALS` gives them.
    pub seals: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits, `st_mode & 0o7777`.
    pub mode: u32,
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// One descriptor that will come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ManifestEntry {
    /// A slice that the sender's VM writes and the receiver's VM reads.
    Slice(SliceEntry),
    /// The eventfd by which the receiver's VM rings the sender's.
    Doorbell {
        /// `eventfd-id` of its fdinfo.
        id: u64,
    },
}

impl ManifestEntry {
    /// Bytes of the longest entry: a slice's, with its tag.
    pub const MAX_BYTES: usize = 1 + 4 + 8 + 8 + 4 * 4 + 8 + 8;

    const SLICE: u8 = 1;
    const DOORBELL: u8 = 2;

    pub(super) fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Slice(slice) => {
                to.push(Self::SLICE);
                to.extend(slice.slice.0.to_le_bytes());
                to.extend(slice.bytes.to_le_bytes());
                to.extend(slice.generation.0.to_le_bytes());
                for field in [slice.seals, slice.uid, slice.gid, slice.mode] {
                    to.extend(field.to_le_bytes());
                }
                to.extend(slice.dev.to_le_bytes());
                to.extend(slice.ino.to_le_bytes());
            }
            Self::Doorbell { id } => {
                to.push(Self::DOORBELL);
                to.extend(id.to_le_bytes());
            }
        }
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8("manifest.entry")? {
            Self::SLICE => Ok(Self::Slice(SliceEntry {
                slice: SliceId(from.u32("manifest.slice")?),
                bytes: from.u64("manifest.bytes")?,
                generation: Generation(from.u64("manifest.generation")?),
                seals: from.u32("manifest.seals")?,
                uid: from.u32("manifest.uid")?,
                gid: from.u32("manifest.gid")?,
                mode: from.u32("manifest.mode")?,
                dev: from.u64("manifest.dev")?,
                ino: from.u64("manifest.ino")?,
            })),
            Self::DOORBELL => Ok(Self::Doorbell {
                id: from.u64("manifest.eventfd")?,
            }),
            _ => Err(Malformed::BadValue("manifest.entry")),
        }
    }
}

/// `manifest`: which descriptors will come, in the order of their coming.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Manifest {
    // At most MAX_MANIFEST_ENTRIES.
    entries: Vec<ManifestEntry>,
}

impl Manifest {
    /// Makes a manifest.
    ///
    /// # Errors
    /// More than [`MAX_MANIFEST_ENTRIES`] entries.
    pub fn new(entries: Vec<ManifestEntry>) -> Result<Self, Malformed> {
        if entries.len() > MAX_MANIFEST_ENTRIES {
            return Err(Self::TOO_MANY);
        }
        Ok(Self { entries })
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[ManifestEntry] {
        &self.entries
    }

    /// The entries, taken out.
    #[must_use]
    pub fn into_entries(self) -> Vec<ManifestEntry> {
        self.entries
    }

    const TOO_MANY: Malformed = Malformed::TooMany {
        what: "manifest entries",
        max: MAX_MANIFEST_ENTRIES,
    };

    pub(super) fn write(&self, to: &mut Vec<u8>) {
        // `new` and `read` bound the number of entries below the largest u16.
        let count = u16::try_from(self.entries.len()).unwrap_or(u16::MAX);
        to.extend(count.to_le_bytes());
        self.entries.iter().for_each(|entry| entry.write(to));
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let count = usize::from(from.u16("manifest.count")?);
        if count > MAX_MANIFEST_ENTRIES {
            return Err(Self::TOO_MANY);
        }
        let entries = (0..count).map(|_| ManifestEntry::read(from));
        Ok(Self {
            entries: entries.collect::<Result<_, _>>()?,
        })
    }
}
