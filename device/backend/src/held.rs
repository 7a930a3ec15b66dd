//! Everything a device process holds from confinement to its end, in one struct (DESIGN section 5).

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::signalfd::SignalFd;
use sivshm_abi::directory::SliceId;
use sivshm_abi::grant::Generation;
use sivshm_handshake::Credentials;
use sivshm_policy::narrow::Narrowing;
use sivshm_policy::plan::{Digest, Plan, VmIndex};
use sivshm_sys::facts::FdInfo;
use sivshm_sys::map::Mapping;
use sivshm_sys::tick::Tick;

use crate::args::Config;
use crate::clock::Clock;
use crate::ids::{DomainIds, VmIds};

/// What was opened before confinement. No descriptor is opened after it, except connections, what
/// peers send and entries of [`Held::fdinfo`].
#[derive(Debug)]
pub struct Held {
    /// How the process was started.
    pub config: Config,
    /// The policy that the process was started with, compiled: what memory there is. A newer one
    /// only takes from it, and none of its numbers changes.
    pub plan: Plan,
    /// What a reload replaces.
    pub in_force: RefCell<InForce>,
    /// The VM that is served.
    pub me: VmIndex,
    /// Users and groups of all VMs of the plan.
    pub ids: DomainIds,
    /// Users and groups of the VM that is served.
    pub my_ids: VmIds,
    /// The slices that the VM writes, by slice number.
    pub slices: Vec<OwnSlice>,
    /// The control memory of the VM's port.
    pub control: ControlMemory,
    /// The VM's own vectors: 0 is rung by this process, `1 + i` by peer `i`.
    pub vectors: Vec<OwnedFd>,
    /// Rung by the guest to say "look at the guest-to-host ring": vector 0 of ring id 0.
    pub kick: OwnedFd,
    /// Bound, non-blocking sockets, listening after confinement.
    pub listeners: Listeners,
    /// The process's own descriptors' entries, the only files it can still open.
    pub fdinfo: FdInfo,
    /// The time by which SVIDs are judged.
    pub clock: Clock,
    /// Where records of the audit go; append-only.
    pub audit: File,
    /// SIGTERM and SIGINT, which are blocked.
    pub signals: SignalFd,
    /// Keeps dropped descriptors from making this process wait.
    pub tick: Tick,
    /// Random identifier of this run.
    pub instance: [u8; 16],
    /// Random identifier of the host's boot.
    pub host_boot: [u8; 16],
    /// The directory of peers' sockets, as this process sees it after confinement.
    pub peer_dir: PathBuf,
}

/// What a reload replaces while the process runs.
#[derive(Clone, Debug)]
pub struct InForce {
    /// SVID, key, trust bundle and revocation lists of this device process.
    pub credentials: Credentials,
    /// What a newer policy has taken from the plan; none while the plan itself is in force.
    pub narrowing: Option<Narrowing>,
}

impl Held {
    /// What this device process authenticates with, and judges others by, now.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.in_force.borrow().credentials.clone()
    }

    /// Serial number and digest of the policy in force: every `open` bears the serial.
    #[must_use]
    pub fn policy_in_force(&self) -> (u64, Digest) {
        match &self.in_force.borrow().narrowing {
            Some(newer) => (newer.serial, newer.digest),
            None => (self.plan.serial, self.plan.digest),
        }
    }

    /// Every descriptor in here. All fields are named, so that a new one can't be forgotten.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let Self {
            config: _,
            plan: _,
            in_force: _,
            me: _,
            ids: _,
            my_ids: _,
            slices,
            control: ControlMemory { file, mapping: _ },
            vectors,
            kick,
            listeners:
                Listeners {
                    peer,
                    port,
                    launch,
                    admin,
                },
            fdinfo,
            clock,
            audit,
            signals,
            tick: _,
            instance: _,
            host_boot: _,
            peer_dir: _,
        } = self;
        let mut all: Vec<_> = [file, kick, peer, port, launch, admin]
            .into_iter()
            .chain(vectors)
            .map(|fd| fd.as_fd())
            .collect();
        all.extend([
            fdinfo.as_fd(),
            clock.set.as_fd(),
            audit.as_fd(),
            signals.as_fd(),
        ]);
        for slice in slices {
            all.push(slice.file.as_fd());
            all.extend(slice.for_reader.iter().map(|(_, file)| file.as_fd()));
        }
        all
    }
}

/// A slice that the VM writes.
#[derive(Debug)]
pub struct OwnSlice {
    /// Its number in the plan.
    pub id: SliceId,
    /// Grows from one run of the device process to the next.
    pub generation: Generation,
    /// For the VM's own VMM: open for reading and writing.
    pub file: OwnedFd,
    /// For each reader VM: an open file of its own, read-only.
    pub for_reader: Vec<(VmIndex, OwnedFd)>,
}

/// The shared memory of the VM's port.
#[derive(Debug)]
pub struct ControlMemory {
    /// For the VMM: open for reading and writing.
    pub file: OwnedFd,
    /// Our own view, the only memory that this process maps.
    pub mapping: Mapping,
}

/// The four sockets of a device process.
#[derive(Debug)]
pub struct Listeners {
    /// Other VMs' device processes.
    pub peer: OwnedFd,
    /// The VM's own VMM.
    pub port: OwnedFd,
    /// Whoever starts the VMM.
    pub launch: OwnedFd,
    /// Operators.
    pub admin: OwnedFd,
}
