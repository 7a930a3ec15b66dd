//! Using a grant that the operator has revoked. Asks for that by an event, and is the last attempt on
//! a VM: the channel stays revoked.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::attempt::{attempt_as, load, store};
use crate::device::{Granted, Session, find, map};
use crate::report::{Got, attack, please_revoke};
use crate::service::obtain;

use super::{GRANTS, PAGE, RO, RW, SERVICE, Scene, scene};

/// Longest time for the operator to do it.
const REVOCATION_LIMIT: Duration = Duration::from_secs(60);

/// Grants of the one channel that is left: data and acknowledgement line.
const LEFT: usize = GRANTS / 2;

/// Tries to use what the service writes after it was revoked.
pub fn run() {
    let writes = scene(|s| s.map(&s.writable()?, RW).map(|m| store(m.start, 1)));
    let got = scene(|s| {
        let granted = s.writable()?;
        let m = s.map(&granted, RW)?;
        store(m.start, 1);
        // Its reader's line: the part of this channel whose peer can be rung.
        let line = find(&s.granted, false, false).ok_or(Errno::ENODATA)?;
        let rung = Got::from(s.session.notify(line.grant.id.0));
        please_revoke(&granted.grant.channel.to_string());
        wait_until_gone(&s.session, &granted)?;
        let again = Got::from(s.map(&granted, RO).map(drop));
        attack(
            "mmap-after-revocation",
            Got::Errno(Errno::EACCES),
            again,
            writes,
        );
        let again = Got::from(s.session.notify(line.grant.id.0));
        attack(
            "notify-after-revocation",
            Got::Errno(Errno::ENOENT),
            again,
            rung,
        );
        load(m.start);
        Ok(())
    });
    attack(
        "use-after-revocation",
        Got::Signal(Signal::SIGBUS),
        got,
        writes,
    );

    let kept = attempt_as(SERVICE, || {
        let s = Scene::open_with(LEFT)?;
        s.map(&s.read_only()?, RO).map(|m| m.touch())
    });
    let got = attempt_as(SERVICE, || {
        let session = Session::open()?;
        // Ends when nothing more will be granted, or too late.
        let granted = obtain(&session, GRANTS)?;
        let again = find(&granted, true, true).ok_or(Errno::ENODATA)?;
        map(session.0.as_fd(), again.offset(0), PAGE, RW).map(drop)
    });
    attack(
        "reopen-after-revocation",
        Got::Errno(Errno::ENODATA),
        got,
        kept,
    );
}

fn wait_until_gone(session: &Session, granted: &Granted) -> nix::Result<()> {
    let deadline = Instant::now() + REVOCATION_LIMIT;
    loop {
        let (_, list) = session.list()?;
        if list.iter().all(|g| g.slot != granted.slot) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::ETIMEDOUT);
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(
            &mut [PollFd::new(session.0.as_fd(), PollFlags::POLLIN)],
            timeout,
        )?;
    }
}
