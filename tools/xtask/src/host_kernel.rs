//! A kernel for tests that need a host of their own: Debian's, fetched and unpacked, never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sivshm_tests::process::output_of;

use crate::setup::DEBIAN_KEYS;
use crate::workspace::{shown, target};

/// Where Debian's packages are.
pub const MIRROR: &str = "http://deb.debian.org/debian";

/// The release whose kernel is the oldest line that device processes run on: 6.12.
const RELEASE: &str = "trixie";

/// The package that depends on the newest kernel.
const NEWEST: &str = "linux-image-cloud-amd64";

/// The kernel's image, fetched if it is not there (45 MB).
pub fn fetched() -> Result<PathBuf> {
    let folder = target()?.join("kernels").join("host");
    if !folder.exists() {
        let unfinished = folder.with_extension("unfinished");
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished)?;
        }
        fetch(&unfinished)?;
        std::fs::rename(&unfinished, &folder)?;
    }
    let entries = std::fs::read_dir(folder.join("boot"))?;
    let mut images = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_image = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("vmlinuz-"))
    };
    let image = images.find(is_image);
    image.with_context(|| format!("{} has no kernel", folder.display()))
}

/// By apt, which checks Debian's signatures, with nothing of the machine's own set-up.
fn fetch(folder: &Path) -> Result<()> {
    let state = folder.join("apt");
    for part in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(state.join(part))?;
    }
    let sources = state.join("sources.list");
    let source = format!("deb [arch=amd64 signed-by={DEBIAN_KEYS}] {MIRROR} {RELEASE} main\n");
    std::fs::write(&sources, source)?;
    std::fs::write(state.join("status"), "")?;
    let apt = |program: &str| {
        let mut command = Command::new(program);
        command.current_dir(folder);
        for (option, place) in [
            ("Dir::Etc::sourcelist", sources.clone()),
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
        // Neither descriptions nor icons; and another user can't write here.
        for option in [
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "APT::Sandbox::User=root",
        ] {
            command.args(["-o", option]);
        }
        command
    };
    shown(apt("apt-get").args(["-q", "update"]))?;
    let depends = output_of(apt("apt-cache").args(["depends", NEWEST]))?;
    let mut words = depends.split_whitespace();
    let package = words
        .find(|word| word.starts_with("linux-image-") && *word != NEWEST)
        .with_context(|| format!("{NEWEST} depends on no kernel"))?;
    shown(apt("apt-get").args(["-q", "download", package]))?;
    let entries = std::fs::read_dir(folder)?;
    let mut files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let file = files
        .find(|path| path.extension().is_some_and(|kind| kind == "deb"))
        .context("apt has fetched no package")?;
    shown(Command::new("dpkg-deb").arg("-x").args([&file, folder]))?;
    Ok(std::fs::remove_file(file)?)
}
