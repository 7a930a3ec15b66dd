//! I4: what a process may map.

use super::*;
use crate::Errno;

#[test]
fn exactly_the_granted_range_maps() {
    let mut world = World::new();
    let (session, slot) = world.granted(5, Access::ReadOnly);
    let me = caller(session, 5);
    let read = Wanted {
        write: false,
        exec: false,
        shared: true,
    };
    let at = |within, length| world.gate.map(me, slot.offset() + within, length, read);
    let whole = Placement {
        window: WindowNumber(READ),
        offset: 4096,
        writable: false,
    };
    assert_eq!(at(0, 8192), Ok(whole));
    let second = Placement {
        offset: 8192,
        ..whole
    };
    assert_eq!(at(4096, 4096), Ok(second));
    for (within, length) in [(0, 12288), (4096, 8192), (8192, 4096), (0, u64::MAX - 4095)] {
        assert_eq!(at(within, length), Err(Errno::Denied), "{within} {length}");
    }
    for (within, length) in [(0, 0), (1, 4096), (0, 4095)] {
        assert_eq!(at(within, length), Err(Errno::Invalid), "{within} {length}");
    }
    let anywhere = [0x3000_0000_0000_0000, u64::MAX - 4095, 0];
    for offset in anywhere
        .into_iter()
        .filter(|offset| *offset != slot.offset())
    {
        assert_eq!(world.gate.map(me, offset, 4096, read), Err(Errno::Denied));
    }
}

#[test]
fn stores_execution_and_private_copies_are_refused() {
    let mut world = World::new();
    let (reader, read) = world.granted(5, Access::ReadOnly);
    let (writer, written) = world.granted(6, Access::ReadWrite);
    assert_eq!(world.map(caller(reader, 5), read, true), Err(Errno::Denied));
    assert!(
        world
            .map(caller(writer, 6), written, true)
            .is_ok_and(|at| at.writable)
    );
    let at = written.offset();
    for (exec, shared, errno) in [(true, true, Errno::Denied), (false, false, Errno::Invalid)] {
        let wanted = Wanted {
            write: false,
            exec,
            shared,
        };
        assert_eq!(
            world.gate.map(caller(writer, 6), at, 4096, wanted),
            Err(errno)
        );
    }
    // A page that enters a writable mapping would be writable, whatever the access that faulted.
    let fault = |write| {
        world
            .gate
            .fault(caller(reader, 5), read.offset(), 4096, write)
    };
    assert_eq!(fault(true), Err(Errno::Denied));
    assert!(fault(false).is_ok());
}

#[test]
fn a_grant_serves_its_own_session_and_address_space_only() {
    let mut world = World::new();
    let (mine, slot) = world.granted(5, Access::ReadOnly);
    let (other, _) = world.granted(6, Access::ReadOnly);
    for stranger in [caller(mine, 6), caller(other, 6)] {
        assert_eq!(world.map(stranger, slot, false), Err(Errno::Denied));
        let fault = world.gate.fault(stranger, slot.offset(), 4096, false);
        assert_eq!(fault, Err(Errno::Denied));
    }
    let nobody = SessionId(mine.0.wrapping_add(2));
    assert_eq!(world.map(caller(nobody, 5), slot, false), Err(Errno::Ended));
}

#[test]
fn nothing_maps_after_the_owner_closed() {
    let mut world = World::new();
    let (session, slot) = world.granted(5, Access::ReadOnly);
    world.gate.close(session, Files(5));
    assert_eq!(
        world.map(caller(session, 5), slot, false),
        Err(Errno::Ended)
    );
    let fault = world
        .gate
        .fault(caller(session, 5), slot.offset(), 4096, false);
    assert_eq!(fault, Err(Errno::Ended));
}
