//! Unloading and loading kernel modules.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::errno::Errno;

use crate::attempt::errno_of;

/// The name of SIVSHM's own.
pub const OURS: &CStr = c"sivshm";

/// Unloads one, if nobody uses it.
pub fn unload(name: &CStr) -> nix::Result<()> {
    delete(name, libc::O_NONBLOCK)
}

/// Unloads one by force.
pub fn tear_out(name: &CStr) -> nix::Result<()> {
    delete(name, libc::O_NONBLOCK | libc::O_TRUNC)
}

fn delete(name: &CStr, flags: i32) -> nix::Result<()> {
    // SAFETY: delete_module reads the name, which ends with a zero, and flags.
    let rc = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), flags) };
    Errno::result(rc).map(drop)
}

/// Loads one from a file.
pub fn load(module: &Path) -> nix::Result<()> {
    let file = File::open(module).map_err(errno_of)?;
    // SAFETY: finit_module reads the open file and its parameters, which end with a zero.
    let rc = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    Errno::result(rc).map(drop)
}
