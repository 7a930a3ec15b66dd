//! The system call filter, compiled from data.

use seccompiler::{BpfProgram, TargetArch};

/// Architectures with a reviewed list of calls. Another one is a build error, not an empty filter.
#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;

/// Why a text is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The text is not what `seccompiler` reads.
    #[error("host: the system call policy is malformed")]
    Malformed(#[source] seccompiler::Error),
    /// The text has no filter for the role.
    #[error("host: the system call policy has no role {0}")]
    NoSuchRole(&'static str),
}

/// A compiled filter of system calls.
#[derive(Clone, Debug)]
pub struct Filter(BpfProgram);

impl Filter {
    /// Compiles the filter of one role from a JSON policy in `seccompiler`'s format.
    ///
    /// # Errors
    /// The policy is malformed or has no such role.
    pub fn compile(policy: &str, role: &'static str) -> Result<Self, FilterError> {
        let mut roles = seccompiler::compile_from_json(policy.as_bytes(), ARCH)
            .map_err(FilterError::Malformed)?;
        let program = roles.remove(role).ok_or(FilterError::NoSuchRole(role))?;
        Ok(Self(program))
    }

    /// Puts instructions in front of the compiled ones.
    pub(crate) fn prepend(
        &mut self,
        instructions: impl IntoIterator<Item = seccompiler::sock_filter>,
    ) {
        self.0.splice(..0, instructions);
    }

    /// Installs the filter for the calling thread, for good.
    ///
    /// # Errors
    /// The kernel has no seccomp or refuses the program.
    pub fn install(&self) -> Result<(), seccompiler::Error> {
        seccompiler::apply_filter(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"{"one": {
        "mismatch_action": "kill_process", "match_action": "allow", "filter": [{"syscall": "read"}]
    }}"#;

    #[test]
    fn a_role_that_is_not_there_is_an_error_and_not_an_empty_filter() {
        assert!(Filter::compile(POLICY, "one").is_ok());
        assert!(matches!(
            Filter::compile(POLICY, "two"),
            Err(FilterError::NoSuchRole("two"))
        ));
        assert!(matches!(
            Filter::compile("{", "one"),
            Err(FilterError::Malformed(_))
        ));
    }
}
