//! One JSON line to a local socket, one JSON line back.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest wait for an answer on the admin socket and the supervisor's: both answer from memory,
/// between two events of a loop that bounds each event's work.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends `request` to the socket at `path` and reads the answer, of at most `max_bytes`.
///
/// # Errors
/// Nobody listens there, the other end closes or takes longer than `timeout`, or its answer is
/// longer or of another form than agreed.
pub fn ask<A: DeserializeOwned>(
    path: &Path,
    request: &impl Serialize,
    max_bytes: usize,
    timeout: Duration,
) -> io::Result<A> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    send(&stream, request)?;
    receive(&stream, max_bytes)
}

/// Writes one JSON line.
///
/// # Errors
/// The other end is gone or does not read.
pub fn send(mut stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Reads one JSON line of at most `max_bytes`, its newline included.
///
/// # Errors
/// The other end is gone or silent, or says something else.
pub fn receive<A: DeserializeOwned>(stream: &UnixStream, max_bytes: usize) -> io::Result<A> {
    let max_bytes = u64::try_from(max_bytes).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    BufReader::new(stream)
        .take(max_bytes)
        .read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        let short = if line.is_empty() {
            "the connection was closed without an answer"
        } else {
            "the answer has no end"
        };
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, short));
    }
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(bytes: &[u8], max_bytes: usize) -> io::Result<Vec<u32>> {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(bytes).unwrap();
        drop(far);
        receive(&near, max_bytes)
    }

    #[test]
    fn a_line_survives_the_way() {
        let (near, far) = UnixStream::pair().unwrap();
        send(&near, &vec![1, 2]).unwrap();
        assert_eq!(receive::<Vec<u32>>(&far, 64).unwrap(), [1, 2]);
    }

    #[test]
    fn an_answer_that_is_cut_too_long_or_nonsense_is_an_error() {
        assert!(answered(b"[1]\n", 4).is_ok());
        assert!(answered(b"[1]\n", 3).is_err());
        assert!(answered(b"[1]", 64).is_err());
        assert!(answered(b"", 64).is_err());
        assert!(answered(b"{}\n", 64).is_err());
    }
}
