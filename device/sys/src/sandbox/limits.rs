//! Bounding what the process can use up.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{SandboxError, refused, verify};

const STEP: &str = "bound resources";

/// Bounds of resources. Core dumps, new processes and locked memory are always zero.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Open descriptors.
    pub files: u64,
    /// Address space, in bytes.
    pub address_space: u64,
    /// Heap and other private writable memory, in bytes.
    pub data: u64,
}

pub(super) fn set(limits: &Limits) -> Result<(), SandboxError> {
    let bounds = [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
        (Resource::RLIMIT_NOFILE, limits.files),
        (Resource::RLIMIT_AS, limits.address_space),
        (Resource::RLIMIT_DATA, limits.data),
    ];
    for (resource, bound) in bounds {
        setrlimit(resource, bound, bound).map_err(refused(STEP))?;
        let now = getrlimit(resource).map_err(refused(STEP))?;
        verify(STEP, now == (bound, bound), || {
            format!("{resource:?} is {now:?}")
        })?;
    }
    Ok(())
}
