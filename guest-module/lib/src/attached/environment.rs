//! What the launcher says, in the environment variable [`super::ATTACH_VARIABLE`].
#![expect(unsafe_code, reason = "descriptors are named by number")]

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use serde::Deserialize;
use zeroize::Zeroizing;

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
    identity: Option<Identity>,
}

/// Numbers of the descriptors that an identity is read from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    svid: RawFd,
    key: RawFd,
    bundle: RawFd,
    crl: Option<RawFd>,
}

/// PEM texts of an identity.
pub(crate) struct IdentityTexts {
    pub(crate) svid: Zeroizing<Vec<u8>>,
    pub(crate) key: Zeroizing<Vec<u8>>,
    pub(crate) bundle: Zeroizing<Vec<u8>>,
    pub(crate) crl: Option<Zeroizing<Vec<u8>>>,
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

/// Reads the identity that was passed, from files of at most `longest` bytes each. They stay open
/// and unmoved, so that another session can read them again.
///
/// # Errors
/// The text is no such JSON, names no identity, or a number is no such file.
pub(crate) fn identity(text: &str, longest: usize) -> io::Result<IdentityTexts> {
    let text: Text = serde_json::from_str(text)?;
    let given = text.identity.ok_or_else(|| {
        let hint = "no identity was passed: name the service to `sivshm run --service`";
        io::Error::new(io::ErrorKind::NotFound, hint)
    })?;
    let read = |fd| read(fd, longest);
    Ok(IdentityTexts {
        svid: read(given.svid)?,
        key: read(given.key)?,
        bundle: read(given.bundle)?,
        crl: given.crl.map(read).transpose()?,
    })
}

fn read(fd: RawFd, longest: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::from(copy(fd)?);
    let mut bytes = Zeroizing::new(vec![0; longest + 1]);
    let mut filled = 0;
    loop {
        let at = u64::try_from(filled).map_err(io::Error::other)?;
        match bytes.get_mut(filled..) {
            Some(space) if !space.is_empty() => match file.read_at(space, at)? {
                0 => break,
                count => filled += count,
            },
            _ => return Err(io::ErrorKind::FileTooLarge.into()),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// A copy of an inherited descriptor.
fn copy(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY:
    // - the number is not negative;
    // - the descriptor need not be open: the copy made at once fails with EBADF then. If this
    //   process has reused the number for another file, what is read from it, or the check of its
    //   size and seals, refuses it.
    let inherited = unsafe { BorrowedFd::borrow_raw(fd) };
    inherited.try_clone_to_owned()
}

impl Window {
    fn take(&self) -> io::Result<(u64, OwnedFd)> {
        let own = copy(self.fd)?;
        check_file(&own, self.bytes)?;
        Ok((self.bytes, own))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

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

    #[test]
    fn an_identity_is_read_from_the_start_and_more_than_once() {
        let [svid, key, bundle] = ["svid", "key", "bundle"].map(|text| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        });
        let text = |key: RawFd| {
            format!(
                r#"{{"port":"/p","windows":[],"guest_uid":7,
                    "identity":{{"svid":{},"key":{key},"bundle":{}}}}}"#,
                svid.as_raw_fd(),
                bundle.as_raw_fd()
            )
        };
        let given = text(key.as_raw_fd());
        for _ in 0..2 {
            let texts = identity(&given, 6).unwrap();
            let [svid, key, bundle] =
                [&texts.svid, &texts.key, &texts.bundle].map(|t| t.as_slice());
            assert_eq!(
                (svid, key, bundle),
                (&b"svid"[..], &b"key"[..], &b"bundle"[..])
            );
            assert!(texts.crl.is_none());
        }
        assert!(identity(&given, 5).is_err());
        assert!(identity(&text(-1), 6).is_err());
        let none = identity(r#"{"port":"/p","windows":[],"guest_uid":null}"#, 6);
        assert_eq!(none.err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
