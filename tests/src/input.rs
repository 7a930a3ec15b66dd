//! The file that the counting job reads, and an independent count.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// Smallest and largest size, in bytes, of a file that the demo takes by itself: tens of MB.
const DEFAULT_INPUT_BYTES: std::ops::RangeInclusive<u64> = 10_000_000..=60_000_000;

/// Bytes that the independent pass reads at a time.
const PASS_BYTES: usize = 1 << 20;

/// A real file of tens of MB that this machine has: the largest of QEMU's binary, the boot images,
/// and the programs of the Rust toolchain that fits.
///
/// # Errors
/// If there is none; the message asks for `--input`.
pub fn default_input() -> Result<PathBuf> {
    let mut candidates = vec![PathBuf::from("/usr/bin/qemu-system-x86_64")];
    let sysroot = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .ok();
    let sysroot = sysroot.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let folders = sysroot
        .map(|path| PathBuf::from(path).join("bin"))
        .into_iter();
    for folder in folders.chain([PathBuf::from("/boot")]) {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        candidates.extend(entries.map(|entry| entry.path()));
    }
    let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |meta| meta.len());
    candidates.retain(|path| DEFAULT_INPUT_BYTES.contains(&size(path)));
    candidates
        .into_iter()
        .max_by_key(|path| (size(path), path.clone()))
        .context("found no file of tens of MB on this machine: name one with --input")
}

/// Counts a byte in a file, in one pass that shares no code with the job.
///
/// # Errors
/// If the file can't be read.
pub fn count(path: &Path, byte: u8) -> Result<(u64, u64)> {
    let mut file = File::open(path).with_context(|| format!("can't open {}", path.display()))?;
    let mut buffer = vec![0; PASS_BYTES];
    let (mut bytes, mut count) = (0, 0);
    loop {
        let read = file.read(&mut buffer)?;
        let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else {
            return Ok((bytes, count));
        };
        bytes += u64::try_from(read)?;
        count += u64::try_from(chunk.iter().filter(|found| **found == byte).count())?;
    }
}
