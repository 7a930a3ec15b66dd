//! Dropping capabilities, groups and the user.
#![expect(unsafe_code, reason = "prctl for the bounding set has no safe wrapper")]

use std::io;

use caps::CapSet;
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};

use super::{Namespaces, SandboxError, refused, verify};

const BOUNDING: &str = "empty the capability bounding set";
const USER: &str = "become the device user";
const CAPABILITIES: &str = "drop all capabilities";

/// Order matters: emptying the bounding set and the group list needs capabilities, which go last.
pub(super) fn drop_all(namespaces: Namespaces, uid: u32, gid: u32) -> Result<(), SandboxError> {
    empty_bounding_set()?;
    become_user(namespaces, Uid::from_raw(uid), Gid::from_raw(gid))?;
    drop_capabilities()
}

/// Capabilities are numbered from 0; the kernel says `EINVAL` behind its last one, so that one
/// which this program has no name for is dropped too.
fn empty_bounding_set() -> Result<(), SandboxError> {
    let all = || 0..u64::from(u64::BITS);
    for capability in all() {
        match bounding(libc::PR_CAPBSET_DROP, capability) {
            Ok(_) => {}
            Err(Errno::EINVAL) => break,
            Err(error) => return Err(refused(BOUNDING)(error)),
        }
    }
    let left = all().find(|capability| bounding(libc::PR_CAPBSET_READ, *capability) == Ok(1));
    verify(BOUNDING, left.is_none(), || {
        format!("capability {left:?} is still in it")
    })
}

fn bounding(operation: libc::c_int, capability: u64) -> Result<libc::c_int, Errno> {
    // SAFETY: both operations take a number and touch no memory of ours.
    Errno::result(unsafe { libc::prctl(operation, capability, 0, 0, 0) })
}

fn become_user(namespaces: Namespaces, uid: Uid, gid: Gid) -> Result<(), SandboxError> {
    // Impossible in a user namespace made without privilege: its groups are the caller's own.
    if namespaces == Namespaces::Privileged {
        setgroups(&[]).map_err(refused(USER))?;
        let groups = getgroups().map_err(refused(USER))?;
        verify(USER, groups.is_empty(), || {
            format!("groups {groups:?} are left")
        })?;
    }
    setresgid(gid, gid, gid).map_err(refused(USER))?;
    setresuid(uid, uid, uid).map_err(refused(USER))?;
    let users = getresuid().map_err(refused(USER))?;
    let groups = getresgid().map_err(refused(USER))?;
    let all = (users.real, users.effective, users.saved) == (uid, uid, uid)
        && (groups.real, groups.effective, groups.saved) == (gid, gid, gid);
    verify(USER, all, || format!("it is {users:?} {groups:?}"))
}

fn drop_capabilities() -> Result<(), SandboxError> {
    let failed = |error: caps::errors::CapsError| refused(CAPABILITIES)(io::Error::other(error));
    // Permitted last: without it the others could not be changed any more.
    let sets = [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ];
    for set in sets {
        caps::clear(None, set).map_err(failed)?;
    }
    for set in sets {
        let left = caps::read(None, set).map_err(failed)?;
        verify(CAPABILITIES, left.is_empty(), || {
            format!("{left:?} are left in the {set:?} set")
        })?;
    }
    Ok(())
}
