//! Tests of the gate against a device process that is a fixture, honest or not.

extern crate std;

mod flow;
mod hostile;
mod lifecycle;
mod mapping;

use std::boxed::Box;
use std::string::String;
use std::vec::Vec;

use nix::unistd::{getegid, geteuid};
use sivshm_abi::control;
use sivshm_abi::directory::{DirectoryHead, PciPlace, SliceId, WindowEntry};
use sivshm_abi::frame::{Facts, LONGEST_PAYLOAD_BYTES, Payload, Reason, SessionId};
use sivshm_abi::grant::{
    Access, Generation, Grant, GrantId, GrantPeer, Kind, Part, RingId, Vector,
};
use sivshm_abi::limits::{MAX_GRANTS, MAX_SESSIONS};
use sivshm_abi::name::{ChannelName, VmName};
use sivshm_abi::wire::Writer;
use sivshm_ring::Shared;
use sivshm_ring::frames::{ControlRings, Side};
use sivshm_sys::map::Mapping;
use sivshm_sys::memfd;

use crate::{Bells, Caller, Effect, Files, Gate, Mm, Owner, Placement, Slot, Wanted, WindowNumber};

/// Bytes of every window of the fixture.
const WINDOW: u64 = 1 << 20;
/// The window that the fixture's VM may write.
const WRITTEN: u16 = 0;
/// The window that it may only read.
const READ: u16 = 1;
const BOOT: [u8; 16] = [1; 16];

/// A gate, and the device process that it talks to.
struct World {
    gate: Box<Gate>,
    host: ControlRings,
    control: Shared,
    /// Slots that were unmapped, in order.
    unmapped: Vec<Slot>,
    /// Bytes of `DATA` that the device process has received, one element a frame.
    carried: Vec<(SessionId, Vec<u8>)>,
}

fn control_memory() -> Shared {
    let ownership = memfd::Ownership {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        mode: 0o600,
    };
    let file = memfd::create(c"control", control::CONTROL_BYTES, ownership).unwrap();
    Mapping::new(&file).unwrap().shared()
}

fn place(window: u16) -> PciPlace {
    PciPlace {
        root: 0x80,
        function: 1 + u8::try_from(window).unwrap(),
    }
}

fn write_directory(control: Shared) {
    let head = DirectoryHead {
        vm: VmName::new("ivi").unwrap(),
        instance: [7; 16],
        generation: 1,
        vectors: 4,
        windows: 2,
        max_sessions: u16::try_from(MAX_SESSIONS).unwrap(),
        max_grants: u16::try_from(MAX_GRANTS).unwrap(),
    };
    let mut space = [0; DirectoryHead::BYTES + 2 * WindowEntry::BYTES];
    let mut to = Writer::new(&mut space);
    head.write(&mut to).unwrap();
    for (window, access) in [(WRITTEN, Access::ReadWrite), (READ, Access::ReadOnly)] {
        let line = WindowEntry {
            slice: SliceId(u32::from(window)),
            access,
            place: Some(place(window)),
            bytes: WINDOW,
            generation: Generation(1),
        };
        line.write(&mut to).unwrap();
    }
    control.copy_in(0, &space).unwrap();
}

impl World {
    /// Port and both windows bound, `HELLO` received.
    fn new() -> Self {
        let mut world = Self::unbound(control_memory());
        assert_eq!(world.gate.attach(world.control, BOOT), Ok(()));
        for window in [WRITTEN, READ] {
            let found = world.gate.find(place(window), WINDOW);
            assert_eq!(found, Ok(WindowNumber(window)));
            let claimed = world.gate.claim(found.unwrap(), WINDOW, address(window));
            assert_eq!(claimed, Ok(()));
        }
        assert!(
            world
                .pump()
                .contains(&Effect::Ring(crate::Doorbell::CONTROL))
        );
        let hello = Payload::Hello {
            version: 1,
            boot: BOOT,
        };
        assert_eq!(world.heard(), [(SessionId(0), hello)]);
        world
    }

    fn unbound(control: Shared) -> Self {
        write_directory(control);
        Self {
            gate: Box::default(),
            host: ControlRings::new(control, Side::Host).unwrap(),
            control,
            unmapped: Vec::new(),
            carried: Vec::new(),
        }
    }

    /// Lets the gate take in frames and carries out its effects, as a shim does.
    fn pump(&mut self) -> Vec<Effect> {
        while self.gate.receive() {}
        self.effects()
    }

