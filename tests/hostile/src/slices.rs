//! A writer's own view of its slices, from a host process that stands in for its VM: what it put
//! there must still be there after others have tried to change it.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use serde::Deserialize;

use crate::attempt::{load, store};
use crate::device::{Mapped, map};

/// What to do with the slices.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Action {
    /// Fill them with bytes that differ from place to place.
    Fill,
    /// Only look.
    Look,
}

/// `SIVSHM_ATTACH`, as far as it is needed here.
#[derive(Debug, Deserialize)]
struct Attachment {
    windows: Vec<Window>,
}

#[derive(Debug, Deserialize)]
struct Window {
    fd: i32,
    bytes: usize,
    access: String,
}

/// Prints one event with a digest of each slice that this VM writes, in the directory's order.
pub fn run(action: Action) -> nix::Result<()> {
    let text = std::env::var("SIVSHM_ATTACH").map_err(|_| Errno::ENOENT)?;
    let attachment: Attachment = serde_json::from_str(&text).map_err(|_| Errno::EPROTO)?;
    let mut digests = Vec::new();
    for window in attachment
        .windows
        .iter()
        .filter(|w| w.access == "read_write")
    {
        // SAFETY: `sivshm run` left the descriptor open for this program, which closes none.
        let file = unsafe { BorrowedFd::borrow_raw(window.fd) };
        let memory = map(file, 0, window.bytes, libc::PROT_READ | libc::PROT_WRITE)?;
        if action == Action::Fill {
            fill(&memory);
        }
        digests.push(digest(&memory));
    }
    println!(
        "{}",
        serde_json::json!({ "event": "slices", "digests": digests })
    );
    Ok(())
}

fn fill(memory: &Mapped) {
    for at in 0..memory.length {
        // SAFETY: `at` is below the length of the mapping.
        store(
            unsafe { memory.start.add(at) },
            (at as u64).wrapping_mul(PRIME).to_be_bytes()[3],
        );
    }
}

/// FNV-1a, which a change by accident or by a peer that does not see it will not pass.
fn digest(memory: &Mapped) -> u64 {
    (0..memory.length).fold(BASIS, |hash, at| {
        // SAFETY: `at` is below the length of the mapping.
        let byte = load(unsafe { memory.start.add(at) });
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    })
}

const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;
