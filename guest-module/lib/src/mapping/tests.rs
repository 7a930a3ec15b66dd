//! Mappings that are emptied. A file that is cut short stands for a grant that has ended: the kernel
//! answers an access to what it does not have any more in the same way.
#![expect(unsafe_code, reason = "handlers of signals are called by the kernel")]

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};
use std::sync::{Barrier, OnceLock};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, getegid, geteuid};
use sivshm_abi::channel::head;
use sivshm_abi::grant::Integrity;
use sivshm_ring::line::{Fault, ReaderLine};
use sivshm_ring::region;
use sivshm_ring::slots::{Consumer, Geometry, Producer, ReceiveError};
use sivshm_sys::memfd::{Ownership, create};

use super::ranges::{Range, Ranges};
use super::*;

const PAGE: u64 = 4096;
const EPOCH: u64 = 9;

/// Names to a process of its own what it is to do.
const PART: &str = "SIVSHM_TEST_PART";

#[test]
fn a_blanked_area_is_out_of_reach_and_still_there() {
    let ownership = Ownership {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        mode: 0o600,
    };
    let file = create(c"test", 8192, ownership).unwrap();
    assert!(check_file(&file, 8192).is_ok());
    assert!(check_file(&file, 4096).is_err());
    let access = Access::ReadWrite;
    let [ours, other] = [(); 2].map(|()| Mapping::new(&file, 4096, 4096, access).unwrap());
    ours.shared().store_u32(0, 1).unwrap();
    assert_eq!(other.shared().load_u32(0), Ok(1));
    ours.area().blank().unwrap();
    assert_eq!(ours.shared().load_u32(0), Ok(0));
    ours.shared().store_u32(0, 2).unwrap();
    assert_eq!(other.shared().load_u32(0), Ok(1));
}

#[test]
fn a_file_that_could_shrink_is_refused() {
    let file = tempfile::tempfile().unwrap();
    assert!(check_file(&file, 0).is_err());
}

/// A mapping of a file, and its file.
fn watched(pages: u64, access: Access) -> (File, Mapping) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(pages * PAGE).unwrap();
    let mapping = Mapping::watched(&file, 0, pages * PAGE, access).unwrap();
    (file, mapping)
}

/// A mapping that the library does not watch, whose pages are gone.
fn foreign() -> Mapping {
    let file = tempfile::tempfile().unwrap();
    file.set_len(PAGE).unwrap();
    let mapping = Mapping::new(&file, 0, PAGE, Access::ReadOnly).unwrap();
    file.set_len(0).unwrap();
    mapping
}

#[test]
fn a_mapping_whose_pages_go_away_is_empty_all_at_once() {
    for access in [Access::ReadWrite, Access::ReadOnly] {
        let (file, mapping) = watched(3, access);
        let other = Mapping::new(&file, 0, PAGE, Access::ReadWrite).unwrap();
        other.shared().store_u64(0, 7).unwrap();
        assert_eq!(mapping.shared().load_u64(0), Ok(7));
        file.set_len(PAGE).unwrap();
        Errno::set_raw(1234);
        assert_eq!(mapping.shared().load_u64(2 * 4096), Ok(0));
        assert_eq!(Errno::last_raw(), 1234);
        // This page the file still has.
        assert_eq!(mapping.shared().load_u64(0), Ok(0));
        assert_eq!(other.shared().load_u64(0), Ok(7));
    }
    let (file, mapping) = watched(2, Access::ReadWrite);
    file.set_len(0).unwrap();
    mapping.shared().copy_in(4000, &[7; 200]).unwrap();
    assert_eq!(mapping.shared().load_u64(4096), Ok(0x0707_0707_0707_0707));
}

#[test]
fn two_threads_lose_their_pages_at_once() {
    let together = Barrier::new(2);
    for _ in 0..50 {
        let (file, mapping) = watched(2, Access::ReadWrite);
        file.set_len(0).unwrap();
        std::thread::scope(|scope| {
            for offset in [0, 4096] {
                let (together, memory) = (&together, mapping.shared());
                scope.spawn(move || {
                    together.wait();
                    assert_eq!(memory.load_u64(offset), Ok(0));
                });
            }
        });
    }
}

