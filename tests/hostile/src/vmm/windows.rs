//! What the launcher handed over: the windows of this VM.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use serde::Deserialize;

use crate::device::adopt;

/// What `SIVSHM_ATTACH` says.
#[derive(Deserialize)]
struct Attachment {
    port: PathBuf,
    windows: Vec<Window>,
}

#[derive(Deserialize)]
struct Window {
    fd: i32,
    access: String,
}

/// Everything that was inherited.
#[derive(Debug)]
pub struct Windows {
    pub port: PathBuf,
    /// Slices that the VM writes.
    pub written: Vec<OwnedFd>,
    /// Slices that it reads.
    pub read: Vec<OwnedFd>,
}

/// Takes what this process inherited.
pub fn inherited() -> nix::Result<Windows> {
    let text = std::env::var("SIVSHM_ATTACH").map_err(|_| Errno::ENODATA)?;
    let attachment: Attachment = serde_json::from_str(&text).map_err(|_| Errno::EBADMSG)?;
    let mut windows = Windows {
        port: attachment.port,
        written: Vec::new(),
        read: Vec::new(),
    };
    for window in attachment.windows {
        let slice = adopt(window.fd);
        if window.access == "read_write" {
            windows.written.push(slice);
        } else {
            windows.read.push(slice);
        }
    }
    Ok(windows)
}

impl Windows {
    /// One slice that this VM reads.
    pub fn read_only(&self) -> nix::Result<BorrowedFd<'_>> {
        first(&self.read)
    }

    /// One slice that this VM writes.
    pub fn own(&self) -> nix::Result<BorrowedFd<'_>> {
        first(&self.written)
    }
}

fn first(slices: &[OwnedFd]) -> nix::Result<BorrowedFd<'_>> {
    slices.first().map(OwnedFd::as_fd).ok_or(Errno::ENODATA)
}
