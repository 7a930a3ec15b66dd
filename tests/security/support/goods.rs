//! What a device process gives: slices and a doorbell, with the lines of its manifest.

use std::os::fd::OwnedFd;

use sivshm_abi::grant::Generation;
use sivshm_device::args::Mode;
use sivshm_device::ids::VmIds;
use sivshm_device::slices;
use sivshm_handshake::wire::{ManifestEntry, SliceEntry};
use sivshm_policy::plan::{Peer, Plan};
use sivshm_sys::facts::{FdInfo, ObjectFacts};
use sivshm_sys::{clock, eventfd, memfd};

/// Descriptors and their lines, in the order that the plan wants.
#[derive(Debug)]
pub struct Goods {
    pub lines: Vec<ManifestEntry>,
    pub rights: Vec<OwnedFd>,
}

impl Goods {
    /// What the policy says that a VM gives to a peer, made as its device process would. Root only:
    /// a slice belongs to root.
    pub fn honest(plan: &Plan, peer: &Peer, ids: VmIds) -> Self {
        let generation = Generation(clock::since_boot().unwrap());
        let mut goods = Self {
            lines: Vec::new(),
            rights: Vec::new(),
        };
        for slice in &peer.gives {
            let ownership = slices::ownership(Mode::Production, ids);
            let bytes = plan.slice(*slice).unwrap().bytes;
            let file = memfd::create(c"impostor", bytes, ownership).unwrap();
            let file = memfd::reopen_read_only(&file).unwrap();
            let ObjectFacts::Memory(facts) = facts(&file) else {
                panic!("a memfd is something else");
            };
            goods.lines.push(ManifestEntry::Slice(SliceEntry {
                slice: *slice,
                bytes,
                generation,
                seals: facts.seals.bits(),
                uid: ownership.uid,
                gid: ownership.gid,
                mode: ownership.mode,
                dev: facts.device,
                ino: facts.inode,
            }));
            goods.rights.push(file);
        }
        let doorbell = eventfd::create().unwrap();
        let ObjectFacts::Doorbell(facts) = facts(&doorbell) else {
            panic!("an eventfd is something else");
        };
        goods.lines.push(ManifestEntry::Doorbell { id: facts.id });
        goods.rights.push(doorbell);
        goods
    }
}

/// What the kernel says of a descriptor.
pub fn facts(of: &OwnedFd) -> ObjectFacts {
    ObjectFacts::of(of, &FdInfo::open().unwrap()).unwrap()
}