/// The copy of a message begins on pages that are there and ends on empty ones.
#[test]
fn a_message_that_goes_away_while_it_is_copied_is_not_received() {
    let (file, range) = watched(3, Access::ReadWrite);
    let (_line_file, line) = watched(1, Access::ReadWrite);
    let readers = [ReaderLine::new(line.shared(), EPOCH).unwrap()];
    let mut writer = region::Writer::start(range.shared(), readers, EPOCH).unwrap();
    let mut reader = region::Reader::join(range.shared(), line.shared(), EPOCH).unwrap();
    let mut bytes = [0; 8192];
    writer.write(0, &[7; 8192]).unwrap();
    writer.publish(8192).unwrap();
    let message = reader.poll().unwrap().unwrap();
    reader.copy_out(message, 0, &mut bytes).unwrap();
    file.set_len(2 * PAGE).unwrap();
    let refused = reader.copy_out(message, 0, &mut bytes);
    assert_eq!(refused, Err(Fault::Withdrawn.into()));
    assert_eq!((bytes[0], bytes[8191]), (7, 0), "it was torn");
    assert_eq!(reader.poll(), Ok(None));
}

/// The same with a slot.
#[test]
fn a_slot_that_goes_away_while_it_is_copied_is_not_received() {
    for (integrity, overwrite, expected) in [
        (Integrity::None, false, Err(Fault::Slot.into())),
        (Integrity::None, true, Ok(None)),
        (
            Integrity::Crc32c,
            false,
            Err(ReceiveError::Integrity(crate::IntegrityFault::Loss)),
        ),
        (Integrity::Crc32c, true, Ok(None)),
    ] {
        let (file, range) = watched(16, Access::ReadWrite);
        let (_line_file, line) = watched(1, Access::ReadWrite);
        let geometry = Geometry {
            slot_bytes: 8192,
            overwrite,
            integrity,
        };
        let readers = [ReaderLine::new(line.shared(), EPOCH).unwrap()];
        let (range, line) = (range.shared(), line.shared());
        let mut producer = Producer::start(range, geometry, readers, EPOCH).unwrap();
        let mut consumer = Consumer::join(range, line, geometry, EPOCH).unwrap();
        producer.stage(&[7; 8192]).unwrap();
        producer.publish();
        file.set_len(2 * PAGE).unwrap();
        let mut bytes = [0; 8192];
        let received = match integrity {
            Integrity::None => consumer.receive(&mut bytes),
            _ => consumer.receive_sealed(&mut bytes, 8192, |_, _| panic!("there is no slot")),
        };
        assert_eq!(received, expected, "{integrity:?} {overwrite}");
        assert_eq!(range.load_u64(head::EPOCH), Ok(0));
    }
}

#[test]
fn a_range_is_found_by_its_addresses_and_no_others() {
    let range = |first: usize, pages: usize| Range::new(first << 12, pages << 12).unwrap();
    let ranges = Ranges::new(private(ranges::TABLE_BYTES).unwrap());
    let added = [range(16, 2), range(19, 1), range(1 << 35, 1 << 22)];
    let places = added.map(|range| ranges.insert(range).unwrap());
    assert_eq!(places, [0, 1, 2]);
    for (page, found) in [
        (15, None),
        (16, Some(added[0])),
        (17, Some(added[0])),
        (18, None),
        (19, Some(added[1])),
        (20, None),
        ((1 << 35) + (1 << 22) - 1, Some(added[2])),
        ((1 << 35) + (1 << 22), None),
    ] {
        assert_eq!(ranges.find(page << 12), found, "{page}");
        assert_eq!(ranges.find((page << 12) + 4095), found, "{page}");
    }
    ranges.remove(0, added[1]);
    assert_eq!(ranges.find(16 << 12), Some(added[0]));
    ranges.remove(0, added[0]);
    assert_eq!(ranges.find(16 << 12), None);
    assert_eq!(ranges.insert(added[0]), Some(0));
    for (base, len) in [
        (4096, 0),
        (4097, 4096),
        (4096, (1 << 34) + (1 << 35)),
        (1 << 60, 4096),
    ] {
        assert_eq!(Range::new(base, len), None);
    }
    let memory = private(ranges::TABLE_BYTES).unwrap();
    memory.fill(0, memory.len(), 0xff).unwrap();
    assert_eq!(Ranges::new(memory).insert(added[0]), None);
}

/// Runs a part of this file in a process of its own, which has a handler of its own.
fn alone(part: &str) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "mapping::tests::as_told", "--nocapture"]);
    command.env(PART, part).status().unwrap()
}

