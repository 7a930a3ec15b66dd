//! More from a mapping than it was made for.

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::attempt::{attempt, store};
use crate::device::{Mapped, anonymous};
use crate::report::{Got, attack};

use super::{PAGE, RO, RW, scene};

pub fn run(writes: Got, reads: Got) {
    let denied = Got::Errno(Errno::EACCES);

    let got = scene(|s| s.map(&s.read_only()?, RO).map(|m| store(m.start, 1)));
    attack(
        "store-through-read-only",
        Got::Signal(Signal::SIGSEGV),
        got,
        writes,
    );

    let allowed = scene(|s| protect(&s.map(&s.writable()?, RO)?, RW));
    let got = scene(|s| protect(&s.map(&s.read_only()?, RO)?, RW));
    attack("mprotect-to-write", denied, got, allowed);
    let got = scene(|s| protect(&s.map(&s.writable()?, RW)?, RO | libc::PROT_EXEC));
    attack("mprotect-to-execute", denied, got, allowed);

    // A page of this program's own can be grown and moved.
    let movable = attempt(|| {
        grow(&anonymous(PAGE)?)?;
        move_away(&anonymous(PAGE)?)
    });
    let got = scene(|s| grow(&s.map(&s.read_only()?, RO)?));
    attack(
        "mremap-to-grow",
        Got::Errno(Errno::EFAULT),
        got,
        movable.and(reads),
    );
    let got = scene(|s| move_away(&s.map(&s.read_only()?, RO)?));
    attack(
        "mremap-to-move",
        Got::Errno(Errno::EINVAL),
        got,
        movable.and(reads),
    );

    let advisable = attempt(|| {
        let page = anonymous(PAGE)?;
        advise(&page, libc::MADV_DOFORK)?;
        advise(&page, libc::MADV_DODUMP)
    });
    for (name, advice) in [
        ("madvise-to-fork", libc::MADV_DOFORK),
        ("madvise-to-dump", libc::MADV_DODUMP),
    ] {
        let got = scene(|s| advise(&s.map(&s.writable()?, RW)?, advice));
        attack(name, Got::Errno(Errno::EINVAL), got, advisable.and(writes));
    }
}

fn protect(m: &Mapped, prot: i32) -> nix::Result<()> {
    // SAFETY: changes only the protection of pages that `m` owns.
    Errno::result(unsafe { libc::mprotect(m.start.as_ptr().cast(), m.length, prot) }).map(drop)
}

fn advise(m: &Mapped, advice: i32) -> nix::Result<()> {
    // SAFETY: neither advice given here changes what the pages of `m` hold.
    Errno::result(unsafe { libc::madvise(m.start.as_ptr().cast(), m.length, advice) }).map(drop)
}

fn grow(m: &Mapped) -> nix::Result<()> {
    remap(m, 2 * m.length, libc::MREMAP_MAYMOVE, 0)
}

fn move_away(m: &Mapped) -> nix::Result<()> {
    let place = anonymous(m.length)?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    remap(m, m.length, flags, place.start.as_ptr() as usize)
}

fn remap(m: &Mapped, length: usize, flags: i32, place: usize) -> nix::Result<()> {
    // SAFETY: `place` is 0 or a page that only this attempt knows; the process ends before anybody
    // uses what has moved.
    let moved = unsafe { libc::mremap(m.start.as_ptr().cast(), m.length, length, flags, place) };
    if moved == libc::MAP_FAILED {
        Err(Errno::last())
    } else {
        Ok(())
    }
}
