//! Changing the root directory to the peers' sockets.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, getcwd, pivot_root};

use super::{SandboxError, refused, verify};

const STEP: &str = "make the peers' sockets the root directory";
const NOTHING: Option<&str> = None;

pub(super) fn change(to: &Path) -> Result<(), SandboxError> {
    mount_over(to).map_err(refused(STEP))?;
    verify_root()
}

fn mount_over(to: &Path) -> Result<(), Errno> {
    // Nothing that is mounted from here on shows up on the host, and the other way round.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NOTHING, "/", NOTHING, private, NOTHING)?;
    mount(Some(to), to, NOTHING, MsFlags::MS_BIND, NOTHING)?;
    let narrow = MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC
        | MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND;
    mount(NOTHING, to, NOTHING, narrow, NOTHING)?;
    chdir(to)?;
    // The old root is stacked upon the new one and taken off again (pivot_root(2), "." and ".").
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

fn verify_root() -> Result<(), SandboxError> {
    let here = getcwd().map_err(refused(STEP))?;
    verify(STEP, here == Path::new("/"), || {
        format!("the working directory is {}", here.display())
    })?;
    let flags = statvfs("/").map_err(refused(STEP))?.flags();
    let wanted = FsFlags::ST_RDONLY | FsFlags::ST_NOSUID | FsFlags::ST_NODEV | FsFlags::ST_NOEXEC;
    verify(STEP, flags.contains(wanted), || {
        format!("it is mounted as {flags:?}")
    })?;
    let proc = fs::metadata("/proc").map_err(|error| error.kind());
    verify(
        STEP,
        proc.as_ref().err() == Some(&std::io::ErrorKind::NotFound),
        || format!("/proc can be reached: {proc:?}"),
    )?;
    for entry in fs::read_dir("/").map_err(refused(STEP))? {
        let entry = entry.map_err(refused(STEP))?;
        let is_socket = entry.file_type().map_err(refused(STEP))?.is_socket();
        verify(STEP, is_socket, || {
            format!("{} in it is no socket", entry.file_name().display())
        })?;
    }
    Ok(())
}
