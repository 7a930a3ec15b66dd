//! A process of the host that has a device process's user but not its key.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use crate::attempt::{attempt, errno_of};
use crate::report::{Got, attack};

/// Longest time for a device process to end a connection: its own bound is 5 s.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Most bytes that a device process says to somebody who has not authenticated: an alert.
const LAST_WORDS_BYTES: usize = 64;

/// Tries to be taken for a peer on `socket`. `name` tells apart the users that this runs as.
pub fn run(name: &str, socket: &Path) {
    let granted = attempt(|| UnixStream::connect(socket).map(drop).map_err(errno_of));
    let wanted = Got::Errno(Errno::ENOTCONN);
    let talks: [(&str, &[u8]); 3] = [
        ("no-tls", &[0; 64]),
        // A record header that announces more than TLS allows.
        ("oversized-record", &[22, 3, 1, 0xff, 0xff]),
        ("silence", &[]),
    ];
    for (talk, bytes) in talks {
        let got = attempt(|| told(socket, bytes));
        attack(&format!("{name}-with-{talk}"), wanted, got, granted);
    }
}

/// Says `bytes` and listens. Whoever is refused hears at most an alert before the end.
fn told(socket: &Path, bytes: &[u8]) -> nix::Result<()> {
    let mut stream = UnixStream::connect(socket).map_err(errno_of)?;
    stream.set_read_timeout(Some(END_LIMIT)).map_err(errno_of)?;
    // The other end may have closed already: what it said decides.
    let _ = stream.write_all(bytes);
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) if heard.len() <= LAST_WORDS_BYTES => Err(Errno::ENOTCONN),
        Ok(_) => Ok(()),
        // It closed with bytes of ours unread.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(Errno::ENOTCONN),
        Err(error) => Err(errno_of(error)),
    }
}
