//! `SIGBUS`: what a guest's kernel answers an access with whose grant has ended since the library
//! last asked. The service at the other end needs no more for that than to leave, so a service must
//! survive it.
//!
//! One handler for the process, installed before the first mapping is used, puts empty pages over the
//! whole mapping and has the access repeated. Whoever made the access finds nothing there, and then
//! the session's state says why. All other signals go to whoever had them before.
#![expect(
    unsafe_code,
    reason = "signals have no safe wrapper that keeps the action of before"
)]

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libc::{SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTART, SA_SIGINFO, SIGBUS, siginfo_t};
use nix::errno::Errno;

use super::ranges::{Range, Ranges, TABLE_BYTES};

/// What the handler needs. Set before it is installed, and never changed but for the table.
struct Ground {
    ranges: Ranges,
    previous: libc::sigaction,
}

static GROUND: OnceLock<Ground> = OnceLock::new();

/// Whether the handler is installed. Held by whoever installs it or changes the table, and never by
/// the handler.
static INSTALLED: Mutex<bool> = Mutex::new(false);

/// Has accesses to a mapping survive that its pages go away. Dropped before the mapping is.
#[derive(Debug)]
pub(super) struct Watch {
    place: usize,
    range: Range,
}

impl Watch {
    /// Watches the `len` bytes from `base` on, which one mapping consists of.
    ///
    /// # Errors
    /// Those of `sigaction(2)` and `mmap(2)`; `ENOMEM` also for more mappings than a process has.
    pub(super) fn new(base: NonNull<c_void>, len: NonZeroUsize) -> io::Result<Self> {
        let range = Range::new(base.addr().get(), len.get()).ok_or(Errno::EINVAL)?;
        let mut installed = lock();
        if !*installed {
            install()?;
            *installed = true;
        }
        let place = GROUND.get().and_then(|ground| ground.ranges.insert(range));
        let place = place.ok_or(Errno::ENOMEM)?;
        Ok(Self { place, range })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _changing = lock();
        if let Some(ground) = GROUND.get() {
            ground.ranges.remove(self.place, self.range);
        }
    }
}

/// Each change is one statement: a thread that panicked has left nothing half done.
fn lock() -> MutexGuard<'static, bool> {
    INSTALLED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn install() -> io::Result<()> {
    let ground = match GROUND.get() {
        Some(ground) => ground,
        None => {
            let previous = action()?;
            let ranges = Ranges::new(super::private(TABLE_BYTES)?);
            GROUND.get_or_init(|| Ground { ranges, previous })
        }
    };
    // What the kernel does before it calls a handler is done for the one of before as well. On a stack
    // of their own, signals find room in threads that have little.
    let mut ours = ground.previous;
    ours.sa_sigaction = handle as *const () as usize;
    ours.sa_flags = ours.sa_flags & (SA_NODEFER | SA_RESTART) | SA_SIGINFO | SA_ONSTACK;
    set_action(&ours)?;
    Ok(())
}

/// The handler. It may have interrupted anything, so it takes no lock and allocates nothing.
extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let errno = Errno::last_raw();
    // SAFETY: the kernel passes a `siginfo_t` to a handler with SA_SIGINFO, and so does who chains to
    // this one.
    let fault = unsafe { Fault::of(info) };
    if !fault.is_some_and(empty) {
        forward(signal, fault, info, context);
    }
    Errno::set_raw(errno);
}

/// An access that could not be made, which is made again once the handler returns.
#[derive(Clone, Copy)]
struct Fault {
    /// Whether the file mapped there has no such page; else the memory itself is broken.
    absent: bool,
    address: usize,
}

impl Fault {
    /// None if the signal has another cause: somebody sent it.
    ///
    /// # Safety
    /// `info` points to a `siginfo_t` of SIGBUS.
    unsafe fn of(info: *const siginfo_t) -> Option<Self> {
        // SAFETY: the caller promises it.
        let info = unsafe { info.as_ref() }?;
        let absent = info.si_code == libc::BUS_ADRERR;
        let others = [libc::BUS_ADRALN, libc::BUS_OBJERR, libc::BUS_MCEERR_AR];
        (absent || others.contains(&info.si_code)).then(|| Self {
            absent,
            // SAFETY: the field is there in signals with these codes.
            address: unsafe { info.si_addr() }.addr(),
        })
    }
}

/// Puts empty pages over the mapping that the access was made to, if it is one of this library's.
fn empty(fault: Fault) -> bool {
    let found = GROUND.get().filter(|_| fault.absent);
    let Some(range) = found.and_then(|ground| ground.ranges.find(fault.address)) else {
        return false;
    };
    let (base, len) = range.bytes();
    let (Some(base), Some(len)) = (NonZeroUsize::new(base), NonZeroUsize::new(len)) else {
        return false;
    };
    // SAFETY: the range is one mapping of this library's, which is there: it leaves the table before
    // it is unmapped, and whoever has accessed it keeps it.
    unsafe { super::empty(base, len) }.is_ok()
}

/// Does what the action of before would have done.
fn forward(signal: c_int, fault: Option<Fault>, info: *mut siginfo_t, context: *mut c_void) {
    let Some(ground) = GROUND.get() else {
        return;
    };
    let Ground { previous, .. } = ground;
    match (previous.sa_sigaction, fault) {
        (libc::SIG_IGN, None) => {}
        // Nobody can ignore a fault: the kernel makes it the default. The access is repeated.
        (libc::SIG_DFL | libc::SIG_IGN, Some(_)) => reset(),
        (libc::SIG_DFL, None) => {
            reset();
            // SAFETY: takes a number. The signal is blocked until this handler returns.
            unsafe { libc::raise(signal) };
        }
        (handler, _) => {
            if previous.sa_flags & SA_RESETHAND != 0 {
                reset();
            }
            if previous.sa_flags & SA_SIGINFO == 0 {
                // SAFETY: whoever installed it without SA_SIGINFO gave such a function, and for as long
                // as it may be called.
                let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
                handler(signal);
            } else {
                // SAFETY: as above, with SA_SIGINFO.
                let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                    unsafe { std::mem::transmute(handler) };
                handler(signal, info, context);
            }
        }
    }
}

/// Gives the signal its default action, which ends the process.
fn reset() {
    // SAFETY: all of it zero is a `sigaction`: no flags, no signals, SIG_DFL.
    let default = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    // A default action can always be set.
    let _set = set_action(&default);
}

/// The action that the signal has.
fn action() -> nix::Result<libc::sigaction> {
    let mut action = MaybeUninit::uninit();
    // SAFETY: changes nothing, and fills `action`, which has the size of one.
    Errno::result(unsafe { libc::sigaction(SIGBUS, ptr::null(), action.as_mut_ptr()) })?;
    // SAFETY: it was filled, or the call had failed.
    Ok(unsafe { action.assume_init() })
}

fn set_action(action: &libc::sigaction) -> nix::Result<()> {
    // SAFETY:
    // - `action` is valid for the call, and nothing is asked for back;
    // - it names `handle`, which is safe to be called at any time, or the default.
    Errno::result(unsafe { libc::sigaction(SIGBUS, action, ptr::null_mut()) }).map(drop)
}
