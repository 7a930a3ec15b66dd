//! The whole gate: a device process that sends anything, processes that call anything.
#![no_main]

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt as _;

use libfuzzer_sys::fuzz_target;
use sivshm_abi::control::{CONTROL_BYTES, HOST_INDEXES, HOST_TO_GUEST};
use sivshm_abi::directory::{DirectoryHead, SliceId, WindowEntry};
use sivshm_abi::frame::{Facts, FrameType, LONGEST_PAYLOAD_BYTES, Payload, SessionId};
use sivshm_abi::grant::{Access, Generation, GrantId};
use sivshm_abi::name::VmName;
use sivshm_abi::wire::{Malformed, Reader, Writer};
use sivshm_gate::{Bells, Caller, Effect, Files, Gate, Mm, Owner, Wanted, WindowNumber};
use sivshm_ring::Shared;
use sivshm_ring::frames::{ControlRings, Side};
use sivshm_sys::map::Mapping;
use sivshm_sys::memfd::{self, Ownership};

const WINDOW: u64 = 1 << 20;
/// Effects of one call: one for each grant, and a few more.
const MOST_EFFECTS: usize = 1100;

thread_local! {
    static WORLD: RefCell<(Shared, Box<Gate>)> = RefCell::new((control(), Box::default()));
}

fuzz_target!(|bytes: &[u8]| WORLD.with_borrow_mut(|(control, gate)| {
    **gate = Gate::new();
    let mut host = bind(*control, gate);
    let mut from = Reader::new(bytes);
    while step(*control, gate, &mut host, &mut from).is_ok() {
        settle(gate);
    }
}));

fn control() -> Shared {
    let me = std::fs::metadata("/proc/self").expect("a process");
    let ownership = Ownership {
        uid: me.uid(),
        gid: me.gid(),
        mode: 0o600,
    };
    let file = memfd::create(c"control", CONTROL_BYTES, ownership).expect("a memory file");
    Mapping::new(&file).expect("its mapping").shared()
}

/// A port with a written and a read window, and the device process at its other end.
fn bind(control: Shared, gate: &mut Gate) -> ControlRings {
    let head = DirectoryHead {
        vm: VmName::new("fuzzed").expect("a name"),
        instance: [7; 16],
        generation: 1,
        vectors: 4,
        windows: 2,
        max_sessions: 64,
        max_grants: 1024,
    };
    let mut space = [0; DirectoryHead::BYTES + 2 * WindowEntry::BYTES];
    let mut to = Writer::new(&mut space);
    head.write(&mut to).expect("room for the head");
    for (slice, access) in [(0, Access::ReadWrite), (1, Access::ReadOnly)] {
        let line = WindowEntry {
            slice: SliceId(slice),
            access,
            place: None,
            bytes: WINDOW,
            generation: Generation(1),
        };
        line.write(&mut to).expect("room for the lines");
    }
    control.copy_in(0, &space).expect("room for the directory");
    let host = ControlRings::new(control, Side::Host).expect("room for the rings");
    gate.attach(control, [0; 16]).expect("a good directory");
    for window in 0..2 {
        gate.claim_number(WindowNumber(window), WINDOW)
            .expect("a window of the directory");
    }
    settle(gate);
    host
}

/// Carries out what is due; it ends.
fn settle(gate: &mut Gate) {
    let mut effects = 0..MOST_EFFECTS;
    while gate.receive() {}
    while let Some(effect) = gate.next_effect() {
        assert!(effects.next().is_some(), "effects without end");
        if let Effect::Unmap(slot) = effect {
            gate.unmapped(slot);
        }
    }
}

/// One frame, store or call. Few numbers, so that they meet.
fn step(
    control: Shared,
    gate: &mut Gate,
    host: &mut ControlRings,
    from: &mut Reader<'_>,
) -> Result<(), Malformed> {
    let [what, session, process, number] = from.array("step")?;
    let session = SessionId(u32::from(session % 8));
    let caller = Caller {
        session,
        mm: Mm(u64::from(process % 4)),
    };
    let size = usize::from(number) * 16;
    match what % 14 {
        0 => {
            let owner = Owner {
                mm: caller.mm,
                files: Files(caller.mm.0),
            };
            let facts = Facts {
                pid: 1,
                uid: u32::from(number % 4),
                gid: 1,
                exe_sha256: None,
            };
            let _ = gate.open(owner, facts);
        }
        1 => gate.close(session, Files(caller.mm.0)),
        2 => gate.release(session),
        3..=5 => {
            let kind = FrameType::from_code(u16::from(process % 9))?;
            let length = size.min(LONGEST_PAYLOAD_BYTES).min(from.left());
            if let Ok(payload) = Payload::read(kind, from.bytes(length, "payload")?) {
                let _ = host.send(session, &payload);
            }
        }
        6 => {
            let _ = host.send(session, &Payload::Data(&[7; 2048][..1 + size.min(2047)]));
        }
        7 => {
            let credit = u32::from(number) * 64;
            let _ = host.send(session, &Payload::Ring { credit });
        }
        8 => {
            let count = gate.read(caller, &mut vec![0; size]).unwrap_or(0);
            assert!(count <= size, "read more than asked");
        }
        9 => {
            let count = gate.write(caller, &vec![0; size]).unwrap_or(0);
            assert!(count <= size, "wrote more than given");
        }
        10 => {
            let (offset, length) = (from.u64("offset")?, u64::from(number) << 12);
            let wanted = Wanted {
                write: process & 4 != 0,
                exec: false,
                shared: true,
            };
            if let Ok(place) = gate.map(caller, offset, length, wanted) {
                assert!(place.offset + length <= WINDOW && place.window.0 < 2);
                assert!(!place.writable || place.window.0 == 0, "a read window");
            }
        }
        11 => {
            let _ = gate.list(caller);
            let _ = gate.readiness(caller);
            let _ = gate.rung(caller, &Bells::new());
            let _ = gate.notify(caller, GrantId(number.into()));
        }
        12 => {
            let mut space = [0; LONGEST_PAYLOAD_BYTES];
            while let Ok(Some(_)) = host.receive(&mut space) {}
        }
        _ => {
            let near = [HOST_INDEXES, HOST_TO_GUEST][usize::from(process % 2)];
            let at = usize::try_from(near).unwrap_or_default() + size / 4 * 4;
            let _ = control.store_u32(at, from.u32("word")?);
        }
    }
    Ok(())
}
