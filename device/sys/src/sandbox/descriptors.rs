//! Closing every descriptor that is not listed.
#![expect(unsafe_code, reason = "close_range has no safe wrapper")]

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{dup2_stdin, dup2_stdout};

use super::{SandboxError, refused, verify};

const STEP: &str = "close unlisted descriptors";

/// Points standard input and output to `/dev/null` and closes whatever is neither of them nor in
/// `keep`.
pub(super) fn close_unlisted(keep: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(refused(STEP))?;
    dup2_stdin(&null).map_err(refused(STEP))?;
    dup2_stdout(&null).map_err(refused(STEP))?;
    drop(null);

    let listed: BTreeSet<u32> = keep
        .iter()
        .map(|fd| fd.as_raw_fd().unsigned_abs())
        .chain([0, 1])
        .collect();
    let mut first = 0;
    for &fd in &listed {
        if let Some(last) = fd.checked_sub(1).filter(|last| *last >= first) {
            close_range(first, last).map_err(refused(STEP))?;
        }
        first = fd.saturating_add(1);
    }
    close_range(first, u32::MAX).map_err(refused(STEP))?;

    let open = open_descriptors().map_err(refused(STEP))?;
    verify(STEP, open == listed, || {
        format!("{open:?} are open where {listed:?} are listed")
    })
}

fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY:
    // - the call takes three numbers and reads no memory of ours;
    // - no live value owns a descriptor in the range: owners of all others are borrowed by
    //   `keep`, and `Spec::keep` asks the caller to own no more.
    Errno::result(unsafe { libc::close_range(first, last, 0) }).map(drop)
}

/// All open descriptors but the one used to list them.
fn open_descriptors() -> Result<BTreeSet<u32>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut folder = nix::dir::Dir::openat(AT_FDCWD, "/proc/self/fd", flags, Mode::empty())?;
    let own = folder.as_raw_fd().unsigned_abs();
    let mut open = BTreeSet::new();
    for entry in folder.iter() {
        let number = entry?.file_name().to_string_lossy().parse::<u32>();
        open.extend(number.ok().filter(|fd| *fd != own));
    }
    Ok(open)
}
