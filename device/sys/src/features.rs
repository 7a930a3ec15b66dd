//! What the host's kernel must offer (DESIGN section 15). Nothing here changes the process.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    Scope,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::utsname::uname;

/// The Landlock rights that confinement handles, pinned: a newer build must not silently handle
/// others. ABI 6 is the first with scopes.
pub(crate) const PINNED: ABI = ABI::V6;

/// Number of the Landlock ABI that is needed, first in Linux 6.12.
pub const LANDLOCK_ABI: u32 = PINNED as u32;

/// First kernel with everything that is needed.
const LEAST: (u32, u32) = (6, 12);

/// The host's kernel is not enough for a device process.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the kernel is Linux {release} and lacks {}; on Debian 12 install the kernel of bookworm-backports",
    .missing.join(", ")
)]
pub struct Lacking {
    release: String,
    missing: Vec<&'static str>,
}

/// Checks this host. Nothing that is needed has a substitute.
///
/// # Errors
/// Names everything that is missing at once.
pub fn check() -> Result<(), Lacking> {
    let release = uname().map_or_else(
        |_| "of an unknown release".to_owned(),
        |name| name.release().to_string_lossy().into_owned(),
    );
    let new = version(&release).is_some_and(|found| found >= LEAST);
    let missing: Vec<_> = [
        (new, "what Linux 6.12 has"),
        (has_landlock(), "Landlock with ABI 6 (Linux 6.12)"),
        (
            has_sealed_memory(),
            "memory files sealed against execution (Linux 6.3)",
        ),
        (has_pidfd(), "handles of processes (pidfd, Linux 5.3)"),
    ]
    .into_iter()
    .filter_map(|(there, name)| (!there).then_some(name))
    .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Lacking { release, missing })
    }
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    Some((major, numbers.next()?.parse().ok()?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version("6.12.5-cloud-amd64"), Some((6, 12)));
        assert_eq!(version("7.0"), Some((7, 0)));
        assert!(version("6.1.0-30-amd64").unwrap() < LEAST);
        assert!(version("6.9").unwrap() < LEAST && version("10.1").unwrap() > LEAST);
        assert_eq!(version("unknown"), None);
    }
}
