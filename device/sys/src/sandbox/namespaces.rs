//! Leaving the host's namespaces.

use std::fs;
use std::path::PathBuf;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::{SandboxError, refused, verify};

const STEP: &str = "leave the host's namespaces";

/// Which namespaces a process leaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Namespaces {
    /// Mount, network, IPC, UTS and cgroup. A user namespace would hide the users of peers.
    Privileged,
    /// The same and the user namespace, which gives the right to leave the others.
    Unprivileged,
}

impl Namespaces {
    const fn flags(self) -> CloneFlags {
        let all = CloneFlags::CLONE_NEWNS
            .union(CloneFlags::CLONE_NEWNET)
            .union(CloneFlags::CLONE_NEWIPC)
            .union(CloneFlags::CLONE_NEWUTS)
            .union(CloneFlags::CLONE_NEWCGROUP);
        match self {
            Self::Privileged => all,
            Self::Unprivileged => all.union(CloneFlags::CLONE_NEWUSER),
        }
    }

    /// Names of the namespaces below `/proc/self/ns`.
    const fn names(self) -> &'static [&'static str] {
        const NAMES: &[&str] = &["mnt", "net", "ipc", "uts", "cgroup", "user"];
        match self {
            Self::Privileged => NAMES.split_at(5).0,
            Self::Unprivileged => NAMES,
        }
    }
}

pub(super) fn leave(namespaces: Namespaces) -> Result<(), SandboxError> {
    let before = identities(namespaces)?;
    let (uid, gid) = (geteuid(), getegid());
    unshare(namespaces.flags()).map_err(refused(STEP))?;
    if namespaces == Namespaces::Unprivileged {
        let write = |file: &str, text: String| {
            fs::write(format!("/proc/self/{file}"), text).map_err(refused(STEP))
        };
        write("setgroups", "deny".to_owned())?;
        write("uid_map", format!("{uid} {uid} 1"))?;
        write("gid_map", format!("{gid} {gid} 1"))?;
    }
    let after = identities(namespaces)?;
    let shared = before.iter().zip(&after).find(|(old, new)| old == new);
    verify(STEP, shared.is_none(), || {
        format!("{shared:?} is still the host's")
    })?;
    let now = (geteuid(), getegid());
    verify(STEP, now == (uid, gid), || {
        format!("the user became {now:?}")
    })
}

/// What names each namespace, for example `net:[4026531840]`.
fn identities(of: Namespaces) -> Result<Vec<PathBuf>, SandboxError> {
    let read = |name| fs::read_link(format!("/proc/self/ns/{name}"));
    let all: Result<_, _> = of.names().iter().map(read).collect();
    all.map_err(refused(STEP))
}
