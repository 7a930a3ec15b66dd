//! Landlock: no file, no TCP port, no signal and no abstract socket of anybody else.
//!
//! Landlock does not restrict connecting to a socket in a directory; the root directory does that.

use landlock::{
    Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, RestrictionStatus,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

use super::{SandboxError, verify};
use crate::facts::FdInfo;
use crate::features::PINNED;

const STEP: &str = "restrict file, network and signal access";

/// Leaves reading of files below the process's own `fdinfo`, and nothing else.
pub(super) fn only_read_below(fdinfo: &FdInfo) -> Result<(), SandboxError> {
    let restrict = || {
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(PINNED))?
            .handle_access(AccessNet::from_all(PINNED))?
            .scope(Scope::from_all(PINNED))?
            .create()?
            .add_rule(PathBeneath::new(fdinfo, AccessFs::ReadFile))?
            .restrict_self()
    };
    check(restrict())
}

pub(crate) fn check(status: Result<RestrictionStatus, RulesetError>) -> Result<(), SandboxError> {
    let status = status.map_err(|error| SandboxError::Landlock(Box::new(error)))?;
    let full = status.ruleset == RulesetStatus::FullyEnforced && status.no_new_privs;
    verify(STEP, full, || format!("the host answered {status:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use landlock::make_bitflags;

    /// Spelled out, so that a widening or narrowing shows in review.
    #[test]
    fn the_pinned_rights_are_these() {
        assert_eq!(
            AccessFs::from_all(PINNED),
            make_bitflags!(AccessFs::{
                Execute | WriteFile | ReadFile | ReadDir | RemoveDir | RemoveFile | MakeChar
                    | MakeDir | MakeReg | MakeSock | MakeFifo | MakeBlock | MakeSym | Refer
                    | Truncate | IoctlDev
            })
        );
        assert_eq!(
            AccessNet::from_all(PINNED),
            make_bitflags!(AccessNet::{BindTcp | ConnectTcp})
        );
        assert_eq!(
            Scope::from_all(PINNED),
            make_bitflags!(Scope::{AbstractUnixSocket | Signal})
        );
    }
}
