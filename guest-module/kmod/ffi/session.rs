// SPDX-License-Identifier: GPL-2.0
//! Sessions, and the handshake bytes that they carry.

use core::ptr::NonNull;
use core::slice;

use sivshm_abi::frame::{Facts, SessionId};
use sivshm_abi::uapi::GRANT_INFO_BYTES;
use sivshm_abi::wire::Writer;
use sivshm_gate::{Errno, Files, Mm, Owner};

use crate::{BELLS, RawCaller, reading, store, writing};

/// `struct sivshm_gate_facts`.
#[repr(C)]
pub struct RawFacts {
    pid: u32,
    uid: u32,
    gid: u32,
    exe_known: u32,
    exe_sha256: [u8; 32],
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

const DATA: i32 = 1;
const CHANGED: i32 = 2;
const RUNG: i32 = 4;
const ROOM: i32 = 8;

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

/// How many bytes were moved, at most `MAX_DATA_BYTES`, or a negative errno.
fn count(result: Result<usize, Errno>) -> i32 {
    result.map_or_else(|errno| -errno.code(), |moved| moved as i32)
}

/// Moves handshake bytes that have come to `to`: how many, or a negative errno.
///
/// # Safety
/// `sivshm_gate_lock` is held for writing. `to` is the address of `bytes` initialised bytes, at most
/// `SIVSHM_MAX_DATA_BYTES`, that nobody else touches during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_read(
    caller: &RawCaller,
    to: NonNull<u8>,
    bytes: usize,
) -> i32 {
    // SAFETY: the caller's promise: the bytes are initialised, and ours alone while `to` lives.
    let to = unsafe { slice::from_raw_parts_mut(to.as_ptr(), bytes) };
    // SAFETY: the lock is held for writing.
    count(unsafe { writing() }.read(caller.parse(), to))
}

/// Sends the first of some handshake bytes: how many, or a negative errno.
///
/// # Safety
/// `sivshm_gate_lock` is held for writing. `from` is the address of `bytes` initialised bytes that
/// nobody changes during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_write(
    caller: &RawCaller,
    from: NonNull<u8>,
    bytes: usize,
) -> i32 {
    // SAFETY: the caller's promise: the bytes are initialised, and do not change while `from` lives.
    let from = unsafe { slice::from_raw_parts(from.as_ptr(), bytes) };
    // SAFETY: the lock is held for writing.
    count(unsafe { writing() }.write(caller.parse(), from))
}

/// What `poll` is to tell: the constants above, or a negative errno.
///
/// # Safety
/// `sivshm_gate_lock` is held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_gate_readiness(caller: &RawCaller) -> i32 {
    // SAFETY: the lock is held.
    let gate = unsafe { reading() };
    let caller = caller.parse();
    let bits = gate.readiness(caller).and_then(|ready| {
        let bits = [
            (ready.data, DATA),
            (ready.changed, CHANGED),
            (gate.rung(caller, &BELLS)?, RUNG),
            (ready.room, ROOM),
        ];
        Ok(bits
            .iter()
            .fold(0, |sum, (set, bit)| if *set { sum | bit } else { sum }))
    });
    bits.unwrap_or_else(|errno| -errno.code())
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
