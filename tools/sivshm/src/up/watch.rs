//! The connection by which a device process tells its supervisor what only the supervisor can do.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use sivshm_device::admin_wire::{AdminAnswer, AdminEvent, AdminRequest};

use crate::ask::{ANSWER_TIMEOUT, send};

/// Longest line, in bytes: an event and the name of a VM.
const MAX_LINE_BYTES: usize = 1024;

/// A connection on which events come.
#[derive(Debug)]
pub struct Watch {
    stream: UnixStream,
    /// A line that is not whole yet.
    line: Vec<u8>,
    /// Whether the device process has answered that events follow.
    begun: bool,
}

impl Watch {
    /// Asks the device process that listens at `path`.
    ///
    /// # Errors
    /// It does not listen yet, or is gone.
    pub fn start(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        send(&stream, &AdminRequest::Watch {})?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            line: Vec::new(),
            begun: false,
        })
    }

    /// The events that have come.
    ///
    /// # Errors
    /// The connection is over: the device process has ended, or says what it may not.
    pub fn events(&mut self) -> io::Result<Vec<AdminEvent>> {
        let mut events = Vec::new();
        let mut bytes = [0; MAX_LINE_BYTES];
        let read = match self.stream.read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(events),
            Err(error) => return Err(error),
        };
        for byte in bytes.iter().take(read) {
            match byte {
                b'\n' => events.extend(self.end_line()?),
                _ if self.line.len() < MAX_LINE_BYTES => self.line.push(*byte),
                _ => return Err(io::Error::other("an event is too long")),
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> io::Result<Option<AdminEvent>> {
        let line = std::mem::take(&mut self.line);
        if self.begun {
            return Ok(Some(serde_json::from_slice(&line)?));
        }
        self.begun = true;
        match serde_json::from_slice(&line)? {
            AdminAnswer::Watching {} => Ok(None),
            _ => Err(io::Error::other("it does not let itself be watched")),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sivshm_device::admin_wire::Uncontained;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    fn watched() -> (Watch, UnixStream) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let watch = Watch::start(&path).unwrap();
        let (device, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&device).read_line(&mut request).unwrap();
        assert_eq!(request, "{\"command\":\"watch\"}\n");
        (watch, device)
    }

    #[test]
    fn events_come_in_parts_and_several_at_once() {
        let (mut watch, mut device) = watched();
        device
            .write_all(b"{\"answer\":\"watching\"}\n{\"unc")
            .unwrap();
        assert_eq!(watch.events().unwrap(), []);
        assert_eq!(watch.events().unwrap(), [], "nothing has come");
        let rest = b"ontained\":{\"vm\":\"ivi\",\"end_vmm\":true}}\n\
            {\"uncontained\":{\"vm\":\"ivi\",\"end_vmm\":false}}\n";
        device.write_all(rest).unwrap();
        let event = |end_vmm| {
            let vm = "ivi".to_owned();
            AdminEvent::Uncontained(Uncontained { vm, end_vmm })
        };
        assert_eq!(watch.events().unwrap(), [event(true), event(false)]);
        drop(device);
        assert!(watch.events().is_err());
    }

    #[test]
    fn a_refusal_nonsense_or_a_flood_ends_it() {
        let long = "x".repeat(MAX_LINE_BYTES + 1);
        for text in ["{\"answer\":\"refused\",\"reason\":\"no\"}\n", "?\n", &long] {
            let (mut watch, mut device) = watched();
            device.write_all(text.as_bytes()).unwrap();
            let ended = (0..3).any(|_| watch.events().is_err());
            assert!(ended, "{text}");
        }
    }
}
