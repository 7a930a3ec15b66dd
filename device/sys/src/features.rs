//! What the host's kernel must offer (DESIGN section 15). Nothing here changes the process.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    Scope,
};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The Landlock rights that confinement handles, pinned: a newer build must not silently handle
/// others. ABI 6 is the first with scopes.
pub(crate) const PINNED: ABI = ABI::V6;

/// Number of the Landlock ABI that is needed, first in Linux 6.12.
pub const LANDLOCK_ABI: u32 = PINNED as u32;

/// Names everything that is needed and not there. Nothing has a substitute.
pub fn missing() -> impl Iterator<Item = &'static str> {
    [
        (has_landlock(), "Landlock with ABI 6 (Linux 6.12)"),
        (
            has_sealed_memory(),
            "memory files sealed against execution (Linux 6.3)",
        ),
        (has_pidfd(), "handles of processes (pidfd, Linux 5.3)"),
    ]
    .into_iter()
    .filter_map(|(works, name)| (!works).then_some(name))
}

fn has_landlock() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(PINNED))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(PINNED)))
        .and_then(|rules| rules.scope(Scope::from_all(PINNED)))
        .and_then(Ruleset::create)
        .is_ok()
}

fn has_sealed_memory() -> bool {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    memfd_create(c"probe", flags).is_ok()
}

fn has_pidfd() -> bool {
    i32::try_from(std::process::id()).is_ok_and(|me| crate::pidfd::open(me).is_ok())
}
