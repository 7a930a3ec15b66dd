//! What the launcher says, in the environment variable [`super::ATTACH_VARIABLE`].
#![expect(unsafe_code, reason = "descriptors are named by number")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use serde::Deserialize;

use crate::mapping::check_file;

/// What was inherited.
#[derive(Debug)]
pub(crate) struct Environment {
    /// The port's socket.
    pub(crate) port: PathBuf,
    /// Windows, by number: bytes and memory.
    pub(crate) windows: Vec<(u64, OwnedFd)>,
    /// The user to be taken for.
    pub(crate) guest_uid: Option<u32>,
}

/// The JSON form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    port: PathBuf,
    windows: Vec<Window>,
    guest_uid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    fd: RawFd,
    bytes: u64,
    #[serde(rename = "access")]
    _access: Access,
}

/// How the descriptor was opened. What may be done with it is the descriptor's own affair; the
/// value is parsed so that a launcher of another version is noticed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Access {
    ReadOnly,
    ReadWrite,
}

impl Environment {
    /// Parses the text and takes copies of the descriptors, after a check that they are sealed
    /// memory of the size stated.
    ///
    /// # Errors
    /// The text is no such JSON, or a number is no such descriptor.
    pub(crate) fn parse(text: &str) -> io::Result<Self> {
        let text: Text = serde_json::from_str(text)?;
        let windows = text.windows.iter().map(Window::take);
        Ok(Self {
            port: text.port,
            windows: windows.collect::<io::Result<_>>()?,
            guest_uid: text.guest_uid,
        })
    }
}

impl Window {
    fn take(&self) -> io::Result<(u64, OwnedFd)> {
        if self.fd < 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY:
        // - the number is not negative;
        // - the descriptor need not be open: the copy made at once fails with EBADF then. If this
        //   process has reused the number for another file, the check below refuses it.
        let inherited = unsafe { BorrowedFd::borrow_raw(self.fd) };
        let own = inherited.try_clone_to_owned()?;
        check_file(&own, self.bytes)?;
        Ok((self.bytes, own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sealed_memory_of_the_stated_size_is_taken() {
        let text = |fd: RawFd| {
            format!(
                r#"{{"port":"/p","windows":[{{"fd":{fd},"bytes":4096,"access":"read_only"}}],"guest_uid":7}}"#
            )
        };
        assert!(Environment::parse("{}").is_err());
        assert!(Environment::parse(&text(-1)).is_err());
        assert!(Environment::parse(&text(987_654)).is_err());
        assert!(Environment::parse(&text(0)).is_err());
        let none = r#"{"port":"/p","windows":[],"guest_uid":null}"#;
        assert_eq!(Environment::parse(none).unwrap().guest_uid, None);
    }
}
