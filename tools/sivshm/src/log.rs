//! The supervisor's own log, and the ends of others' logs.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use tracing_subscriber::EnvFilter;

/// How much of a log's end is looked at, in bytes: forty lines of a hundred.
const TAIL_BYTES: u64 = 4096;

/// Logs to standard error, at the level that `SIVSHM_LOG` names or `info`.
pub fn start() {
    let filter = EnvFilter::try_from_env("SIVSHM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
}

/// The last lines of a log behind its first `skip` bytes; empty if it can't be read.
pub fn last_lines(path: &Path, skip: u64, count: usize) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let len = file.metadata().map_or(0, |metadata| metadata.len());
        let _ = file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES).max(skip)));
        let _ = file.take(TAIL_BYTES).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let earlier = lines.len().saturating_sub(count);
    lines
        .into_iter()
        .skip(earlier)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_log_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert_eq!(last_lines(&path, 0, 2), "");
        std::fs::write(&path, format!("{}\nb\nc\n", "a".repeat(5000))).unwrap();
        assert_eq!(last_lines(&path, 0, 2), "b\nc");
        assert!(last_lines(&path, 0, 9).len() < 4096);
        assert_eq!(last_lines(&path, 5003, 9), "c");
    }
}
