//! Files and directories of a CA: private from their first moment, whole or not there, and on the
//! disk before anybody relies on them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

use crate::key::hex;

/// Mode of directories that hold keys.
pub const PRIVATE_DIR: u32 = 0o700;
/// Mode of files that hold keys, and of the ledger.
pub const PRIVATE: u32 = 0o600;
/// Mode of certificates; the caller's umask may narrow it.
pub const PUBLIC: u32 = 0o644;

/// A file operation that the host refused.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {}", path.display())]
pub struct FileError {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the host said.
    #[source]
    pub source: io::Error,
}

/// Names the operation and the path in an `io::Result`.
pub(crate) trait Context<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

/// One file to write.
pub struct NewFile<'a> {
    /// Name within its directory.
    pub name: &'a str,
    /// Content.
    pub bytes: &'a [u8],
    /// Permission bits at creation.
    pub mode: u32,
}

/// Writes a file that must not exist yet, and syncs it.
///
/// # Errors
/// The file exists, or the host refused.
pub fn create(dir: &Path, file: &NewFile<'_>) -> Result<(), FileError> {
    create_as(&dir.join(file.name), file)
}

fn create_as(path: &Path, file: &NewFile<'_>) -> Result<(), FileError> {
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(file.mode)
        .open(path)
        .context("create", path)?;
    out.write_all(file.bytes)
        .and_then(|()| out.sync_all())
        .context("write", path)
}

/// Replaces files of `dir` as one set: all are written beside their places first and then renamed,
/// so that each is old or new and never half. `dir` is made if it is missing.
///
/// # Errors
/// The host refused. What was written beside is removed again.
pub fn replace(dir: &Path, files: &[NewFile<'_>]) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIR)
        .create(dir)
        .context("create", dir)?;
    let suffix = random_suffix().context("name a temporary file in", dir)?;
    let beside = |file: &NewFile<'_>| dir.join(format!(".{}.{suffix}", file.name));
    let written = files
        .iter()
        .try_for_each(|file| create_as(&beside(file), file));
    let renamed = written.and_then(|()| {
        files.iter().try_for_each(|file| {
            let path = dir.join(file.name);
            fs::rename(beside(file), &path).context("put in place", &path)
        })
    });
    if renamed.is_err() {
        for file in files {
            // Best effort: those renamed or never created are not there, and the first error is
            // the one to report.
            let _ = fs::remove_file(beside(file));
        }
    }
    renamed?;
    sync_dir(dir)
}

/// Replaces one file, as [`replace`] does.
///
/// # Errors
/// `path` has no name of its own, is not UTF-8, or the host refused.
pub fn replace_one(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or(io::Error::from(io::ErrorKind::InvalidFilename))
        .context("create", path)?;
    replace(parent(path), &[NewFile { name, bytes, mode }])
}

/// A directory under a temporary name, which vanishes unless it is published.
pub struct Staging {
    path: PathBuf,
}

impl Staging {
    /// Makes a private directory beside `target`, and the parents of both if they are missing.
    ///
    /// # Errors
    /// `target` has no name of its own (`/`, `..`), or the host refused.
    pub fn beside(target: &Path) -> Result<Self, FileError> {
        let name = target
            .file_name()
            .ok_or(io::Error::from(io::ErrorKind::InvalidFilename))
            .context("create", target)?;
        let parent = parent(target);
        fs::create_dir_all(parent).context("create", parent)?;
        let suffix = random_suffix().context("name a temporary directory in", parent)?;
        let path = parent.join(format!(".{}.{suffix}", name.display()));
        DirBuilder::new()
            .mode(PRIVATE_DIR)
            .create(&path)
            .context("create", &path)?;
        Ok(Self { path })
    }

    /// Where the directory is for now.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the directory its name. An empty directory of that name is replaced; anything else
    /// is left alone.
    ///
    /// # Errors
    /// Something else has that name, or the host refused.
    pub fn publish(self, target: &Path) -> Result<(), FileError> {
        sync_dir(&self.path)?;
        fs::rename(&self.path, target).context("put in place", target)?;
        sync_dir(parent(target))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After `publish` nothing is there under this name; before, the error that brought us
        // here is the one to report.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The permission bits of a path.
///
/// # Errors
/// The host refused.
pub fn mode(path: &Path) -> Result<u32, FileError> {
    let meta = fs::metadata(path).context("look at", path)?;
    Ok(meta.mode() & 0o7777)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .context("sync", dir)
}

fn random_suffix() -> io::Result<String> {
    let mut bytes = [0; 8];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|ring::error::Unspecified| io::Error::other("the random source failed"))?;
    Ok(hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    const KEY: NewFile<'_> = NewFile {
        name: "key",
        bytes: b"new",
        mode: PRIVATE,
    };

    #[test]
    fn replacing_leaves_only_the_new_files_with_their_modes() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b");
        replace(&out, &[KEY]).unwrap();
        replace(&out, &[KEY]).unwrap();
        assert_eq!(names(&out), ["key"]);
        assert_eq!(mode(&out.join("key")).unwrap(), PRIVATE);
        assert_eq!(mode(&out).unwrap(), PRIVATE_DIR);
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_file_and_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("key"), "old").unwrap();
        fs::create_dir_all(dir.path().join("chain/in-the-way")).unwrap();
        let chain = NewFile {
            name: "chain",
            ..KEY
        };
        assert!(replace(dir.path(), &[chain, KEY]).is_err());
        assert_eq!(names(dir.path()), ["chain", "key"]);
        assert_eq!(fs::read(dir.path().join("key")).unwrap(), b"old");
    }

    #[test]
    fn an_existing_file_is_never_opened_for_creation() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("key")).unwrap();
        let error = create(dir.path(), &KEY).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn an_unpublished_directory_vanishes() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("ca");
        let staging = Staging::beside(&target).unwrap();
        create(staging.path(), &KEY).unwrap();
        drop(staging);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn publishing_never_replaces_a_directory_with_content() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("ca");
        let staging = Staging::beside(&target).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(target.join("precious"), "").unwrap();
        assert!(staging.publish(&target).is_err());
        assert_eq!(names(dir.path()), ["ca"]);
        assert_eq!(names(&target), ["precious"]);
    }
}
