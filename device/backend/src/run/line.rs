//! Connections that speak in JSON lines: launch and admin.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use sivshm_sys::scm;
use sivshm_sys::socket::PeerCredentials;

use crate::run::limits::LINE_WITHIN;
use crate::run::outbox::{Flushed, Outbox, Overflow, Right};

/// Bytes read at once: 64 reads bring the longest line ([`crate::admin_wire::MAX_REQUEST_BYTES`]).
const READ_BYTES: usize = 64 * 1024;

/// What reading brought.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Heard {
    /// Not a whole line yet.
    Part,
    /// The line, without its newline. It is the only one of the connection.
    Line(Vec<u8>),
    /// The other end has closed, or sends what it may not.
    End,
}

/// A connection that sends one line and gets one line, or if it stays, more.
#[derive(Debug)]
pub struct LineConnection<'h> {
    socket: OwnedFd,
    who: PeerCredentials,
    line: Vec<u8>,
    max: usize,
    heard: bool,
    outbox: Outbox<'h>,
    deadline: Option<Instant>,
}

impl<'h> LineConnection<'h> {
    /// Takes up an accepted connection, whose line may have `max` bytes and whose answer
    /// `max_answer`.
    #[must_use]
    pub fn new(
        socket: OwnedFd,
        who: PeerCredentials,
        max: usize,
        max_answer: usize,
        now: Instant,
    ) -> Self {
        Self {
            socket,
            who,
            line: Vec::new(),
            max,
            heard: false,
            outbox: Outbox::new(max_answer),
            deadline: Some(now + LINE_WITHIN),
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub const fn who(&self) -> PeerCredentials {
        self.who
    }

    /// Until when the line has to be whole and the answer taken; none once the connection stays.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the deadline has passed.
    #[must_use]
    pub fn expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|at| at <= now)
    }

    /// The connection stays, as a sign of life of whoever made it.
    pub const fn stay(&mut self) {
        self.deadline = None;
    }

    /// Whether the connection has no further use once everything is sent.
    #[must_use]
    pub const fn answered(&self) -> bool {
        self.heard && self.deadline.is_some()
    }

    /// Reads what is there.
    pub fn read(&mut self) -> Heard {
        let mut buffer = vec![0; READ_BYTES];
        let received = match scm::receive(&self.socket, &mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Part,
            Err(_) => return Heard::End,
        };
        let bytes = buffer.get(..received.bytes).unwrap_or_default();
        // Once the line is complete the connection is only a sign of life.
        if bytes.is_empty() || self.heard || !received.rights.is_empty() || received.truncated {
            return Heard::End;
        }
        let before = self.line.len();
        self.line.extend_from_slice(bytes);
        match bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .map(|at| before + at)
        {
            Some(end) if end + 1 == self.line.len() && end < self.max => {
                self.heard = true;
                self.line.truncate(end);
                Heard::Line(std::mem::take(&mut self.line))
            }
            None if self.line.len() < self.max => Heard::Part,
            _ => Heard::End,
        }
    }

    /// Queues the answer: a line, then descriptors, [`scm::MAX_RIGHTS`] to each byte that follows.
    ///
    /// # Errors
    /// The answer is longer than its bound.
    pub fn answer(&mut self, mut line: Vec<u8>, rights: &[Right<'h>]) -> Result<(), Overflow> {
        line.push(b'\n');
        self.outbox.push(line, Vec::new())?;
        rights
            .chunks(scm::MAX_RIGHTS)
            .try_for_each(|rights| self.outbox.push(vec![b'\n'], rights.to_vec()))
    }

    /// Sends what the socket takes now.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush(&mut self) -> io::Result<Flushed> {
        self.outbox.flush(&self.socket)
    }
}

impl AsFd for LineConnection<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::outbox::tests::pair;

    fn connection(max: usize) -> (LineConnection<'static>, OwnedFd) {
        let (here, there) = pair();
        let who = sivshm_sys::socket::peer_credentials(&here).unwrap();
        let now = Instant::now();
        (LineConnection::new(here, who, max, 1024, now), there)
    }

    #[test]
    fn a_line_comes_in_parts_and_once() {
        let (mut connection, there) = connection(10);
        assert_eq!(connection.read(), Heard::Part);
        scm::send(&there, b"ab", &[]).unwrap();
        assert_eq!(connection.read(), Heard::Part);
        assert!(!connection.answered());
        scm::send(&there, b"c\n", &[]).unwrap();
        assert_eq!(connection.read(), Heard::Line(b"abc".to_vec()));
        assert!(connection.answered());
        scm::send(&there, b"more\n", &[]).unwrap();
        assert_eq!(connection.read(), Heard::End);
    }

    #[test]
    fn a_connection_that_stays_has_no_deadline() {
        let (mut connection, there) = connection(10);
        let later = Instant::now() + 2 * LINE_WITHIN;
        assert!(connection.expired(later));
        scm::send(&there, b"abc\n", &[]).unwrap();
        connection.read();
        connection.stay();
        assert!(!connection.expired(later) && !connection.answered());
    }

    #[test]
    fn a_line_that_is_too_long_or_two_at_once_end_it() {
        for text in [&b"0123456789"[..], b"0123456789\n", b"a\nb\n"] {
            let (mut connection, there) = connection(10);
            scm::send(&there, text, &[]).unwrap();
            assert_eq!(connection.read(), Heard::End, "{text:?}");
        }
    }

    #[test]
    fn an_answer_carries_its_descriptors_in_order() {
        let (mut connection, there) = connection(10);
        let gifts = [(); 2].map(|()| sivshm_sys::eventfd::create().unwrap());
        sivshm_sys::eventfd::ring(&gifts[1]).unwrap();
        let rights: Vec<_> = gifts.iter().map(|fd| Right::Own(fd.as_fd())).collect();
        connection.answer(b"{}".to_vec(), &rights).unwrap();
        assert_eq!(connection.flush().unwrap(), Flushed::All);
        let (mut bytes, mut counts) = (Vec::new(), Vec::new());
        let mut buffer = [0; 64];
        while let Ok(received) = scm::receive(&there, &mut buffer) {
            bytes.extend_from_slice(&buffer[..received.bytes]);
            for fd in received.rights {
                counts.push(sivshm_sys::eventfd::drain(fd).unwrap());
            }
        }
        assert_eq!((bytes.as_slice(), counts), (&b"{}\n\n"[..], vec![0, 1]));
    }
}
