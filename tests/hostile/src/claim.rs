//! A claim to be a service, by whatever SVID and key a hostile process has. It believes every device
//! process, and looks at what becomes of its session.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::ClientConnection;
use sivshm_abi::limits::MAX_DATA_BYTES;
use sivshm_hostile::papers::{DECIDED_WITHIN, Papers, client, question};

use crate::attempt::errno_of;
use crate::device::Session;
use crate::report::Got;

/// Reads `PATH.pem` and `PATH.key`.
pub fn read(path: &str) -> nix::Result<Papers> {
    let read = |suffix| std::fs::read(format!("{path}.{suffix}")).map_err(errno_of);
    Papers::from_pem(&read("pem")?, &read("key")?)
}

/// What a session gets that claims by these papers, or by none, to be the service that its process
/// is: success if the device process talks with it.
pub fn claim(papers: Option<&Papers>) -> Got {
    talk(papers).unwrap_or_else(Got::Errno)
}

/// What a session gets that says this, whatever it is, and no more.
pub fn say(bytes: &[u8]) -> Got {
    let said = Session::open().and_then(|session| {
        // A session that takes no more is about to say why.
        let _ = (&session.0).write_all(bytes);
        listen(&session, |_| None)
    });
    said.unwrap_or_else(Got::Errno)
}

fn talk(papers: Option<&Papers>) -> nix::Result<Got> {
    let session = Session::open()?;
    let mut tls = client(papers).map_err(|_| Errno::EINVAL)?;
    let mut asked = false;
    flush(&mut tls, &session);
    listen(&session, |mut bytes| {
        while !bytes.is_empty() {
            // Whether this is the end is what the session's state says.
            tls.read_tls(&mut bytes).ok()?;
            let heard = tls.process_new_packets().ok()?;
            if heard.plaintext_bytes_to_read() > 0 {
                return Some(Got::Success);
            }
        }
        if !tls.is_handshaking() && !asked {
            asked = true;
            tls.writer().write_all(&question()?).ok()?;
        }
        flush(&mut tls, &session);
        None
    })
}

/// Hears what the device process says until `heard` knows what that means, or the session has ended.
fn listen(session: &Session, mut heard: impl FnMut(&[u8]) -> Option<Got>) -> nix::Result<Got> {
    let deadline = Instant::now() + DECIDED_WITHIN;
    loop {
        let (_, granted) = session.list()?;
        if !granted.is_empty() {
            return Ok(Got::Success);
        }
        if let Some(reason) = session.ended()? {
            return Ok(Got::Closed(reason));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let news = PollFlags::POLLIN | PollFlags::POLLPRI;
        let mut fds = [PollFd::new(session.0.as_fd(), news)];
        if poll(&mut fds, timeout)? == 0 {
            return Err(Errno::ETIMEDOUT);
        }
        if fds[0]
            .revents()
            .is_some_and(|came| came.contains(PollFlags::POLLIN))
        {
            let mut space = [0; MAX_DATA_BYTES];
            let bytes = (&session.0).read(&mut space).map_err(errno_of)?;
            if let Some(got) = heard(&space[..bytes]) {
                return Ok(got);
            }
        }
    }
}

/// Says what TLS has to say; a session that takes no more is about to say why.
fn flush(tls: &mut ClientConnection, session: &Session) {
    let mut bytes = Vec::new();
    while tls.wants_write() && tls.write_tls(&mut bytes).is_ok() {}
    let _ = (&session.0).write_all(&bytes);
}
