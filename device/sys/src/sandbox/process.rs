//! Properties of the process itself.

use std::fs;

use nix::sys::prctl;

use super::{SandboxError, refused, verify};

const THREADS: &str = "find one thread only";
const DUMPS: &str = "forbid dumps and tracing";
const PRIVILEGES: &str = "forbid new privileges";

pub(super) fn assert_single_thread() -> Result<(), SandboxError> {
    let threads = fs::read_dir("/proc/self/task")
        .map_err(refused(THREADS))?
        .count();
    verify(THREADS, threads == 1, || format!("{threads} are running"))
}

/// Keys stay out of core files, and processes of the same user can't read this one's memory.
pub(super) fn forbid_dumps() -> Result<(), SandboxError> {
    prctl::set_dumpable(false).map_err(refused(DUMPS))?;
    let dumpable = prctl::get_dumpable().map_err(refused(DUMPS))?;
    verify(DUMPS, !dumpable, || "it can still be dumped".to_owned())
}

pub(super) fn forbid_new_privileges() -> Result<(), SandboxError> {
    prctl::set_no_new_privs().map_err(refused(PRIVILEGES))?;
    let forbidden = prctl::get_no_new_privs().map_err(refused(PRIVILEGES))?;
    verify(PRIVILEGES, forbidden, || {
        "they are still allowed".to_owned()
    })
}
