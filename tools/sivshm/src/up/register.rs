//! The supervisor's socket, `up.sock`: `sivshm run` says which VM's VMM it is about to become.
//!
//! The supervisor then holds a handle of that process, which stays the same across exec, and ends
//! it when the VM's device process is lost (DESIGN section 5).

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use sivshm_sys::socket::peer_credentials;

use crate::ask::{ANSWER_TIMEOUT, ask, receive, send};
use crate::failure::{Failure, Outcome};

/// Longest message, in bytes: a name, or a sentence with two names.
const MAX_MESSAGE_BYTES: usize = 1024;

/// How long the supervisor waits for a request. `sivshm run` sends it at once, and only root can
/// connect at all.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

/// What `sivshm run` says.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    vm: String,
}

/// What the supervisor answers.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
enum Answer {
    Registered,
    Refused { reason: String },
}

/// Registers this process as the VMM of `vm`.
///
/// # Errors
/// No supervisor listens at `path`, or it refuses.
pub fn register(path: &Path, vm: &str) -> Outcome {
    let request = Registration { vm: vm.to_owned() };
    match ask(path, &request, MAX_MESSAGE_BYTES, ANSWER_TIMEOUT) {
        Ok(Answer::Registered) => Ok(()),
        Ok(Answer::Refused { reason }) => Err(Failure::Refused {
            who: "the supervisor (`sivshm up`)".into(),
            reason,
        }),
        Err(error) => Err(Failure::NoAnswer {
            who: "the supervisor (`sivshm up`)".into(),
            reason: error.to_string(),
        }),
    }
}

/// The listening end.
#[derive(Debug)]
pub struct Registrar {
    listener: UnixListener,
    path: PathBuf,
}

/// A process that waits for the answer to its registration.
#[derive(Debug)]
pub struct Applicant {
    /// Its process id.
    pub pid: i32,
    /// The VM that it names.
    pub vm: String,
    connection: UnixStream,
}

impl Registrar {
    /// Listens at `path`, for this user only.
    ///
    /// # Errors
    /// The directory is gone or the path too long.
    pub fn listen(path: &Path) -> Outcome<Self> {
        let listener = UnixListener::bind(path).map_err(Failure::on("listen on", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(Failure::on("restrict", path))?;
        listener
            .set_nonblocking(true)
            .map_err(Failure::on("listen on", path))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Takes one request, if one waits and is well-formed.
    pub fn accept(&self) -> Option<Applicant> {
        let (connection, _) = self.listener.accept().ok()?;
        match Self::read(connection) {
            Ok(applicant) => Some(applicant),
            Err(error) => {
                tracing::warn!("{}: bad registration: {error}", self.path.display());
                None
            }
        }
    }

    fn read(connection: UnixStream) -> std::io::Result<Applicant> {
        let peer = peer_credentials(&connection)?;
        if peer.uid != 0 && peer.uid != geteuid().as_raw() {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        connection.set_nonblocking(false)?;
        connection.set_read_timeout(Some(REQUEST_TIMEOUT))?;
        connection.set_write_timeout(Some(REQUEST_TIMEOUT))?;
        let Registration { vm } = receive(&connection, MAX_MESSAGE_BYTES)?;
        Ok(Applicant {
            pid: peer.pid,
            vm,
            connection,
        })
    }
}

impl AsFd for Registrar {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Applicant {
    /// Answers. An applicant that is gone by now needs no answer.
    pub fn answer(self, result: Result<(), String>) {
        let answer = match result {
            Ok(()) => Answer::Registered,
            Err(reason) => Answer::Refused { reason },
        };
        let _ = send(&self.connection, &answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(vm: &'static str, result: Result<(), String>) -> Outcome {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("up.sock");
        let registrar = Registrar::listen(&path).unwrap();
        let client = std::thread::spawn(move || register(&path, vm));
        let applicant = loop {
            if let Some(applicant) = registrar.accept() {
                break applicant;
            }
            std::thread::yield_now();
        };
        assert_eq!(applicant.vm, vm);
        assert_eq!(applicant.pid, std::process::id().cast_signed());
        applicant.answer(result);
        client.join().unwrap()
    }

    #[test]
    fn a_vmm_is_registered_by_its_own_pid() {
        applied("ivi", Ok(())).unwrap();
    }

    #[test]
    fn a_refusal_reaches_the_applicant() {
        let error = applied("ivi", Err("it runs already".into())).unwrap_err();
        assert!(matches!(error, Failure::Refused { reason, .. } if reason == "it runs already"));
    }
}
