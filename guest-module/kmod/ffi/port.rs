// SPDX-License-Identifier: GPL-2.0
//! The port, its windows and its frames.

use core::ptr::NonNull;

use sivshm_abi::directory::PciPlace;
use sivshm_abi::grant::Vector;
use sivshm_gate::{Effect, Slot, WindowNumber};
use sivshm_ring::Shared;

use crate::{BELLS, code, place, reading, writing};

/// `struct sivshm_gate_effect`; `kind` is one of the constants below.
#[repr(C)]
pub struct RawEffect {
    kind: u32,
    /// The slot, or the value for the doorbell register.
    value: u32,
    /// Of the slot.
    place: u32,
    reserved: u32,
    /// First `mmap` offset of the slot.
    offset: u64,
    /// Words for the log, not terminated.
    words: *const u8,
    length: usize,
}

const UNMAP: u32 = 1;
const WAKE: u32 = 2;
const RING: u32 = 3;
const REPORT: u32 = 4;

/// Binds the port.
///
/// # Safety
/// `sivshm_gate_lock` is held for writing. `control` is the address of `bytes` bytes that stay
/// mapped, and are touched by the gate alone, until `sivshm_gate_detach` has returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_attach(
    control: NonNull<u8>,
    bytes: usize,
    boot: &[u8; 16],
) -> i32 {
    // SAFETY: the caller's promise; the gate drops every copy when it is detached.
    let control = unsafe { Shared::new(control, bytes) };
    // SAFETY: the lock is held for writing.
    code(unsafe { writing() }.attach(control, *boot))
}

/// Lets go of the port.
///
/// # Safety
/// `sivshm_gate_lock` is held for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_detach() {
    // SAFETY: the lock is held for writing.
    unsafe { writing() }.detach();
}

/// Vectors of the port; 0 without one.
///
/// # Safety
/// `sivshm_gate_lock` is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_vectors() -> u32 {
    // SAFETY: the lock is held.
    (unsafe { reading() }.directory()).map_or(0, |head| head.vectors.into())
}

/// Which window a PCI function is: its number, or a negative errno.
///
/// # Safety
/// `sivshm_gate_lock` is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_find(root: u8, function: u8, bytes: u64) -> i32 {
    // SAFETY: the lock is held.
    let found = unsafe { reading() }.find(PciPlace { root, function }, bytes);
    found.map_or_else(|errno| -errno.code(), |window| window.0.into())
}

/// Claims a window, whose memory is ready to be mapped.
///
/// # Safety
/// `sivshm_gate_lock` is held for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_claim(window: u16, bytes: u64, bar: u64) -> i32 {
    // SAFETY: the lock is held for writing.
    code(unsafe { writing() }.claim(WindowNumber(window), bytes, bar))
}

/// Gives a window up.
///
/// # Safety
/// `sivshm_gate_lock` is held for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_unclaim(window: u16) {
    // SAFETY: the lock is held for writing.
    unsafe { writing() }.unclaim(WindowNumber(window));
}

/// Judges where a window's BAR is now.
///
/// # Safety
/// `sivshm_gate_lock` is held for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_observe(window: u16, bar: u64) {
    // SAFETY: the lock is held for writing.
    unsafe { writing() }.observe(WindowNumber(window), bar);
}

/// Takes frames in; whether there may be more.
///
/// # Safety
/// `sivshm_gate_lock` is held for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_receive() -> bool {
    // SAFETY: the lock is held for writing.
    unsafe { writing() }.receive()
}

/// The next effect; whether there is one.
///
/// # Safety
/// `sivshm_gate_lock` is held for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_effect(to: &mut RawEffect) -> bool {
    // SAFETY: the lock is held for writing.
    let Some(effect) = unsafe { writing() }.next_effect() else {
        return false;
    };
    let words = match effect {
        Effect::Report(complaint) => complaint.words(),
        _ => "",
    };
    let (kind, value, slot) = match effect {
        Effect::Unmap(slot) => (UNMAP, slot.0, slot),
        Effect::Wake => (WAKE, 0, Slot(0)),
        Effect::Ring(doorbell) => (RING, doorbell.value(), Slot(0)),
        Effect::Report(_) => (REPORT, 0, Slot(0)),
    };
    *to = RawEffect {
        kind,
        value,
        place: place(slot),
        reserved: 0,
        offset: slot.offset(),
        words: words.as_ptr(),
        length: words.len(),
    };
    true
}

/// The pages of a slot are gone from every page table.
///
/// # Safety
/// `sivshm_gate_lock` is held for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_unmapped(slot: u32) {
    // SAFETY: the lock is held for writing.
    unsafe { writing() }.unmapped(Slot(slot));
}

/// Whether frames are still to be sent.
///
/// # Safety
/// `sivshm_gate_lock` is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_owes() -> bool {
    // SAFETY: the lock is held.
    unsafe { reading() }.frames_owed()
}

/// Counts an interrupt. Needs no lock.
#[unsafe(no_mangle)]
pub extern "C" fn sivshm_gate_rang(vector: u16) {
    BELLS.rang(Vector(vector));
}
