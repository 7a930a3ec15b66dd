//! Clocks that outlive a process but not a boot.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{self, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};

/// When the timer of [`ClockSet`] would go off, in seconds since 1970: the year 2500, which is
/// within what the kernel's timers count.
const FAR: i64 = 16_725_225_600;

/// Nanoseconds since the host booted, time asleep included (`CLOCK_BOOTTIME`).
///
/// Seeds generations: it grows across restarts of a process, and a new boot is told apart by the
/// host's boot identifier.
///
/// # Errors
/// The host has no such clock.
pub fn since_boot() -> io::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    let seconds = u64::try_from(now.tv_sec()).map_err(io::Error::other)?;
    let nanoseconds = u64::try_from(now.tv_nsec()).map_err(io::Error::other)?;
    seconds
        .checked_mul(1_000_000_000)
        .and_then(|whole| whole.checked_add(nanoseconds))
        .ok_or_else(|| io::Error::other("the boot clock is past the year 2500"))
}

/// Becomes readable when the host's wall clock was set, or the host woke from sleep: deadlines that
/// were computed before are to be computed again.
#[derive(Debug)]
pub struct ClockSet {
    timer: TimerFd,
}

impl ClockSet {
    /// Watches the wall clock.
    ///
    /// # Errors
    /// The process has no descriptor left, or the clock shows a year after 2500.
    pub fn watch() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(timerfd::ClockId::CLOCK_REALTIME, flags)?;
        let absolute = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
        timer.set(
            Expiration::OneShot(TimeSpec::new(FAR, 0)),
            absolute | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET,
        )?;
        Ok(Self { timer })
    }

    /// Takes notice, so that the descriptor is readable only when it happens again. Whether the
    /// clock was set since the last call.
    ///
    /// # Errors
    /// The host refuses.
    pub fn take(&self) -> io::Result<bool> {
        match nix::unistd::read(&self.timer, &mut [0; 8]) {
            Ok(_) | Err(Errno::ECANCELED) => Ok(true),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for ClockSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_nobody_sets_is_silent() {
        let watch = ClockSet::watch().unwrap();
        assert!(!watch.take().unwrap());
    }

    #[test]
    fn the_boot_clock_grows() {
        let before = since_boot().unwrap();
        assert!(before > 0 && since_boot().unwrap() >= before);
    }
}
