//! Writing the directory: what a guest is told about its port and windows (DESIGN section 6,
//! `docs/port.md`).
//!
//! The directory describes what the VMM was launched with, and nothing later: a running VMM can't
//! be given another memory.

use sivshm_abi::control::DIRECTORY_BYTES;
use sivshm_abi::directory::{DirectoryHead, WindowEntry};
use sivshm_abi::wire::{NoSpace, Writer};
use sivshm_ring::{OutOfBounds, Shared};

/// Bytes of the directory, as an array has them.
const BYTES: usize = 32 * 1024;
const _: () = assert!(BYTES as u64 == DIRECTORY_BYTES);

/// A directory did not fit its place; the policy has more windows than the limits allow.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// More windows than the directory has lines.
    #[error("the windows do not fit the directory: the policy has too many slices for this VM")]
    Windows(#[from] NoSpace),
    /// The control memory is smaller than its layout.
    #[error("the control memory is too small for a directory")]
    Memory(#[from] OutOfBounds),
}

/// Writes the whole directory into control memory; unused bytes become zero.
///
/// # Errors
/// [`DirectoryError`]; the directory's old bytes stay then, or part of them.
pub fn publish(
    memory: Shared,
    head: &DirectoryHead,
    windows: &[WindowEntry],
) -> Result<(), DirectoryError> {
    let mut bytes = vec![0; BYTES];
    let mut writer = Writer::new(&mut bytes);
    head.write(&mut writer)?;
    windows
        .iter()
        .try_for_each(|window| window.write(&mut writer))?;
    Ok(memory.copy_in(0, &bytes)?)
}

/// Erases the directory: a driver that looks now finds no port of ours.
///
/// # Errors
/// The control memory is smaller than its layout.
pub fn erase(memory: Shared) -> Result<(), DirectoryError> {
    Ok(memory.copy_in(0, &[0; BYTES])?)
}