/// What the signal did before, what happens, and what becomes of the process.
#[test]
fn signals_of_others_go_to_whoever_had_them_before() {
    let bus = (None, Some(Signal::SIGBUS as i32));
    let exit = |code| (Some(code), None);
    for (part, expected) in [
        ("runtime fault", bus),
        ("default fault", bus),
        ("default raise", bus),
        ("ignore fault", bus),
        ("ignore raise", exit(0)),
        ("plain fault", exit(40)),
        ("plain raise", exit(40)),
        ("informed fault", exit(41)),
        ("informed raise", exit(42)),
        ("once raise twice", bus),
        ("later fault", exit(41)),
        ("runtime child", exit(0)),
    ] {
        let ended = alone(part);
        assert_eq!((ended.code(), ended.signal()), expected, "{part}: {ended}");
    }
}

/// Not a test by itself, but a part of the one above.
#[test]
fn as_told() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let (before, happens) = part.split_once(' ').unwrap();
    let none = SaFlags::empty();
    match before {
        "default" => act(SigHandler::SigDfl, none),
        "ignore" => act(SigHandler::SigIgn, none),
        "plain" => act(SigHandler::Handler(plain), none),
        "informed" => act(SigHandler::SigAction(informed), none),
        "once" => act(SigHandler::Handler(returns), SaFlags::SA_RESETHAND),
        _ => SigAction::new(SigHandler::SigDfl, none, SigSet::empty()),
    };
    let (file, ours) = watched(1, Access::ReadWrite);
    if before == "later" {
        let first = act(SigHandler::SigAction(chains), none);
        assert!(FIRST.set(first).is_ok());
    }
    file.set_len(0).unwrap();
    assert_eq!(ours.shared().load_u64(0), Ok(0));
    let foreign = foreign();
    let address = foreign.area().base.addr().get();
    FOREIGN.set(address).unwrap();
    match happens {
        "fault" => {
            let _dies = foreign.shared().load_u64(0);
        }
        "raise" => raise(Signal::SIGBUS).unwrap(),
        "raise twice" => [(); 2].iter().for_each(|()| raise(Signal::SIGBUS).unwrap()),
        "child" => child(&ours),
        _ => panic!("no such part"),
    }
}

/// Ranges are not inherited: where this process has a mapping, a child may have a file of its own.
fn child(ours: &Mapping) {
    let (file, again) = watched(1, Access::ReadWrite);
    // SAFETY: this process has one other thread, which waits; the child calls the system only, and
    // the library, whose locks nobody holds.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            file.set_len(0).unwrap();
            // What it maps itself is watched.
            let (file, own) = watched(1, Access::ReadWrite);
            file.set_len(0).unwrap();
            if own.shared().load_u64(0) != Ok(0) || ours.shared().load_u64(0) != Ok(0) {
                exit(1);
            }
            let _dies = again.shared().load_u64(0);
            exit(2);
        }
        ForkResult::Parent { child } => {
            let ended = waitpid(child, None).unwrap();
            assert!(
                matches!(ended, WaitStatus::Signaled(_, Signal::SIGBUS, _)),
                "{ended:?}"
            );
            assert_eq!(again.shared().load_u64(0), Ok(0));
        }
    }
}

static FIRST: OnceLock<SigAction> = OnceLock::new();
static FOREIGN: OnceLock<usize> = OnceLock::new();

fn act(handler: SigHandler, flags: SaFlags) -> SigAction {
    let action = SigAction::new(handler, flags, SigSet::empty());
    // SAFETY: the handlers here end the process, return, or call the one of before.
    unsafe { sigaction(Signal::SIGBUS, &action) }.unwrap()
}

/// Ends the process at once, as handlers and forked children have to.
fn exit(code: c_int) -> ! {
    // SAFETY: takes a number, and does not return.
    unsafe { libc::_exit(code) }
}

extern "C" fn returns(_: c_int) {}

extern "C" fn plain(_: c_int) {
    exit(40)
}

/// Exits with another code if the signal is not of the foreign mapping.
extern "C" fn informed(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel gave it; the field of a signal that was sent is there as well, and something
    // else.
    let address = unsafe { (*info).si_addr() }.addr();
    let code = if FOREIGN.get() == Some(&address) {
        41
    } else {
        42
    };
    exit(code)
}

/// As a program does that takes the signal after the library: its own first, then the library's.
extern "C" fn chains(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: as in `informed`.
    let address = unsafe { (*info).si_addr() }.addr();
    if FOREIGN.get() == Some(&address) {
        informed(signal, info, context);
    }
    if let Some(SigHandler::SigAction(first)) = FIRST.get().map(SigAction::handler) {
        first(signal, info, context);
    }
}
