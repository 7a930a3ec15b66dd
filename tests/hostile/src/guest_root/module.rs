//! Unloading and loading SIVSHM's module.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::errno::Errno;

use crate::attempt::errno_of;

/// Unloads it.
pub fn unload() -> nix::Result<()> {
    // SAFETY: delete_module reads the name, which ends with a zero, and flags.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_delete_module,
            c"sivshm".as_ptr(),
            libc::O_NONBLOCK,
        )
    };
    Errno::result(rc).map(drop)
}

/// Loads it from a file.
pub fn load(module: &Path) -> nix::Result<()> {
    let file = File::open(module).map_err(errno_of)?;
    // SAFETY: finit_module reads the open file and its parameters, which end with a zero.
    let rc = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    Errno::result(rc).map(drop)
}
