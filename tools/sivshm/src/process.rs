//! Processes of this host that are named in a file, told apart from later ones of the same number.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use sivshm_sys::pidfd;

/// A process, by number and time of birth.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProcessId {
    /// Its process id.
    pub pid: i32,
    /// When it started, in clock ticks since the host booted (`/proc/PID/stat`, field 22).
    pub started: u64,
}

/// A process that can be ended and awaited without a race.
#[derive(Debug)]
pub struct Process {
    /// Its name in files.
    pub id: ProcessId,
    handle: OwnedFd,
}

impl Process {
    /// Takes hold of a running process.
    ///
    /// # Errors
    /// There is none of this number.
    pub fn open(pid: i32) -> io::Result<Self> {
        let handle = pidfd::open(pid)?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let started = started(&stat).ok_or_else(|| io::Error::other("unknown /proc format"))?;
        let id = ProcessId { pid, started };
        Ok(Self { id, handle })
    }

    /// Takes hold of the process that a file names; none if it has ended.
    pub fn find(id: ProcessId) -> Option<Self> {
        Self::open(id.pid)
            .ok()
            .filter(|process| process.id == id && !process.has_ended())
    }

    /// Sends a signal; a process that has ended needs none.
    pub fn signal(&self, signal: Signal) {
        // The only error of a valid handle and signal is that the process is gone.
        let _ = pidfd::signal(&self.handle, signal);
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Waits until it has ended; whether it has.
    pub fn wait(&self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.handle.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(_) if left.is_zero() => return false,
                Err(_) => {}
            }
        }
    }

    /// Asks it to end, waits, and ends it by force if it does not.
    pub fn end(&self, patience: Duration) {
        self.signal(Signal::SIGTERM);
        if !self.wait(patience) {
            self.signal(Signal::SIGKILL);
            self.wait(patience);
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Field 22 of `/proc/PID/stat`. The second field is the program's name in parentheses and may hold
/// spaces and parentheses itself.
fn started(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_time_of_birth_is_found_behind_any_program_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9000 100 18446";
        assert_eq!(started(stat), Some(4242));
        assert_eq!(started("7 (a"), None);
    }

    #[test]
    fn a_process_is_found_ended_and_not_found_again() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id().cast_signed()).unwrap();
        assert!(Process::find(process.id).is_some());
        process.end(Duration::from_secs(10));
        assert!(process.has_ended());
        assert!(Process::find(process.id).is_none());
        child.wait().unwrap();
    }

    #[test]
    fn another_process_of_the_same_number_is_not_found() {
        let me = Process::open(std::process::id().cast_signed()).unwrap();
        let earlier = ProcessId {
            started: me.id.started - 1,
            ..me.id
        };
        assert!(Process::find(earlier).is_none());
    }
}
