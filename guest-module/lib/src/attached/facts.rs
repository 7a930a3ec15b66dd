//! What a guest kernel would attest about this process.

use std::fs::File;
use std::io::{self, Read as _};

use nix::unistd::{getgid, getpid, getuid};
use sha2::{Digest as _, Sha256};
use sivshm_abi::frame::Facts;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// The facts, with the user that the launcher chose in place of the own one.
///
/// # Errors
/// The own executable can't be read.
pub(crate) fn of_this_process(guest_uid: Option<u32>) -> io::Result<Facts> {
    let mut executable = File::open("/proc/self/exe")?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut digest = Sha256::new();
    loop {
        let got = executable.read(&mut chunk)?;
        match chunk.get(..got) {
            Some(bytes) if !bytes.is_empty() => digest.update(bytes),
            _ => break,
        }
    }
    Ok(Facts {
        pid: u32::try_from(getpid().as_raw()).map_err(io::Error::other)?,
        uid: guest_uid.unwrap_or_else(|| getuid().as_raw()),
        gid: getgid().as_raw(),
        exe_sha256: Some(digest.finalize().into()),
    })
}
