//! Turning into another program with less authority: what `sivshm run` does before it executes a
//! VMM (DESIGN section 6).
#![expect(unsafe_code, reason = "close_range has no safe wrapper")]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;

use landlock::{Access as _, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, Scope};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};
use seccompiler::sock_filter;

use crate::features::PINNED;
use crate::sandbox::{Filter, FilterError, SandboxError, check_landlock};

/// The filter's text: what a VMM must not do to a descriptor that it shares.
const VMM_POLICY: &str = include_str!("vmm_seccomp.json");

/// The first descriptor that is none of standard input, output and error.
const FIRST_OTHER: u32 = 3;

/// Has `close_range` mark descriptors in place of closing them.
const CLOSE_ON_EXEC: i32 = libc::CLOSE_RANGE_CLOEXEC.cast_signed();

/// Lowest number of a call by the x32 convention, which has numbers of its own for every call.
const X32_CALLS: u32 = 0x4000_0000;

/// The filter for a VMM: it can't make a shared doorbell blocking.
///
/// Every other call is allowed here, so calls by the x32 convention, which would pass under other
/// numbers, end the process. (The compiled filter itself ends it for 32-bit calls.)
///
/// # Errors
/// None that a released build has; a test compiles the same text.
pub fn vmm_filter() -> Result<Filter, FilterError> {
    let mut filter = Filter::compile(VMM_POLICY, "vmm")?;
    // The call's number is at offset 0 of what the filter sees.
    filter.prepend([
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, X32_CALLS),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            libc::SECCOMP_RET_KILL_PROCESS,
        ),
    ]);
    Ok(filter)
}

/// One instruction; a condition that does not hold skips `skip` instructions.
fn instruction(code: u32, skip: u8, k: u32) -> sock_filter {
    sock_filter {
        // Operation codes of classic BPF are below 256.
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt: 0,
        jf: skip,
        k,
    }
}

/// Takes away signals to and abstract sockets of others, and puts the process into a Landlock
/// domain of its own, so that no sibling can trace it or open its `/proc` entries. File rules would
/// break QEMU's `/dev/null`; there are none.
///
/// # Errors
/// Landlock is not there or is older than the ABI that is pinned.
pub fn scope_only_landlock() -> Result<(), SandboxError> {
    let restrict = || {
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .scope(Scope::from_all(PINNED))?
            .create()?
            .restrict_self()
    };
    check_landlock(restrict())
}

/// Becomes another user and group for good, with exactly these further groups, and checks it.
///
/// # Errors
/// The caller is not privileged.
pub fn become_user(uid: u32, gid: u32, further: &[u32]) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // Sorted, as the kernel tells them.
    let further: BTreeSet<u32> = further.iter().copied().collect();
    let further: Vec<_> = further.into_iter().map(Gid::from_raw).collect();
    setgroups(&further)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    let (users, groups) = (getresuid()?, getresgid()?);
    let became = [users.real, users.effective, users.saved] == [uid; 3]
        && [groups.real, groups.effective, groups.saved] == [gid; 3]
        && getgroups()? == further;
    if became {
        Ok(())
    } else {
        Err(io::Error::other("the process kept a user or group"))
    }
}

/// Lets exactly these descriptors, and standard input, output and error, stay open in the program
/// that is executed next: what else the caller's own caller has left open is closed then.
///
/// # Errors
/// One of the descriptors is not open.
pub fn inherit_only<'a>(descriptors: impl IntoIterator<Item = BorrowedFd<'a>>) -> io::Result<()> {
    // SAFETY: takes three numbers; closes nothing before the next program is executed.
    let marked = unsafe { libc::close_range(FIRST_OTHER, u32::MAX, CLOSE_ON_EXEC) };
    Errno::result(marked)?;
    for descriptor in descriptors {
        fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    use nix::fcntl::OFlag;

    #[test]
    fn what_is_not_listed_does_not_survive_exec() {
        let (listed, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        fcntl(&other, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        inherit_only([listed.as_fd()]).unwrap();
        let closes =
            |file: &std::fs::File| fcntl(file, FcntlArg::F_GETFD).unwrap() & libc::FD_CLOEXEC != 0;
        assert_eq!((closes(&listed), closes(&other)), (false, true));
    }

    /// The filter holds for the calling thread only, so the other tests are left alone.
    #[test]
    fn a_vmm_seems_to_clear_o_nonblock_and_does_not() {
        std::thread::spawn(|| {
            let doorbell = crate::eventfd::create().unwrap();
            let flags = || OFlag::from_bits_retain(fcntl(&doorbell, FcntlArg::F_GETFL).unwrap());
            let before = flags();
            vmm_filter().unwrap().install().unwrap();
            fcntl(&doorbell, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
            assert_eq!(flags(), before);
            let std_socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
            std_socket.set_nonblocking(true).unwrap();
            let socket_flags = fcntl(&std_socket, FcntlArg::F_GETFL).unwrap();
            assert_eq!(socket_flags & libc::O_NONBLOCK, 0, "FIONBIO had an effect");
            fcntl(&std_socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
            let socket_flags = fcntl(&std_socket, FcntlArg::F_GETFL).unwrap();
            assert_ne!(
                socket_flags & libc::O_NONBLOCK,
                0,
                "setting must still work"
            );
        })
        .join()
        .unwrap();
    }
}
