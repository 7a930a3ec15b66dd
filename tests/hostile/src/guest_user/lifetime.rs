//! Using a grant longer, or in more processes, than it lasts.

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::attempt::{as_result, ended, load, spawn, store};
use crate::report::{Got, attack};

use super::{RW, scene};

pub fn run(writes: Got) {
    let got = scene(|s| {
        let m = s.map(&s.writable()?, RW)?;
        store(m.start, 1);
        drop(s);
        load(m.start);
        Ok(())
    });
    attack("use-after-close", Got::Signal(Signal::SIGBUS), got, writes);

    let got = scene(|s| {
        let m = s.map(&s.writable()?, RW)?;
        store(m.start, 1);
        let at = m.start;
        as_result(ended(spawn(move || {
            load(at);
            Ok(())
        })?))
    });
    attack(
        "mapping-inherited-by-fork",
        Got::Signal(Signal::SIGSEGV),
        got,
        writes,
    );

    // The child's close must not end its parent's session: here, success is what is wanted.
    let got = scene(|s| {
        let m = s.map(&s.writable()?, RW)?;
        let file = std::os::fd::AsRawFd::as_raw_fd(&s.session.0);
        // SAFETY: closes the child's copy of a descriptor that the child does not use again.
        let close = move || Errno::result(unsafe { libc::close(file) }).map(drop);
        as_result(ended(spawn(close)?))?;
        store(m.start, 1);
        Ok(())
    });
    attack("close-by-a-child", Got::Success, got, writes);
}
