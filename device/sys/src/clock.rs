//! Clocks that outlive a process but not a boot.

use std::io;

use nix::time::{ClockId, clock_gettime};

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

#[cfg(test)]
mod tests {
    #[test]
    fn the_boot_clock_grows() {
        let before = super::since_boot().unwrap();
        assert!(before > 0 && super::since_boot().unwrap() >= before);
    }
}
