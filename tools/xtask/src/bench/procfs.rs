//! What the kernel tells about processes.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// Reads a file of text.
///
/// # Errors
/// If it can't be read; the error names it.
pub fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("can't read {path}"))
}

/// Time that a process of one thread has spent on processors.
///
/// # Errors
/// If it has ended, or the kernel keeps no such times.
pub fn cpu(pid: u64) -> Result<Duration> {
    let text = read(&format!("/proc/{pid}/schedstat"))?;
    let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok());
    Ok(Duration::from_nanos(
        nanoseconds.context("this kernel keeps no scheduler statistics")?,
    ))
}

/// Memory of a process in KiB: resident, and the part of it that no file is behind.
///
/// # Errors
/// If it has ended.
pub fn resident_kib(pid: u64) -> Result<(u64, u64)> {
    let text = read(&format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.with_context(|| format!("no {name} of process {pid}"))
    };
    Ok((field("VmRSS:")?, field("RssAnon:")?))
}
