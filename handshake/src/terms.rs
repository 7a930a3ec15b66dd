//! What two device processes agree to exchange, and what really arrives.

use sivshm_abi::directory::SliceId;
use sivshm_abi::grant::Generation;

use crate::wire::{Contract, ManifestEntry};

/// Seals that every slice carries: `F_SEAL_SEAL`, `F_SEAL_SHRINK`, `F_SEAL_GROW`, `F_SEAL_EXEC`.
pub const REQUIRED_SEALS: u32 = 0x01 | 0x02 | 0x04 | 0x20;

/// Permission bits of every slice: its owner and the writer VM's group write, all others read.
pub const SLICE_MODE: u32 = 0o664;

/// A user identifier, as `SO_PEERCRED` or the plan gives it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PeerUid(pub u32);

/// The terms of one link: this side's half, and what the plan lets the peer send.
///
/// Made in one place only, where a [`crate::VerifiedPeer`] meets the plan (I3).
#[derive(Debug)]
pub struct LinkTerms<T> {
    /// Random identifier of this run of the device process.
    pub instance: [u8; 16],
    /// Random identifier of this boot of the host; the peer's must be the same.
    pub host_boot: [u8; 16],
    /// Serial number of the policy; the peer's must be the same.
    pub policy_serial: u64,
    /// The contract between the two VMs; the peer's must be the same.
    pub contract: Contract,
    /// What this side sends, in the order of sending.
    pub outgoing: Vec<Outgoing<T>>,
    /// What the peer must send, in the order of its sending.
    pub incoming: Vec<Expected>,
}

/// A descriptor to send.
#[derive(Clone, Debug)]
pub struct Outgoing<T> {
    /// Its line in the manifest.
    pub entry: ManifestEntry,
    /// The original. The machine keeps it until the peer has accepted its copy, because the kernel
    /// reuses the numbers by which the manifest names an object as soon as nobody holds it.
    pub original: T,
}

/// A descriptor that the plan says the peer sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expected {
    /// A slice that the peer's VM writes and this VM reads.
    Slice {
        /// Which.
        slice: SliceId,
        /// Its size, in bytes.
        bytes: u64,
        /// Its owner: root, or the one user of development mode.
        uid: u32,
        /// The peer VM's group.
        gid: u32,
        /// The lowest generation to accept: the highest ever seen of this slice.
        generation: Generation,
    },
    /// The eventfd that rings the peer's VM.
    Doorbell,
}

/// A descriptor that came, with what the kernel says about it.
#[derive(Debug)]
pub struct Arrived<T> {
    /// The descriptor. Dropped when the link is refused.
    pub descriptor: T,
    /// What it is.
    pub facts: ObjectFacts,
}

/// What the kernel says about a descriptor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ObjectFacts {
    /// A memfd of ordinary pages. (One of huge pages is [`Self::Other`].)
    Memfd(MemfdFacts),
    /// An eventfd.
    Eventfd(EventfdFacts),
    /// Anything else.
    Other,
}

/// Facts about a memfd, from `fstat`, `F_GET_SEALS` and `F_GETFL`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MemfdFacts {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
    /// `st_size`.
    pub bytes: u64,
    /// Seals.
    pub seals: u32,
    /// Whether the descriptor is open for reading and for nothing else.
    pub read_only: bool,
    /// `st_uid`.
    pub uid: u32,
    /// `st_gid`.
    pub gid: u32,
    /// `st_mode & 0o7777`.
    pub mode: u32,
}

/// Facts about an eventfd, from its fdinfo and `F_GETFL`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EventfdFacts {
    /// `eventfd-id`.
    pub id: u64,
    /// Whether it is a semaphore.
    pub semaphore: bool,
    /// Whether `O_NONBLOCK` is set.
    pub nonblocking: bool,
}

/// A descriptor that came and is what the manifest and the plan say.
#[derive(Debug)]
pub struct Received<T> {
    /// Its line in the peer's manifest.
    pub entry: ManifestEntry,
    /// The descriptor.
    pub descriptor: T,
}
