//! A claim to be a service, by whatever papers. It believes every device process.

use std::io::{Read as _, Write as _};
use std::time::Instant;

use nix::errno::Errno;
use serde_json::json;
use sivshm_abi::frame::{Facts, Payload};
use sivshm_abi::limits::MAX_DATA_BYTES;
use sivshm_hostile::end::event;
use sivshm_hostile::papers::{DECIDED_WITHIN, Papers, client, question};

use crate::errno_of;
use crate::line::{Heard, Inherited, Line};

/// Reads what was passed.
pub fn read(inherited: &Inherited) -> nix::Result<Papers> {
    let [chain, key, _] = inherited.papers()?;
    Papers::from_pem(&chain, &key)
}

/// Says why the session was closed, or that the device process talks with it.
pub fn claim(line: &mut Line, facts: Facts, papers: Option<&Papers>) -> nix::Result<()> {
    let session = line.open(facts)?;
    let mut tls = client(papers).map_err(|_| Errno::EINVAL)?;
    let deadline = Instant::now() + DECIDED_WITHIN;
    let mut asked = false;
    loop {
        let mut bytes = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut bytes)
                .map_err(|error| errno_of(&error))?;
        }
        // A whole handshake is within the credit that a session begins with.
        for part in bytes.chunks(MAX_DATA_BYTES) {
            line.send(session, &Payload::Data(part))?;
        }
        match line.hear(deadline)?.ok_or(Errno::ETIMEDOUT)? {
            (_, Heard::Data(bytes)) => {
                let mut bytes = bytes.as_slice();
                // That TLS ends is less than the reason that comes next.
                let read = tls.read_tls(&mut bytes).is_ok() && tls.process_new_packets().is_ok();
                if read && tls.reader().read(&mut [0; 1]).is_ok_and(|count| count > 0) {
                    event("proved", "", &json!({}));
                    return Ok(());
                }
                if read && !tls.is_handshaking() && !asked {
                    asked = true;
                    let question = question().ok_or(Errno::EINVAL)?;
                    tls.writer()
                        .write_all(&question)
                        .map_err(|error| errno_of(&error))?;
                }
            }
            (_, Heard::Closed(reason)) => {
                event("closed", "", &json!({ "reason": reason.words() }));
                return Ok(());
            }
            (_, Heard::Credit(_)) => {}
        }
    }
}
