//! Mapping what was not granted.

use std::os::fd::AsFd as _;

use nix::errno::Errno;

use crate::device::{Granted, map, map_flags, slot_offset};
use crate::report::{Got, attack};

use super::{NEIGHBOUR, PAGE, RO, RW, STRANGER, beside_the_service, scene};

/// Offset of a grant's second page.
const PAGE_OFFSET: i64 = 4096;

pub fn run(writes: Got, neighbour: bool) {
    let denied = Got::Errno(Errno::EACCES);

    let got = scene(|s| {
        let free = (0..u32::MAX)
            .find(|slot| s.granted.iter().all(|g| g.slot != *slot))
            .ok_or(Errno::ENODATA)?;
        map(s.session.0.as_fd(), slot_offset(free), PAGE, RO).map(drop)
    });
    attack("mmap-without-grant", denied, got, writes);

    // The window goes on behind the acknowledgement line; the grant does not.
    let got = scene(|s| map(s.session.0.as_fd(), s.line()?.offset(0), 2 * PAGE, RW).map(drop));
    attack("mmap-beyond-grant", denied, got, writes);
    let got =
        scene(|s| map(s.session.0.as_fd(), s.line()?.offset(PAGE_OFFSET), PAGE, RW).map(drop));
    attack("mmap-behind-grant", denied, got, writes);

    if neighbour {
        let own = beside_the_service(NEIGHBOUR, |own, _| {
            let (_, granted) = own.list()?;
            let first: &Granted = granted.first().ok_or(Errno::ENODATA)?;
            map(own.0.as_fd(), first.offset(0), PAGE, RO).map(drop)
        });
        let got = beside_the_service(NEIGHBOUR, |own, theirs| {
            map(own.0.as_fd(), slot_offset(theirs.slot), PAGE, RO).map(drop)
        });
        attack("mmap-of-another-session", denied, got, own);
    }

    let got = beside_the_service(STRANGER, |own, theirs| {
        map(own.0.as_fd(), slot_offset(theirs.slot), PAGE, RO).map(drop)
    });
    attack(
        "mmap-as-a-stranger",
        Got::Errno(Errno::ESHUTDOWN),
        got,
        writes,
    );

    let got = scene(|s| s.map(&s.writable()?, RW | libc::PROT_EXEC).map(drop));
    attack("mmap-executable", denied, got, writes);

    let got = scene(|s| {
        let (file, offset) = (s.session.0.as_fd(), s.writable()?.offset(0));
        map_flags(file, offset, PAGE, RW, libc::MAP_PRIVATE).map(drop)
    });
    attack("mmap-private", Got::Errno(Errno::EINVAL), got, writes);

    let got = scene(|s| s.map(&s.read_only()?, RW).map(drop));
    attack("mmap-read-only-for-writing", denied, got, writes);
}
