//! Confinement: the ordered steps by which a device process gives up everything that it does not
//! need (DESIGN section 5).
//!
//! Each step consumes the stage that the step before it returned, so the compiler keeps the order;
//! each checks afterwards that it worked; the first that did not ends the start of the process.

mod descriptors;
mod filter;
mod limits;
mod namespaces;
mod paths;
mod privileges;
mod process;
mod root;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

pub use filter::{Filter, FilterError};
pub use limits::Limits;
pub use namespaces::Namespaces;
pub(crate) use paths::check as check_landlock;

use crate::facts::FdInfo;
use crate::socket;

/// What the process keeps.
#[derive(Clone, Copy, Debug)]
pub struct Spec<'a> {
    /// Descriptors that stay open, standard error included or not. Standard input and output
    /// become `/dev/null`. The caller owns no other descriptor: all others are closed.
    pub keep: &'a [BorrowedFd<'a>],
    /// Which namespaces are left.
    pub namespaces: Namespaces,
    /// The directory that becomes `/`, read-only; it holds sockets and nothing else.
    pub root: &'a Path,
    /// The user to become.
    pub uid: u32,
    /// The group to become.
    pub gid: u32,
    /// Bound sockets that shall listen as that user and group.
    pub listeners: &'a [BorrowedFd<'a>],
    /// Bounds of resources.
    pub limits: Limits,
    /// The only directory in which files can still be opened, for reading.
    pub fdinfo: &'a FdInfo,
    /// The system calls that are left.
    pub filter: &'a Filter,
}

/// Why a process is not confined. It must end.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The host refused a step.
    #[error("host: can't {step}; the kernel must be Linux 6.12 or newer and must allow it")]
    Refused {
        /// What was tried.
        step: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A step seemed to work and did not.
    #[error("host: tried to {step}, but {found}")]
    Unverified {
        /// What was tried.
        step: &'static str,
        /// What was found afterwards.
        found: String,
    },
    /// Landlock is not there or is older than the ABI that is pinned.
    #[error("host: can't restrict file, network and signal access; Landlock ABI 6 is needed")]
    Landlock(#[source] Box<landlock::RulesetError>),
    /// The system call filter was not installed.
    #[error("host: can't install the system call filter")]
    Seccomp(#[source] seccompiler::Error),
}

/// Evidence that every step was taken. Only [`enter`] makes one.
#[derive(Debug)]
pub struct Sandboxed {
    _entered: (),
}

/// Takes every step, in order.
///
/// # Errors
/// The first step that did not work. The process is then in no defined state and must end.
pub fn enter(spec: &Spec<'_>) -> Result<Sandboxed, SandboxError> {
    Stage::begin(spec)?
        .close_unlisted()?
        .leave_namespaces()?
        .change_root()?
        .drop_privileges()?
        .listen()?
        .limit_resources()?
        .forbid_dumps()?
        .forbid_new_privileges()?
        .restrict_paths()?
        .filter_calls()
}

/// What has been given up so far, as a type.
#[derive(Debug)]
struct Stage<'a, Done> {
    spec: &'a Spec<'a>,
    _done: Done,
}

#[derive(Debug)]
struct Started;
#[derive(Debug)]
struct Closed;
#[derive(Debug)]
struct Apart;
#[derive(Debug)]
struct Rooted;
#[derive(Debug)]
struct Unprivileged;
#[derive(Debug)]
struct Listening;
#[derive(Debug)]
struct Limited;
#[derive(Debug)]
struct Undumpable;
#[derive(Debug)]
struct NoNewPrivileges;
#[derive(Debug)]
struct Restricted;

impl<'a> Stage<'a, Started> {
    /// Several steps act on the calling thread only, so there must be one.
    fn begin(spec: &'a Spec<'a>) -> Result<Self, SandboxError> {
        process::assert_single_thread()?;
        Ok(Self {
            spec,
            _done: Started,
        })
    }

    fn close_unlisted(self) -> Result<Stage<'a, Closed>, SandboxError> {
        descriptors::close_unlisted(self.spec.keep)?;
        Ok(self.after(Closed))
    }
}

impl<'a> Stage<'a, Closed> {
    fn leave_namespaces(self) -> Result<Stage<'a, Apart>, SandboxError> {
        namespaces::leave(self.spec.namespaces)?;
        Ok(self.after(Apart))
    }
}

impl<'a> Stage<'a, Apart> {
    fn change_root(self) -> Result<Stage<'a, Rooted>, SandboxError> {
        root::change(self.spec.root)?;
        Ok(self.after(Rooted))
    }
}

impl<'a> Stage<'a, Rooted> {
    fn drop_privileges(self) -> Result<Stage<'a, Unprivileged>, SandboxError> {
        privileges::drop_all(self.spec.namespaces, self.spec.uid, self.spec.gid)?;
        Ok(self.after(Unprivileged))
    }
}

impl<'a> Stage<'a, Unprivileged> {
    /// Not before: peers see the user of the moment of `listen`, for as long as it lasts.
    fn listen(self) -> Result<Stage<'a, Listening>, SandboxError> {
        for listener in self.spec.listeners {
            socket::listen(listener).map_err(refused("listen as the device user"))?;
        }
        Ok(self.after(Listening))
    }
}

impl<'a> Stage<'a, Listening> {
    fn limit_resources(self) -> Result<Stage<'a, Limited>, SandboxError> {
        limits::set(&self.spec.limits)?;
        Ok(self.after(Limited))
    }
}

impl<'a> Stage<'a, Limited> {
    fn forbid_dumps(self) -> Result<Stage<'a, Undumpable>, SandboxError> {
        process::forbid_dumps()?;
        Ok(self.after(Undumpable))
    }
}

impl<'a> Stage<'a, Undumpable> {
    fn forbid_new_privileges(self) -> Result<Stage<'a, NoNewPrivileges>, SandboxError> {
        process::forbid_new_privileges()?;
        Ok(self.after(NoNewPrivileges))
    }
}

impl<'a> Stage<'a, NoNewPrivileges> {
    fn restrict_paths(self) -> Result<Stage<'a, Restricted>, SandboxError> {
        paths::only_read_below(self.spec.fdinfo)?;
        Ok(self.after(Restricted))
    }
}

impl Stage<'_, Restricted> {
    /// Last, because what the other steps call is not allowed any more.
    fn filter_calls(self) -> Result<Sandboxed, SandboxError> {
        self.spec.filter.install().map_err(SandboxError::Seccomp)?;
        Ok(Sandboxed { _entered: () })
    }
}

impl<'a, Before> Stage<'a, Before> {
    fn after<Done>(self, done: Done) -> Stage<'a, Done> {
        Stage {
            spec: self.spec,
            _done: done,
        }
    }
}

/// Names the step that the host refused.
fn refused<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> SandboxError {
    move |source| SandboxError::Refused {
        step,
        source: source.into(),
    }
}

/// Fails a step unless `holds`.
fn verify(
    step: &'static str,
    holds: bool,
    found: impl FnOnce() -> String,
) -> Result<(), SandboxError> {
    if holds {
        Ok(())
    } else {
        Err(SandboxError::Unverified {
            step,
            found: found(),
        })
    }
}
