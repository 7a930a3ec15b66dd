//! A tick that ends waits which somebody else imposed (DESIGN section 5, I5).
//!
//! Dropping a descriptor that a peer sent can block: the last holder of a socket with `SO_LINGER`
//! waits in `close` until what the socket has to send was taken, for as long as its maker liked.
//! The same holds for descriptors that are never looked at, when the socket is closed in which they
//! wait. A pending signal ends such a wait, and the kernel finishes by itself; so whoever drops what
//! others made lets a signal come again and again meanwhile.
#![expect(unsafe_code, reason = "sigaction and setitimer have no safe wrapper")]

use std::io;
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Time after which a wait ends, in microseconds, which is the most that one descriptor can cost.
///
/// The 253 descriptors that one message can carry cost a quarter of a second; a whole handshake,
/// the longest that a device process works at a time, takes one or two ticks.
const TICK: libc::suseconds_t = 1000;

/// The process is prepared for ticks. They go to the process, so it must have one thread.
#[derive(Debug)]
pub struct Tick {
    _installed: (),
}

/// Ticks come until this is dropped.
#[derive(Debug)]
pub struct Ticking<'t> {
    _tick: &'t Tick,
}

impl Tick {
    /// Prepares the process: SIGALRM does nothing but interrupt.
    ///
    /// # Errors
    /// The host refuses.
    pub fn install() -> io::Result<Self> {
        let handler = SigHandler::Handler(nothing);
        // No SA_RESTART: a call that is interrupted must return.
        let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, so it is safe at any moment.
        unsafe { sigaction(Signal::SIGALRM, &action) }?;
        SigSet::from(Signal::SIGALRM).thread_unblock()?;
        Ok(Self { _installed: () })
    }

    /// Lets ticks come.
    ///
    /// # Errors
    /// The host refuses.
    pub fn start(&self) -> io::Result<Ticking<'_>> {
        set_timer(TICK)?;
        Ok(Ticking { _tick: self })
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        // Setting a timer that was set before can't fail; a tick too many would only interrupt.
        let _ = set_timer(0);
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// Makes the process's real-time timer fire every so many microseconds; never, if 0.
fn set_timer(every: libc::suseconds_t) -> io::Result<()> {
    let every = libc::timeval {
        tv_sec: 0,
        tv_usec: every,
    };
    let timer = libc::itimerval {
        it_interval: every,
        it_value: every,
    };
    // SAFETY: the new value is read from `timer`, which lives; the old one is not asked for.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
    Ok(Errno::result(set).map(drop)?)
}
