//! The one error of this binary: who is to blame decides the exit code.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line, or the order of commands, makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The policy file was refused; the text is its whole report.
    #[error("{0}")]
    Policy(String),
    /// This host lacks something that SIVSHM can't do without.
    #[error("this host can't run SIVSHM: {0}")]
    Unsupported(String),
    /// A device process, or the supervisor, said no.
    #[error("{who} refused: {reason}")]
    Refused {
        /// Who said so.
        who: String,
        /// Its reason.
        reason: String,
    },
    /// A device process, or the supervisor, did not answer as it must.
    #[error("{who} did not answer: {reason}")]
    NoAnswer {
        /// Who was asked.
        who: String,
        /// What happened instead.
        reason: String,
    },
    /// Something on this host is not as it must be.
    #[error("{0}")]
    Host(String),
    /// A file or a system call of this host failed.
    #[error("can't {what}: {source}")]
    Io {
        /// What was tried, as the end of "can't ...".
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// An operation on a file that failed.
    pub fn on(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{verb} {}", path.display());
        |source| Self::Io { what, source }
    }

    /// Any other operation of the host that failed. Takes what `nix` and `std` report alike.
    pub fn to<E: Into<io::Error>>(what: &str) -> impl FnOnce(E) -> Self {
        let what = what.to_owned();
        |source| Self::Io {
            what,
            source: source.into(),
        }
    }

    /// The exit code: 1 for the host, 2 for usage, policy and missing features, 3 for a refusal.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Host(_) | Self::Io { .. } | Self::NoAnswer { .. } => 1,
            Self::Usage(_) | Self::Policy(_) | Self::Unsupported(_) => 2,
            Self::Refused { .. } => 3,
        })
    }
}

/// An absolute form of a path given on the command line, without following its last link.
///
/// # Errors
/// The current directory is gone.
pub fn absolute(path: &Path) -> Outcome<PathBuf> {
    std::path::absolute(path).map_err(Failure::on("resolve", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blame_decides_the_exit_code() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let host = Failure::on("read", Path::new("/x"))(denied);
        assert_eq!(host.to_string(), "can't read /x: permission denied");
        assert_eq!(host.exit_code(), ExitCode::from(1));
        assert_eq!(Failure::Usage(String::new()).exit_code(), ExitCode::from(2));
        let refused = Failure::Refused {
            who: "device process of ivi".into(),
            reason: "no".into(),
        };
        assert_eq!(refused.exit_code(), ExitCode::from(3));
    }
}
