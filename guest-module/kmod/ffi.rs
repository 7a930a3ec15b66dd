// SPDX-License-Identifier: GPL-2.0
//! The gate as the C shim calls it; `gate.h` declares the same.
//!
//! This folder's Rust is the only unsafe code of the module's Rust side: reaching the one gate under
//! the shim's lock, and taking memory of the shim into use. Everything is judged by `sivshm-gate`.
#![no_std]

#[path = "ffi/mapping.rs"]
mod mapping;
#[path = "ffi/port.rs"]
mod port;
#[path = "ffi/session.rs"]
mod session;

use core::cell::UnsafeCell;
use core::panic::PanicInfo;

use sivshm_abi::frame::SessionId;
use sivshm_gate::{Bells, Caller, Errno, Gate, Mm, Slot};

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

/// The place of a slot, below `MAX_GRANTS`.
fn place(slot: Slot) -> u32 {
    slot.place() as u32
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
