//! Files that are opened for a VMM before root is left.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::geteuid;
use sivshm_sys::memfd::{self, Ownership};

use crate::failure::{Failure, Outcome};
use crate::qemu::substitute::Named;

/// Open files with their names.
#[derive(Debug, Default)]
pub struct Files {
    named: Vec<Named>,
    descriptors: Vec<OwnedFd>,
    drives: Vec<String>,
}

impl Files {
    /// Opens what `--open-ro` and `--drive-ro` name, each `NAME=PATH`.
    ///
    /// # Errors
    /// A name is used twice or is no name, or a file can't be opened.
    pub fn open(plain: &[String], drives: &[String]) -> Outcome<Self> {
        let mut files = Self::default();
        for option in plain {
            files.add(option, reopenable)?;
        }
        for option in drives {
            // QEMU duplicates descriptors of a set and opens nothing again.
            let fd = files.add(option, Ok)?;
            // The descriptor's number serves as the set's: both are unique in this process.
            files.drives.extend([
                "-add-fd".to_owned(),
                format!("fd={fd},set={fd}"),
                "-drive".to_owned(),
                format!("if=virtio,readonly=on,format=raw,file=/dev/fdset/{fd}"),
            ]);
        }
        Ok(files)
    }

    /// Opens one file; gives its descriptor's number.
    fn add(&mut self, option: &str, prepare: fn(File) -> io::Result<File>) -> Outcome<i32> {
        let (name, path) = parse(option)?;
        if self.named.iter().any(|file| file.name == name) {
            return Err(Failure::Usage(format!("two files are named `{name}`")));
        }
        let path = Path::new(path);
        let open = || -> io::Result<(File, u64)> {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::other("it is no regular file"));
            }
            Ok((prepare(file)?, metadata.len()))
        };
        let (file, bytes) = open().map_err(Failure::on("open", path))?;
        let fd = file.as_raw_fd();
        self.named.push(Named {
            name: name.to_owned(),
            path: format!("/proc/self/fd/{fd}"),
            bytes,
        });
        self.descriptors.push(file.into());
        Ok(fd)
    }

    /// What `{NAME}` and `{NAME.bytes}` stand for.
    pub fn named(&self) -> &[Named] {
        &self.named
    }

    /// QEMU's arguments for the drives.
    pub fn drives(&self) -> Vec<String> {
        self.drives.clone()
    }

    /// The descriptors that the VMM inherits.
    pub fn into_descriptors(self) -> Vec<OwnedFd> {
        self.descriptors
    }
}

/// A path of `/proc/self/fd` is opened again, by the VM's user, as whom QEMU runs: a file that not
/// everybody may read, as kernels are on some distributions, is copied to memory.
fn reopenable(mut file: File) -> io::Result<File> {
    let metadata = file.metadata()?;
    if metadata.mode() & 0o004 != 0 || !geteuid().is_root() {
        return Ok(file);
    }
    let ownership = Ownership {
        uid: 0,
        gid: 0,
        mode: 0o444,
    };
    let mut copy = File::from(memfd::create(c"sivshm-file", metadata.len(), ownership)?);
    // Its size is sealed: a file that has grown meanwhile is an error.
    io::copy(&mut file, &mut copy)?;
    memfd::reopen_read_only(&copy.into()).map(File::from)
}

/// Splits `NAME=PATH`.
fn parse(option: &str) -> Outcome<(&str, &str)> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    option
        .split_once('=')
        .filter(|(name, path)| !name.is_empty() && name.chars().all(plain) && !path.is_empty())
        .ok_or_else(|| {
            Failure::Usage(format!(
                "`{option}` is not NAME=PATH with a name of letters, digits, `-` and `_`"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn files_are_opened_named_and_measured() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("input");
        std::fs::write(&path, "abc").unwrap();
        let option = |name: &str| vec![format!("{name}={}", path.display())];
        let files = Files::open(&option("kernel"), &option("input")).unwrap();
        assert_eq!(files.named()[1].bytes, 3);
        let fd = files.descriptors[1].as_raw_fd();
        assert_eq!(
            files.drives()[1..],
            [
                format!("fd={fd},set={fd}"),
                "-drive".into(),
                format!("if=virtio,readonly=on,format=raw,file=/dev/fdset/{fd}")
            ]
        );
        assert!(Files::open(&option("x"), &option("x")).is_err());
        assert!(Files::open(&[format!("x={}", folder.path().display())], &[]).is_err());
    }

    #[test]
    fn a_file_of_roots_own_is_copied_for_the_vms_user() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinuz");
        std::fs::write(&path, "kernel").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let file = reopenable(File::open(&path).unwrap()).unwrap();
        assert_eq!(io::read_to_string(&file).unwrap(), "kernel");
        let readable = file.metadata().unwrap().mode() & 0o004 != 0;
        assert_eq!(readable, geteuid().is_root());
    }

    #[test]
    fn only_a_name_and_a_path_are_accepted() {
        assert_eq!(parse("kernel=/a=b").unwrap(), ("kernel", "/a=b"));
        for bad in ["kernel", "=x", "x=", "a b=x", "{a}=x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
