//! The compiled policy: pure data that every other part of SIVSHM acts on (DESIGN section 13).
//!
//! Everything here is derived from the policy file and from nothing else, in an order that does
//! not depend on the file's: two hosts that compile the same policy get the same plan, the same
//! numbers and the same digests.

use sivshm_abi::directory::SliceId;
use sivshm_abi::grant::{Access, Kind, Part, Vector};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::{ChannelName, ServiceName, TrustDomain, VmName};

/// A compiled policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The policy's serial number.
    pub serial: u64,
    /// All VMs, sorted by name.
    pub vms: Vec<Vm>,
    /// All slices; a slice's number is its index.
    pub slices: Vec<Slice>,
    /// All channels, sorted by name.
    pub channels: Vec<Channel>,
    /// Digest of the canonical bytes of all that the policy decides (`docs/policy.md`); windows,
    /// peers, vectors and grants follow from it.
    pub digest: Digest,
}

/// SHA-256 of canonical bytes. Displays as hexadecimal.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Digest(pub [u8; 32]);

/// Index of a VM in [`Plan::vms`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VmIndex(pub u16);

/// Index of a channel in [`Plan::channels`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ChannelIndex(pub u16);

/// One VM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Vm {
    /// Its name.
    pub name: VmName,
    /// What happens when its guest does not let go of what was taken from it.
    pub uncontained: Uncontained,
    /// Its services, sorted by name.
    pub services: Vec<Service>,
    /// Its windows, by slice number; a window's number is its index.
    pub windows: Vec<Window>,
    /// The VMs that it shares a channel with, sorted by name. Peer `i` rings vector `1 + i`.
    pub peers: Vec<Peer>,
}

/// What happens to a VM whose guest does not acknowledge in time that revoked pages are gone
/// (DESIGN section 9).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Uncontained {
    /// `sivshm status` shows it as not contained.
    #[default]
    Show,
    /// Its VMM is ended.
    EndVmm,
}

/// One service of a VM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Its name within the VM.
    pub name: ServiceName,
    /// What the guest kernel must attest about its process.
    pub process: Process,
    /// The grants that its session gets: its end of every channel it takes part in.
    pub grants: Vec<PlannedGrant>,
}

/// Facts about a process. No two services of a VM can match the same process.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Process {
    /// Effective user identifier in the guest.
    pub uid: u32,
    /// SHA-256 of the executable; anything if absent.
    pub exe_sha256: Option<Digest>,
}

/// One granted range of a service, before it has a number and a generation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PlannedGrant {
    /// The channel.
    pub channel: ChannelIndex,
    /// Which part of it.
    pub part: Part,
    /// What the holder may do.
    pub access: Access,
    /// Index into the VM's windows.
    pub window: u16,
    /// First byte within the slice.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Index into the VM's peers of the VM at the other end; none for a writer's `Data`.
    pub peer: Option<u16>,
}

/// A slice as one VM sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// The slice.
    pub slice: SliceId,
    /// Read-write for the slice's writer.
    pub access: Access,
}

/// A VM that another one shares channels with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Which VM.
    pub vm: VmIndex,
    /// The own vector on which it rings.
    pub vector: Vector,
    /// Digest of the contract between the two, the same on both sides.
    pub contract: Digest,
    /// Slices of this VM that the peer reads, sorted.
    pub gives: Vec<SliceId>,
    /// Slices of the peer that this VM reads, sorted.
    pub takes: Vec<SliceId>,
}

/// One memory with one writer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Slice {
    /// The only VM that may store to it.
    pub writer: VmIndex,
    /// The VMs that may load from it, sorted.
    pub readers: Vec<VmIndex>,
    /// Bytes; a power of two.
    pub bytes: u64,
    /// Who uses which part of it, sorted by offset, without overlap.
    pub ranges: Vec<Range>,
}

/// A part of a channel inside a slice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Range {
    /// The channel.
    pub channel: ChannelIndex,
    /// Which part of it.
    pub part: Part,
    /// First byte; a multiple of the page size.
    pub offset: u64,
    /// Bytes; a multiple of the page size.
    pub length: u64,
}

/// One end of a channel.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceRef {
    /// The VM.
    pub vm: VmIndex,
    /// The service within the VM.
    pub service: ServiceName,
}

/// One channel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Channel {
    /// Its name.
    pub name: ChannelName,
    /// The service that writes.
    pub from: ServiceRef,
    /// The services that read, sorted; a reader's number is its index.
    pub to: Vec<ServiceRef>,
    /// Kind and geometry.
    pub kind: Kind,
    /// Size as the policy states it, in bytes, its slice's lines included.
    pub bytes: u64,
}

impl Plan {
    /// Finds a VM by name.
    #[must_use]
    pub fn vm(&self, name: VmName) -> Option<(VmIndex, &Vm)> {
        let at = self.vms.binary_search_by(|vm| vm.name.cmp(&name)).ok()?;
        Some((VmIndex(u16::try_from(at).ok()?), self.vms.get(at)?))
    }

    /// The VM with an index.
    #[must_use]
    pub fn vm_at(&self, index: VmIndex) -> Option<&Vm> {
        self.vms.get(usize::from(index.0))
    }

    /// The slice with a number.
    #[must_use]
    pub fn slice(&self, id: SliceId) -> Option<&Slice> {
        self.slices.get(usize::try_from(id.0).ok()?)
    }

    /// The channel with an index.
    #[must_use]
    pub fn channel(&self, index: ChannelIndex) -> Option<&Channel> {
        self.channels.get(usize::from(index.0))
    }

    /// Finds a channel by name.
    #[must_use]
    pub fn channel_named(&self, name: ChannelName) -> Option<(ChannelIndex, &Channel)> {
        let found = self.channels.binary_search_by(|own| own.name.cmp(&name));
        let at = found.ok()?;
        Some((
            ChannelIndex(u16::try_from(at).ok()?),
            self.channels.get(at)?,
        ))
    }

    /// The SPIFFE ID of a VM's device process.
    #[must_use]
    pub fn device_id(&self, vm: &Vm) -> SpiffeId {
        SpiffeId {
            domain: self.trust_domain,
            subject: Subject::Device(vm.name),
        }
    }
}

impl Uncontained {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Show, Self::EndVmm];

    /// The word of the policy.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Show => "show",
            Self::EndVmm => "end-vmm",
        }
    }
}

impl Process {
    /// Whether some process satisfies both conditions.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let executables = match (self.exe_sha256, other.exe_sha256) {
            (Some(one), Some(another)) => one == another,
            _ => true,
        };
        self.uid == other.uid && executables
    }
}

impl Digest {
    /// Reads what [`std::fmt::Display`] writes; none if it is anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return None;
        };
        let nibble = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = pairs
            .iter()
            .map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?))
            .collect();
        Some(Self(bytes?.try_into().ok()?))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Digest({self})")
    }
}
