//! Ending and awaiting a process without a race: a handle stays the same process's for ever, a
//! number does not. A handle becomes readable when its process has ended.
#![expect(unsafe_code, reason = "pidfd calls have no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;

/// Takes hold of a running process.
///
/// # Errors
/// `ESRCH` if there is none of this number.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers and reads no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: pidfd_open has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal.
///
/// # Errors
/// `ESRCH` if the process has ended; `EPERM` if the caller may not.
pub fn signal(process: impl AsFd, signal: Signal) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY:
    // - `process` is borrowed for the whole call, so the descriptor stays open;
    // - a null siginfo means what kill(2) sends; no memory of ours is read.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_fd().as_raw_fd(),
            signal as libc::c_int,
            no_info,
            0,
        )
    };
    Ok(Errno::result(sent).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    #[test]
    fn a_process_is_ended_by_its_handle() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let handle = open(child.id().try_into().unwrap()).unwrap();
        signal(&handle, Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        let gone = signal(&handle, Signal::SIGTERM).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::ESRCH));
    }
}