    fn effects(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some(effect) = self.gate.next_effect() {
            if let Effect::Unmap(slot) = effect {
                self.unmapped.push(slot);
                self.gate.unmapped(slot);
            }
            effects.push(effect);
        }
        effects
    }

    /// Frames that the device process has received; bytes of `DATA` go to `carried`.
    fn heard(&mut self) -> Vec<(SessionId, Payload<'static>)> {
        let mut space = [0; LONGEST_PAYLOAD_BYTES];
        let mut heard = Vec::new();
        while let Some((session, payload)) = self.host.receive(&mut space).unwrap() {
            match payload {
                Payload::Data(bytes) => self.carried.push((session, bytes.to_vec())),
                _ => heard.extend(payload.detached().map(|payload| (session, payload))),
            }
        }
        heard
    }

    /// Opens a session of user `uid`, whose owner is known by the same number.
    fn open(&mut self, uid: u32) -> SessionId {
        let session = self.gate.open(owner(uid), facts(uid)).unwrap();
        self.pump();
        assert_eq!(self.heard(), [(session, Payload::Open(facts(uid)))]);
        session
    }

    /// Sends a frame and lets the gate act on it.
    fn say(&mut self, session: SessionId, payload: Payload<'_>) -> Vec<Effect> {
        self.host.send(session, &payload).unwrap();
        self.pump()
    }

    /// Opens a session of user `uid` and grants it two pages; the slot is that of the grant.
    fn granted(&mut self, uid: u32, access: Access) -> (SessionId, Slot) {
        let session = self.open(uid);
        let effects = self.say(session, Payload::Grant(grant(uid, access)));
        assert_eq!(effects, [Effect::Wake]);
        (session, self.slot(session, uid))
    }

    fn slot(&self, session: SessionId, uid: u32) -> Slot {
        let next = self.gate.next_grant(caller(session, uid), 0);
        next.unwrap().expect("the session holds a grant").0
    }

    /// What `poll` tells, in words.
    fn poll(&self, caller: Caller, bells: &Bells) -> String {
        let ready = self.gate.readiness(caller).unwrap();
        let bits = [
            (ready.data, "data"),
            (ready.changed, "changed"),
            (self.gate.rung(caller, bells).unwrap(), "rung"),
            (ready.room, "room"),
        ];
        let words: Vec<_> = (bits.iter())
            .filter_map(|(set, word)| set.then_some(*word))
            .collect();
        words.join(" ")
    }

    fn map(&self, caller: Caller, slot: Slot, write: bool) -> Result<Placement, crate::Errno> {
        let wanted = Wanted {
            write,
            exec: false,
            shared: true,
        };
        self.gate.map(caller, slot.offset(), 4096, wanted)
    }
}

fn address(window: u16) -> u64 {
    (1 << 40) + u64::from(window) * WINDOW
}

fn owner(number: u32) -> Owner {
    Owner {
        mm: Mm(number.into()),
        files: Files(number.into()),
    }
}

fn caller(session: SessionId, number: u32) -> Caller {
    Caller {
        session,
        mm: Mm(number.into()),
    }
}

fn facts(uid: u32) -> Facts {
    Facts {
        pid: 1,
        uid,
        gid: uid,
        exe_sha256: None,
    }
}

/// A valid grant of two pages; its number, channel and generation 10 come with `number`.
fn grant(number: u32, access: Access) -> Grant {
    Grant {
        id: GrantId(number),
        generation: Generation(10),
        channel: ChannelName::new(&std::format!("channel-{number}")).unwrap(),
        kind: Kind::Region,
        part: Part::Data,
        readers: 1,
        access,
        window: if access.writable() { WRITTEN } else { READ },
        offset: 4096,
        length: 8192,
        epoch: 1,
        expiry: 0,
        peer: Some(GrantPeer {
            vm: VmName::new("peer").unwrap(),
            ring: RingId(9),
            vector: Vector(2),
        }),
    }
}

fn revoke(number: u32, generation: u64) -> Payload<'static> {
    Payload::Revoke {
        grant: GrantId(number),
        generation: Generation(generation),
        reason: Reason::Admin,
    }
}

fn revoked(number: u32, generation: u64) -> Payload<'static> {
    Payload::Revoked {
        grant: GrantId(number),
        generation: Generation(generation),
    }
}
