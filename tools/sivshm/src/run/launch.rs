//! Taking a VM's windows from its device process (`launch/VM.sock`).

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sivshm_device::launch_wire::{
    LAUNCH_VERSION, LaunchAnswer, LaunchRequest, LaunchWindow, MAX_ANSWER_BYTES,
    RIGHTS_PER_MESSAGE, VmmKind,
};
use sivshm_sys::scm;

use crate::ask::send;
use crate::failure::{Failure, Outcome};

/// How long an answer may take: the device process waits 30 seconds for its peers, and then says so.
const TIMEOUT: Duration = Duration::from_secs(40);

/// Most bytes read at once while descriptors may come.
const CHUNK_BYTES: usize = 4096;

/// What a device process gave.
#[derive(Debug)]
pub struct Launched {
    /// Stays open as the VMM's sign of life.
    pub connection: OwnedFd,
    /// Vectors of the port.
    pub vectors: u16,
    /// The windows, each with its memory.
    pub windows: Vec<(LaunchWindow, OwnedFd)>,
}

/// Asks the device process at `socket` to launch.
///
/// # Errors
/// Nobody listens there, or it refuses.
pub fn launch(socket: &Path, vmm: VmmKind, program: &str) -> Outcome<Launched> {
    let no_answer = |error: io::Error| Failure::NoAnswer {
        who: format!("the device process at {}", socket.display()),
        reason: error.to_string(),
    };
    let stream = UnixStream::connect(socket).map_err(no_answer)?;
    let request = LaunchRequest {
        version: LAUNCH_VERSION,
        vmm,
        program: program.to_owned(),
    };
    send(&stream, &request).map_err(no_answer)?;
    let mut incoming = Incoming {
        stream,
        deadline: Instant::now() + TIMEOUT,
        bytes: Vec::new(),
        rights: Vec::new(),
    };
    match incoming.answer().map_err(no_answer)? {
        LaunchAnswer::Launched {
            vectors, windows, ..
        } => {
            let fds = incoming.descriptors(windows.len()).map_err(no_answer)?;
            Ok(Launched {
                connection: incoming.stream.into(),
                vectors,
                windows: windows.into_iter().zip(fds).collect(),
            })
        }
        LaunchAnswer::Refused { reason, missing } => {
            let missing = match missing.as_slice() {
                [] => String::new(),
                names => format!("; missing: {}", names.join(", ")),
            };
            Err(Failure::Refused {
                who: format!("the device process at {}", socket.display()),
                reason: format!("{reason}{missing}"),
            })
        }
    }
}

/// The receiving end: bytes and the descriptors that ride on them.
#[derive(Debug)]
struct Incoming {
    stream: UnixStream,
    deadline: Instant,
    bytes: Vec<u8>,
    rights: Vec<OwnedFd>,
}

impl Incoming {
    /// Reads up to the end of the answer's line.
    fn answer(&mut self) -> io::Result<LaunchAnswer> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let rest = self.bytes.split_off(end + 1);
                let line = std::mem::replace(&mut self.bytes, rest);
                return Ok(serde_json::from_slice(&line)?);
            }
            if self.bytes.len() > MAX_ANSWER_BYTES {
                return Err(io::Error::other("its answer is too long"));
            }
            self.receive()?;
        }
    }

    /// Reads the bytes on which `count` descriptors ride.
    fn descriptors(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        let carriers = count.div_ceil(RIGHTS_PER_MESSAGE);
        while self.bytes.len() < carriers {
            self.receive()?;
        }
        if self.rights.len() == count && self.bytes.iter().all(|byte| *byte == b'\n') {
            return Ok(std::mem::take(&mut self.rights));
        }
        Err(io::Error::other(format!(
            "it sent {} descriptors for {count} windows",
            self.rights.len()
        )))
    }

    /// Waits for bytes and takes them.
    fn receive(&mut self) -> io::Result<()> {
        let mut chunk = [0; CHUNK_BYTES];
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, timeout)? == 0 {
            return Err(ErrorKind::TimedOut.into());
        }
        let received = scm::receive(&self.stream, &mut chunk)?;
        if received.truncated {
            return Err(io::Error::other(
                "this process can't hold so many open files; raise `ulimit -n`",
            ));
        }
        self.rights.extend(received.rights);
        match chunk.get(..received.bytes) {
            Some(bytes) if !bytes.is_empty() => self.bytes.extend_from_slice(bytes),
            _ => {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "it closed the connection; see its log",
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    /// Plays a device process that says `answer` and sends `rights` descriptors.
    fn launched(answer: LaunchAnswer, rights: usize) -> Outcome<Launched> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let device = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            assert!(request.contains(r#""program":"qemu""#), "{request}");
            let mut line = serde_json::to_string(&answer).unwrap();
            line.push('\n');
            stream.write_all(line.as_bytes()).unwrap();
            let files: Vec<_> = (0..rights)
                .map(|_| sivshm_sys::eventfd::create().unwrap())
                .collect();
            for some in files.chunks(RIGHTS_PER_MESSAGE) {
                let fds: Vec<_> = some.iter().map(|fd| fd.as_fd()).collect();
                scm::send(&stream, b"\n", &fds).unwrap();
            }
        });
        let result = launch(&path, VmmKind::Qemu, "qemu");
        device.join().unwrap();
        result
    }

    fn answer(windows: usize) -> LaunchAnswer {
        let window = LaunchWindow {
            slice: 0,
            bytes: 4096,
            writable: true,
            place: None,
        };
        LaunchAnswer::Launched {
            vm: "ivi".into(),
            vectors: 3,
            windows: vec![window; windows],
        }
    }

    #[test]
    fn every_window_comes_with_its_descriptor() {
        for windows in [0, 1, RIGHTS_PER_MESSAGE, RIGHTS_PER_MESSAGE + 1] {
            let got = launched(answer(windows), windows).unwrap();
            assert_eq!((got.windows.len(), got.vectors), (windows, 3));
        }
    }

    #[test]
    fn too_few_descriptors_are_an_error() {
        assert!(launched(answer(2), 1).is_err());
        assert!(launched(answer(1), 0).is_err());
    }

    #[test]
    fn a_refusal_names_the_missing_peers() {
        let refused = LaunchAnswer::Refused {
            reason: "not all peers answered in 30 s".into(),
            missing: vec!["worker-2".into()],
        };
        let error = launched(refused, 0).unwrap_err();
        assert!(error.to_string().ends_with("30 s; missing: worker-2"));
        assert!(matches!(error, Failure::Refused { .. }));
    }
}
