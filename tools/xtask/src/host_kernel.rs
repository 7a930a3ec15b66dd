//! A kernel for tests that need a host of their own: Debian's, fetched and unpacked, never installed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::debian::Suite;
use crate::workspace::target;

/// The release whose kernel is the oldest line that device processes run on: 6.12.
const RELEASE: &str = "trixie";

/// The package that depends on the newest kernel.
const NEWEST: &str = "linux-image-cloud-amd64";

/// The kernel's image, fetched if it is not there (45 MB).
pub fn fetched() -> Result<PathBuf> {
    let folder = target()?.join("kernels").join("host");
    if !folder.exists() {
        let unfinished = folder.with_extension("unfinished");
        let suite = Suite::new(RELEASE, &unfinished)?;
        let package = suite.dependency(NEWEST, "linux-image-")?;
        suite.unpack(&package.with_context(|| format!("{NEWEST} depends on no kernel"))?)?;
        std::fs::rename(&unfinished, &folder)?;
    }
    let entries = std::fs::read_dir(folder.join("boot"))?;
    let mut images = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_image = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("vmlinuz-"))
    };
    let image = images.find(|path| is_image(path));
    image.with_context(|| format!("{} has no kernel", folder.display()))
}
