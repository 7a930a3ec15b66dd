//! Debian's packages, fetched and unpacked: nothing is installed, and nothing of the machine's own
//! set-up is used or changed. apt checks Debian's signatures.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use sivshm_tests::process::output_of;

use crate::workspace::shown;

/// Where the packages are.
pub const MIRROR: &str = "http://deb.debian.org/debian";

/// The keys that Debian signs them with; bookworm's package has those of trixie's archives too.
pub const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A suite of the archive, whose packages are unpacked into a folder.
#[derive(Debug)]
pub struct Suite {
    folder: PathBuf,
}

impl Suite {
    /// Makes the folder anew and fetches the list of packages.
    ///
    /// # Errors
    /// The folder can't be made, or apt fails; it has said why.
    pub fn new(suite: &str, folder: &Path) -> Result<Self> {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        let made = Self {
            folder: std::path::absolute(folder)?,
        };
        let state = made.state();
        for part in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(state.join(part))?;
        }
        let source = format!("deb [signed-by={KEYS}] {MIRROR} {suite} main\n");
        std::fs::write(state.join("sources.list"), source)?;
        std::fs::write(state.join("status"), "")?;
        made.get(&["update"])?;
        Ok(made)
    }

    /// The first package that this one depends on and whose name begins so.
    ///
    /// # Errors
    /// apt fails.
    pub fn dependency(&self, package: &str, beginning: &str) -> Result<Option<String>> {
        let depends = output_of(self.apt("apt-cache").args(["depends", package]))?;
        let mut words = depends.split_whitespace();
        let found = words.find(|word| word.starts_with(beginning) && *word != package);
        Ok(found.map(str::to_owned))
    }

    /// Unpacks a package: `NAME`, or `NAME=VERSION`.
    ///
    /// # Errors
    /// There is no such package, or no room; the programs have said why.
    pub fn unpack(&self, package: &str) -> Result<()> {
        self.get(&["download", package])?;
        for entry in std::fs::read_dir(&self.folder)? {
            let file = entry?.path();
            if file.extension().is_some_and(|kind| kind == "deb") {
                shown(
                    Command::new("dpkg-deb")
                        .arg("-x")
                        .args([&file, &self.folder]),
                )?;
                std::fs::remove_file(file)?;
            }
        }
        Ok(())
    }

    fn state(&self) -> PathBuf {
        self.folder.join("apt")
    }

    /// What apt says is progress, and no result of the task's.
    fn get(&self, arguments: &[&str]) -> Result<()> {
        let mut apt = self.apt("apt-get");
        shown(apt.arg("-q").args(arguments).stdout(io::stderr()))
    }

    fn apt(&self, program: &str) -> Command {
        let state = self.state();
        let mut command = Command::new(program);
        command.current_dir(&self.folder);
        for (option, place) in [
            ("Dir::Etc::sourcelist", state.join("sources.list")),
            ("Dir::Etc::sourceparts", PathBuf::from("/dev/null")),
            ("Dir::State", state.clone()),
            ("Dir::State::lists", state.join("lists")),
            ("Dir::State::status", state.join("status")),
            ("Dir::Cache", state.join("cache")),
        ] {
            command
                .arg("-o")
                .arg(format!("{option}={}", place.display()));
        }
        // Neither descriptions nor icons; another user can't write here; and networks fail.
        for option in [
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "APT::Sandbox::User=root",
            "Acquire::Retries=3",
        ] {
            command.args(["-o", option]);
        }
        command
    }
}
