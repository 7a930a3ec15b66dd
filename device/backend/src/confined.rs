//! `Opened -> Confined`: the only way into the loop (DESIGN section 5).

use std::os::fd::AsFd as _;

use sivshm_sys::sandbox::{self, Filter, FilterError, Namespaces, SandboxError, Sandboxed, Spec};

use crate::args::Mode;
use crate::held::Held;
use crate::opened::Opened;

/// The system calls that the loop makes, each with its reason.
const CALLS: &str = include_str!("seccomp.json");

/// The role of the loop in [`CALLS`].
const ROLE: &str = "device";

/// Why a device process is not confined. It must end.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A step of confinement failed.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The list of system calls is no list.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

/// A confined process and what it holds. [`enter`] is its only constructor.
#[derive(Debug)]
pub struct Confined {
    held: Held,
    _sandboxed: Sandboxed,
}

impl Confined {
    /// What the process holds.
    #[must_use]
    pub fn into_held(self) -> Held {
        self.held
    }
}

/// Takes every step of confinement.
///
/// # Errors
/// The first step that failed; the process must end.
pub fn enter(opened: Opened) -> Result<Confined, ConfineError> {
    let Opened {
        held,
        peer_sockets,
        limits,
    } = opened;
    let filter = Filter::compile(CALLS, ROLE)?;
    let log = std::io::stderr();
    let mut keep = held.descriptors();
    keep.push(log.as_fd());
    let listeners = &held.listeners;
    let sandboxed = sandbox::enter(&Spec {
        keep: &keep,
        namespaces: match held.config.mode {
            Mode::Production => Namespaces::Privileged,
            Mode::Development => Namespaces::Unprivileged,
        },
        root: &peer_sockets,
        uid: held.my_ids.device_uid,
        gid: held.ids.device_gid,
        listeners: &[
            listeners.peer.as_fd(),
            listeners.port.as_fd(),
            listeners.launch.as_fd(),
            listeners.admin.as_fd(),
        ],
        limits,
        fdinfo: &held.fdinfo,
        filter: &filter,
    })?;
    drop(keep);
    Ok(Confined {
        held,
        _sandboxed: sandboxed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_allowed_call_has_a_reason() {
        let policy: serde_json::Value = serde_json::from_str(CALLS).unwrap();
        let role = &policy[ROLE];
        assert_eq!(role["mismatch_action"], "kill_process");
        assert_eq!(role["match_action"], "allow");
        for rule in role["filter"].as_array().unwrap() {
            let reason = rule["comment"].as_str().unwrap_or_default();
            assert!(reason.len() > 10, "{} has no reason", rule["syscall"]);
        }
        Filter::compile(CALLS, ROLE).unwrap();
    }

    /// What must never come back: making code, starting programs, becoming somebody, and the calls
    /// whose arguments matter, without conditions.
    #[test]
    fn dangerous_calls_are_absent_or_bound() {
        let policy: serde_json::Value = serde_json::from_str(CALLS).unwrap();
        let rules = policy[ROLE]["filter"].as_array().unwrap();
        let of = |name: &str| -> Vec<_> {
            rules
                .iter()
                .filter(|rule| rule["syscall"] == name)
                .collect()
        };
        for absent in [
            "execve",
            "execveat",
            "clone",
            "clone3",
            "fork",
            "vfork",
            "ptrace",
            "prctl",
            "ioctl",
            "bind",
            "setsid",
            "kill",
            "memfd_create",
            "process_vm_readv",
            "process_vm_writev",
            "mount",
            "unshare",
            "setns",
            "io_uring_setup",
            "bpf",
            "open",
            "creat",
            "unlink",
        ] {
            assert!(of(absent).is_empty(), "{absent} is allowed");
        }
        for bound in [
            "mmap",
            "mprotect",
            "fcntl",
            "socket",
            "openat",
            "setsockopt",
            "getsockopt",
            "preadv2",
            "newfstatat",
            "setitimer",
            "fallocate",
        ] {
            let all = of(bound).iter().all(|rule| rule["args"].is_array());
            assert!(all, "{bound} is allowed with any arguments");
        }
    }
}
