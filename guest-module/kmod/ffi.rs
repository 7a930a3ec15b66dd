// SPDX-License-Identifier: GPL-2.0
//! The gate as the C shim calls it; `gate.h` declares the same.
//!
//! The only unsafe code of the module's Rust side: reaching the one gate under the shim's lock, and
//! taking the control memory into use. Everything is judged by `sivshm-gate`.
#![no_std]

use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use core::ptr::NonNull;

use sivshm_abi::directory::PciPlace;
use sivshm_abi::frame::{Facts, SessionId};
use sivshm_abi::grant::{GrantId, Vector};
use sivshm_abi::uapi::GRANT_INFO_BYTES;
use sivshm_abi::wire::Writer;
use sivshm_gate::{
    Bells, Caller, Effect, Errno, Files, Gate, Mm, Owner, Placement, Slot, Wanted, WindowNumber,
};
use sivshm_ring::Shared;

/// The one gate: a guest has one port.
struct Global(UnsafeCell<Gate>);

// SAFETY: `reading` and `writing` are the only ways to the gate; their callers promise that the
// shim's reader-writer lock is held, which gives many readers or one writer.
unsafe impl Sync for Global {}

static GATE: Global = Global(UnsafeCell::new(Gate::new()));
static BELLS: Bells = Bells::new();

/// # Safety
/// The caller holds `sivshm_gate_lock`, for reading or writing, until it drops the reference.
unsafe fn reading() -> &'static Gate {
    // SAFETY: the lock excludes every `&mut Gate`, which only `writing` makes.
    unsafe { &*GATE.0.get() }
}

/// # Safety
/// The caller holds `sivshm_gate_lock` for writing until it drops the reference, and makes no other.
unsafe fn writing() -> &'static mut Gate {
    // SAFETY: the lock excludes every other reference to the gate.
    unsafe { &mut *GATE.0.get() }
}

/// Zero, or a negative errno.
fn code(result: Result<(), Errno>) -> i32 {
    result.map_or_else(|errno| -errno.code(), |()| 0)
}

/// Stores the value at `to`; zero, or a negative errno.
fn store<T>(result: Result<T, Errno>, to: &mut T) -> i32 {
    code(result.map(|value| *to = value))
}

/// `struct sivshm_gate_caller`.
#[repr(C)]
pub struct RawCaller {
    mm: u64,
    session: u32,
    reserved: u32,
}

impl RawCaller {
    fn parse(&self) -> Caller {
        Caller {
            session: SessionId(self.session),
            mm: Mm(self.mm),
        }
    }
}

/// `struct sivshm_gate_facts`.
#[repr(C)]
pub struct RawFacts {
    pid: u32,
    uid: u32,
    gid: u32,
    exe_known: u32,
    exe_sha256: [u8; 32],
}

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

/// The place of a slot, below `MAX_GRANTS`.
fn place(slot: Slot) -> u32 {
    slot.place() as u32
}

/// `struct sivshm_gate_bell`.
#[repr(C)]
pub struct RawBell {
    vector: u32,
    place: u32,
}

/// `struct sivshm_gate_listing`.
#[repr(C)]
pub struct RawListing {
    changes: u64,
    count: u32,
    state: u32,
    reason: u32,
    reserved: u32,
}

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

/// Opens a session for the process that `facts` describe.
///
/// # Safety
/// `sivshm_gate_lock` is held for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_open(
    mm: u64,
    files: u64,
    facts: &RawFacts,
    session: &mut u32,
) -> i32 {
    let owner = Owner {
        mm: Mm(mm),
        files: Files(files),
    };
    let facts = Facts {
        pid: facts.pid,
        uid: facts.uid,
        gid: facts.gid,
        exe_sha256: (facts.exe_known != 0).then_some(facts.exe_sha256),
    };
    // SAFETY: the lock is held for writing.
    let opened = unsafe { writing() }.open(owner, facts);
    store(opened.map(|number| number.0), session)
}

/// A table of open files has closed the session's file.
///
/// # Safety
/// `sivshm_gate_lock` is held for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_close(session: u32, files: u64) {
    // SAFETY: the lock is held for writing.
    unsafe { writing() }.close(SessionId(session), Files(files));
}

/// The session's file is gone.
///
/// # Safety
/// `sivshm_gate_lock` is held for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_release(session: u32) {
    // SAFETY: the lock is held for writing.
    unsafe { writing() }.release(SessionId(session));
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

/// Whether `poll` has news: 1, 0, or a negative errno.
///
/// # Safety
/// `sivshm_gate_lock` is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_readable(caller: &RawCaller) -> i32 {
    // SAFETY: the lock is held.
    let readable = unsafe { reading() }.readable(caller.parse(), &BELLS);
    readable.map_or_else(|errno| -errno.code(), i32::from)
}

/// The session's state.
///
/// # Safety
/// `sivshm_gate_lock` is held for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_list(caller: &RawCaller, to: &mut RawListing) -> i32 {
    // SAFETY: the lock is held for writing.
    let listing = unsafe { writing() }.list(caller.parse());
    let raw = listing.map(|listing| RawListing {
        changes: listing.changes,
        count: listing.grants,
        state: listing.state.code(),
        reason: listing.reason.map_or(0, |reason| reason.code().into()),
        reserved: 0,
    });
    store(raw, to)
}

/// The session's first grant at place `from` or above, as `struct sivshm_grant`: the place behind
/// it, 0 if there is none, or a negative errno.
///
/// # Safety
/// `sivshm_gate_lock` is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_grant(
    caller: &RawCaller,
    from: u32,
    to: &mut [u8; GRANT_INFO_BYTES],
) -> i32 {
    // SAFETY: the lock is held.
    match unsafe { reading() }.next_grant(caller.parse(), from as usize) {
        Ok(Some((slot, grant))) => {
            let mut to = Writer::new(to);
            let written = to.u32(slot.0).and(to.u32(0)).and(grant.write(&mut to));
            // The place is below `MAX_GRANTS`; the array has exactly the space.
            written.map_or(0, |()| slot.place() as i32 + 1)
        }
        Ok(None) => 0,
        Err(errno) => -errno.code(),
    }
}

/// Counts an interrupt. Needs no lock.
#[unsafe(no_mangle)]
pub extern "C" fn sivshm_gate_rang(vector: u16) {
    BELLS.rang(Vector(vector));
}

unsafe extern "C" {
    /// Stops the kernel.
    safe fn sivshm_gate_panic();
}

/// Reached only by a mistake in the gate: its arithmetic is checked, so it stops and shares nothing.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    sivshm_gate_panic();
    // Not reached, but objtool before 6.12 asks for an end that it can see, and later ones for
    // nothing else behind a call that they know not to return: a trap is what all accept.
    // SAFETY:
    // - the instruction touches no memory and no register, and does not return;
    // - the kernel answers it, as every trap in kernel mode, by ending what runs.
    unsafe { core::arch::asm!("ud2", options(nomem, nostack, noreturn)) }
}
