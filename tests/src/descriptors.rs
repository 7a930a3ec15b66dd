//! What the kernel tells root about the descriptors of a process.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};

/// One descriptor of a process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Descriptor {
    /// What it is.
    pub object: Object,
    /// Device and inode of the object: which one it is, for files and sockets.
    pub identity: (u64, u64),
    /// Whether it is open for reading only.
    pub read_only: bool,
}

/// What a descriptor stands for.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Object {
    /// A slice, with the number that its creator gave it.
    Slice(u32),
    /// The control memory of a port.
    Control,
    /// An eventfd, with the number that the kernel knows it by.
    Doorbell(u64),
    /// A socket.
    Socket,
    /// Anything else, as its link names it.
    Other(String),
}

/// All descriptors of a process, by number. The caller must be root.
///
/// # Errors
/// There is no such process, or its descriptors may not be looked at.
pub fn of(process: u32) -> Result<Vec<Descriptor>> {
    let folder = format!("/proc/{process}/fd");
    let mut numbers = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("can't list {folder}"))? {
        numbers.push(entry?.file_name().to_string_lossy().parse::<u32>()?);
    }
    numbers.sort_unstable();
    numbers
        .into_iter()
        .map(|number| {
            describe(process, number)
                .with_context(|| format!("can't look at descriptor {number} of process {process}"))
        })
        .collect()
}

fn describe(process: u32, number: u32) -> Result<Descriptor> {
    let path = format!("/proc/{process}/fd/{number}");
    let link = fs::read_link(&path)?.to_string_lossy().into_owned();
    let metadata = fs::metadata(&path)?;
    let info = fs::read_to_string(format!("/proc/{process}/fdinfo/{number}"))?;
    let field = |name: &str| {
        let mut fields = info.lines().filter_map(|line| line.split_once(':'));
        fields.find_map(|(key, value)| (key == name).then(|| value.trim().to_owned()))
    };
    let flags = u32::from_str_radix(&field("flags").context("no flags")?, 8)?;
    let slice = link.strip_prefix("/memfd:sivshm-slice-");
    let object = match slice.and_then(|rest| rest.split(' ').next()?.parse().ok()) {
        Some(slice) => Object::Slice(slice),
        None if link.starts_with("/memfd:sivshm-control") => Object::Control,
        None if link == "anon_inode:[eventfd]" => {
            Object::Doorbell(field("eventfd-id").context("no eventfd-id")?.parse()?)
        }
        None if link.starts_with("socket:") => Object::Socket,
        None => Object::Other(link),
    };
    Ok(Descriptor {
        object,
        identity: (metadata.dev(), metadata.ino()),
        // O_ACCMODE is 3 and O_RDONLY is 0.
        read_only: flags & 3 == 0,
    })
}
