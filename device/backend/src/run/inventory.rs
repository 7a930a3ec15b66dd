//! What this device process has to give, with the lines that manifests need (DESIGN section 8).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use sivshm_abi::directory::SliceId;
use sivshm_handshake::Outgoing;
use sivshm_handshake::wire::{ManifestEntry, SliceEntry};
use sivshm_policy::plan::{Vm, VmIndex};
use sivshm_sys::facts::{FdInfo, ObjectFacts};

use crate::held::{Held, OwnSlice};
use crate::run::outbox::Right;

/// What was opened is not what the policy needs; the host is to blame.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The kernel does not say what an object is.
    #[error("host: can't look at a descriptor of this process")]
    Facts(#[from] io::Error),
    /// An object is missing or not of its kind.
    #[error("host: the device process was not given {0}; start it again")]
    Missing(String),
}

/// Own slices and doorbells, ready to be sent.
#[derive(Debug)]
pub struct Inventory<'h> {
    slices: BTreeMap<(SliceId, VmIndex), Outgoing<Right<'h>>>,
    doorbells: BTreeMap<VmIndex, Outgoing<Right<'h>>>,
}

impl<'h> Inventory<'h> {
    /// Looks at everything that the peers of `vm` are to get.
    ///
    /// # Errors
    /// Something that the policy needs is not there.
    pub fn new(held: &'h Held, vm: &Vm) -> Result<Self, InventoryError> {
        let mut inventory = Self {
            slices: BTreeMap::new(),
            doorbells: BTreeMap::new(),
        };
        for slice in &held.slices {
            for (reader, file) in &slice.for_reader {
                let line = slice_line(slice, file, &held.fdinfo)?;
                inventory.slices.insert((slice.id, *reader), line);
            }
        }
        for peer in &vm.peers {
            let vector = held.vectors.get(usize::from(peer.vector.0));
            let vector = vector.ok_or_else(|| missing("a vector for each peer"))?;
            let line = doorbell_line(vector, &held.fdinfo)?;
            inventory.doorbells.insert(peer.vm, line);
            for slice in &peer.gives {
                if !inventory.slices.contains_key(&(*slice, peer.vm)) {
                    return Err(missing(&format!("slice {} for each reader", slice.0)));
                }
            }
        }
        Ok(inventory)
    }

    /// A slice for one of its readers; an open file of that reader's own.
    #[must_use]
    pub fn slice(&self, slice: SliceId, reader: VmIndex) -> Option<Outgoing<Right<'h>>> {
        self.slices.get(&(slice, reader)).cloned()
    }

    /// The vector on which a peer rings this VM.
    #[must_use]
    pub fn doorbell(&self, peer: VmIndex) -> Option<Outgoing<Right<'h>>> {
        self.doorbells.get(&peer).cloned()
    }
}

fn missing(what: &str) -> InventoryError {
    InventoryError::Missing(what.to_owned())
}

fn slice_line<'h>(
    slice: &OwnSlice,
    file: &'h OwnedFd,
    fdinfo: &FdInfo,
) -> Result<Outgoing<Right<'h>>, InventoryError> {
    let ObjectFacts::Memory(facts) = ObjectFacts::of(file, fdinfo)? else {
        return Err(missing("slices that are memory files"));
    };
    let entry = ManifestEntry::Slice(SliceEntry {
        slice: slice.id,
        bytes: facts.bytes,
        generation: slice.generation,
        seals: facts.seals.bits(),
        uid: facts.ownership.uid,
        gid: facts.ownership.gid,
        mode: facts.ownership.mode,
        dev: facts.device,
        ino: facts.inode,
    });
    Ok(Outgoing {
        entry,
        original: Right::Own(file.as_fd()),
    })
}

fn doorbell_line<'h>(
    vector: &'h OwnedFd,
    fdinfo: &FdInfo,
) -> Result<Outgoing<Right<'h>>, InventoryError> {
    let ObjectFacts::Doorbell(facts) = ObjectFacts::of(vector, fdinfo)? else {
        return Err(missing("vectors that are eventfds"));
    };
    Ok(Outgoing {
        entry: ManifestEntry::Doorbell { id: facts.id },
        original: Right::Own(vector.as_fd()),
    })
}
