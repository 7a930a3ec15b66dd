//! Ringing whom one was not granted.

use nix::errno::Errno;

use crate::report::{Got, attack};

use super::{NEIGHBOUR, STRANGER, beside_the_service, scene};

pub fn run(neighbour: bool) {
    let granted = scene(|s| s.session.notify(s.line()?.grant.id.0));
    let none = Got::Errno(Errno::ENOENT);

    let got = scene(|s| {
        let foreign = (1..).find(|id| !s.holds(*id)).unwrap_or(u32::MAX);
        s.session.notify(foreign)
    });
    attack("notify-without-grant", none, got, granted);

    if neighbour {
        let got = beside_the_service(NEIGHBOUR, |own, theirs| own.notify(theirs.id));
        attack("notify-with-another-session's-grant", none, got, granted);
    }

    let got = beside_the_service(STRANGER, |own, theirs| own.notify(theirs.id));
    attack(
        "notify-as-a-stranger",
        Got::Errno(Errno::ESHUTDOWN),
        got,
        granted,
    );
}
