// SPDX-License-Identifier: GPL-2.0
//! Mappings of granted ranges, and the peers at their other ends.

use sivshm_abi::grant::GrantId;
use sivshm_gate::{Placement, Slot, Wanted};

use crate::{BELLS, RawCaller, place, reading, store};

/// `struct sivshm_gate_placement`.
#[repr(C)]
pub struct RawPlacement {
    offset: u64,
    window: u32,
    place: u32,
    writable: u32,
    reserved: u32,
}

impl RawPlacement {
    /// `asked` is the `mmap` offset that was asked for.
    fn new(placement: Placement, asked: u64) -> Self {
        Self {
            offset: placement.offset,
            window: placement.window.0.into(),
            place: Slot::at(asked).map_or(0, place),
            writable: placement.writable.into(),
            reserved: 0,
        }
    }
}

/// `struct sivshm_gate_bell`.
#[repr(C)]
pub struct RawBell {
    vector: u32,
    place: u32,
}

/// Whether a range may be mapped, and what it is.
///
/// # Safety
/// `sivshm_gate_lock` is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_map(
    caller: &RawCaller,
    offset: u64,
    length: u64,
    write: bool,
    exec: bool,
    shared: bool,
    to: &mut RawPlacement,
) -> i32 {
    let wanted = Wanted {
        write,
        exec,
        shared,
    };
    // SAFETY: the lock is held.
    let placement = unsafe { reading() }.map(caller.parse(), offset, length, wanted);
    store(placement.map(|found| RawPlacement::new(found, offset)), to)
}

/// Whether a range's pages may enter a page table now, and what they are.
///
/// # Safety
/// `sivshm_gate_lock` is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_fault(
    caller: &RawCaller,
    offset: u64,
    length: u64,
    write: bool,
    to: &mut RawPlacement,
) -> i32 {
    // SAFETY: the lock is held.
    let placement = unsafe { reading() }.fault(caller.parse(), offset, length, write);
    store(placement.map(|found| RawPlacement::new(found, offset)), to)
}

/// What to write to the doorbell register to ring the peer of a grant.
///
/// # Safety
/// `sivshm_gate_lock` is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_notify(
    caller: &RawCaller,
    grant: u32,
    doorbell: &mut u32,
) -> i32 {
    // SAFETY: the lock is held.
    let rung = unsafe { reading() }.notify(caller.parse(), GrantId(grant));
    store(rung.map(|rung| rung.value()), doorbell)
}

/// The vector on which the peer of a grant rings.
///
/// # Safety
/// `sivshm_gate_lock` is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_bell(caller: &RawCaller, grant: u32, to: &mut RawBell) -> i32 {
    // SAFETY: the lock is held.
    let bell = unsafe { reading() }.bell_of(caller.parse(), GrantId(grant));
    let raw = bell.map(|(slot, vector)| RawBell {
        vector: vector.0.into(),
        place: place(slot),
    });
    store(raw, to)
}

/// How often the peer of a grant has rung, if that is not `*count`.
///
/// # Safety
/// `sivshm_gate_lock` is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_rings(caller: &RawCaller, grant: u32, count: &mut u64) -> i32 {
    // SAFETY: the lock is held.
    let rings = unsafe { reading() }.rings(caller.parse(), GrantId(grant), *count, &BELLS);
    store(rings, count)
}
