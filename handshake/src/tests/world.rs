//! Two parties and the socket between them.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use sivshm_abi::directory::SliceId;
use sivshm_abi::grant::Generation;

use super::certificates::{Ca, now, vm};
use crate::terms::{REQUIRED_SEALS, SLICE_MODE};
use crate::wire::{Contract, ManifestEntry, SliceEntry};
use crate::{
    Action, Arrived, Credentials, Established, EventfdFacts, Expected, LinkTerms, MemfdFacts,
    ObjectFacts, Outgoing, PeerHandshake, PeerUid, Refusal,
};

/// Stands for a descriptor: what the kernel would say about it.
pub(crate) type Fd = Rc<ObjectFacts>;

/// A slice of 64 KiB times its number plus one, as its creator describes it.
pub(crate) fn slice(number: u32) -> SliceEntry {
    SliceEntry {
        slice: SliceId(number),
        bytes: 65536 * (u64::from(number) + 1),
        generation: Generation(7),
        seals: REQUIRED_SEALS,
        uid: 0,
        gid: 70_100,
        mode: SLICE_MODE,
        dev: 1,
        ino: 1000 + u64::from(number),
    }
}

/// The read-only re-open of a slice.
pub(crate) fn memfd(of: SliceEntry) -> MemfdFacts {
    MemfdFacts {
        dev: of.dev,
        ino: of.ino,
        bytes: of.bytes,
        seals: of.seals,
        read_only: true,
        uid: of.uid,
        gid: of.gid,
        mode: of.mode,
    }
}

pub(crate) fn eventfd(id: u64) -> EventfdFacts {
    EventfdFacts {
        id,
        semaphore: false,
        nonblocking: true,
    }
}

/// What a party gives: slices, then its doorbell.
pub(crate) struct Gift {
    pub(crate) slices: Vec<SliceEntry>,
    pub(crate) doorbell: u64,
}

impl Gift {
    fn outgoing(&self) -> Vec<Outgoing<Fd>> {
        let slices = self.slices.iter().map(|entry| Outgoing {
            entry: ManifestEntry::Slice(*entry),
            original: Rc::new(ObjectFacts::Memfd(memfd(*entry))),
        });
        let doorbell = Outgoing {
            entry: ManifestEntry::Doorbell { id: self.doorbell },
            original: Rc::new(ObjectFacts::Eventfd(eventfd(self.doorbell))),
        };
        slices.chain([doorbell]).collect()
    }

    fn expected(&self) -> Vec<Expected> {
        let slices = self.slices.iter().map(|entry| Expected::Slice {
            slice: entry.slice,
            bytes: entry.bytes,
            uid: entry.uid,
            gid: entry.gid,
            generation: entry.generation,
        });
        slices.chain([Expected::Doorbell]).collect()
    }
}

pub(crate) fn gifts() -> (Gift, Gift) {
    let dialer = Gift {
        slices: vec![slice(0)],
        doorbell: 50,
    };
    let listener = Gift {
        slices: vec![slice(1), slice(2)],
        doorbell: 60,
    };
    (dialer, listener)
}

pub(crate) fn terms(instance: u8, gives: &Gift, takes: &Gift) -> LinkTerms<Fd> {
    LinkTerms {
        instance: [instance; 16],
        host_boot: [9; 16],
        policy_serial: 3,
        contract: Contract([4; 32]),
        outgoing: gives.outgoing(),
        incoming: takes.expected(),
    }
}

/// A machine and the caller that drives it.
pub(crate) struct Party {
    machine: Option<PeerHandshake<Fd>>,
    /// What `SO_PEERCRED` says about the other end.
    pub(crate) found: PeerUid,
    /// What the plan says about it.
    pub(crate) planned: Option<PeerUid>,
    pub(crate) terms: Option<LinkTerms<Fd>>,
    /// Changes what this party sends as its copies.
    pub(crate) swap: fn(&mut Vec<Fd>),
    rights_allowed: usize,
    pub(crate) link: Option<Established<Fd>>,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) left: bool,
}

impl Party {
    fn new(machine: PeerHandshake<Fd>, terms: LinkTerms<Fd>) -> Self {
        Self {
            machine: Some(machine),
            found: PeerUid(70_001),
            planned: Some(PeerUid(70_001)),
            terms: Some(terms),
            swap: |_| {},
            rights_allowed: 0,
            link: None,
            refusal: None,
            left: false,
        }
    }

    pub(crate) fn machine(&mut self) -> &mut PeerHandshake<Fd> {
        self.machine.as_mut().expect("the machine is over")
    }

    pub(crate) fn into_machine(self) -> PeerHandshake<Fd> {
        self.machine.expect("the machine is over")
    }

    fn perform(&mut self, actions: Vec<Action<Fd>>, out: &mut Pipe) {
        for action in actions {
            match action {
                Action::Send(bytes) => out.send(&bytes, Vec::new()),
                Action::SendRights { bytes, mut rights } => {
                    (self.swap)(&mut rights);
                    out.send(&bytes, rights);
                }
                Action::CheckPeer { vm: _ } => {
                    let (found, planned) = (self.found, self.planned);
                    let terms = self.terms.take().expect("asked once");
                    let result = self.machine().admit(found, planned, |_| terms);
                    self.conclude(result, out);
                }
                Action::AllowRights { count } => self.rights_allowed = count,
                Action::DenyRights => self.rights_allowed = 0,
                Action::Established(link) => self.link = Some(link),
                Action::Revoke(_) | Action::Service(_) => {}
                Action::Bye => self.left = true,
            }
        }
    }

    fn conclude(&mut self, result: Result<Vec<Action<Fd>>, Refusal>, out: &mut Pipe) {
        match result {
            Ok(actions) => self.perform(actions, out),
            Err(refusal) => {
                self.refusal.get_or_insert(refusal);
                if let Some(machine) = self.machine.take() {
                    out.send(&machine.last_words(), Vec::new());
                }
            }
        }
    }

    fn receive(&mut self, bytes: &[u8], rights: Vec<Fd>, out: &mut Pipe) {
        let arrived = rights.into_iter().map(|descriptor| Arrived {
            facts: *descriptor,
            descriptor,
        });
        let arrived = arrived.collect();
        if let Some(machine) = &mut self.machine {
            let result = machine.receive(bytes, arrived);
            self.conclude(result, out);
        }
    }
}

/// One direction of a socket.
#[derive(Default)]
pub(crate) struct Pipe {
    queue: VecDeque<(u8, Vec<Fd>)>,
    /// All bytes that ever went through.
    pub(crate) recorded: Vec<u8>,
}

impl Pipe {
    fn send(&mut self, bytes: &[u8], mut rights: Vec<Fd>) {
        self.recorded.extend(bytes);
        for byte in bytes {
            self.queue.push_back((*byte, std::mem::take(&mut rights)));
        }
    }

    fn take(&mut self, count: usize) -> (Vec<u8>, Vec<Fd>) {
        let (mut bytes, mut rights) = (Vec::new(), Vec::new());
        for (byte, with) in self.queue.drain(..count.min(self.queue.len())) {
            bytes.push(byte);
            rights.extend(with);
        }
        (bytes, rights)
    }
}

/// A dialer `a`, a listener `b`, and the socket between them.
pub(crate) struct World {
    pub(crate) dialer: Party,
    pub(crate) listener: Party,
    pub(crate) to_listener: Pipe,
    pub(crate) to_dialer: Pipe,
}

impl World {
    pub(crate) fn honest() -> Self {
        let ca = Ca::new("car");
        Self::new(&ca.device("a"), &ca.device("b"))
    }

    pub(crate) fn new(dialer: &Credentials, listener: &Credentials) -> Self {
        let (dials, listens) = gifts();
        Self::with_gifts(dialer, listener, &dials, &listens)
    }

    pub(crate) fn with_gifts(
        dialer: &Credentials,
        listener: &Credentials,
        dials: &Gift,
        listens: &Gift,
    ) -> Self {
        let start = Instant::now();
        let (machine, action) = PeerHandshake::dial(dialer, vm("b"), 5, now(), start).unwrap();
        let dialer = Party::new(machine, terms(1, dials, listens));
        let machine = PeerHandshake::accept(listener, now(), start).unwrap();
        let listener = Party::new(machine, terms(2, listens, dials));
        let mut world = Self {
            dialer,
            listener,
            to_listener: Pipe::default(),
            to_dialer: Pipe::default(),
        };
        world.dialer.perform(vec![action], &mut world.to_listener);
        world
    }

    /// Moves bytes until none is left, as many at a time as `chunk` says.
    pub(crate) fn run(&mut self, chunk: impl FnMut() -> usize) -> &mut Self {
        self.run_with(chunk, |_| {})
    }

    /// The same, with somebody who changes what the dialer sends.
    pub(crate) fn run_with(
        &mut self,
        mut chunk: impl FnMut() -> usize,
        mut tamper: impl FnMut(&mut [u8]),
    ) -> &mut Self {
        loop {
            let (mut bytes, rights) = self.to_listener.take(chunk());
            tamper(&mut bytes);
            self.listener.receive(&bytes, rights, &mut self.to_dialer);
            let (back, rights) = self.to_dialer.take(chunk());
            self.dialer.receive(&back, rights, &mut self.to_listener);
            if bytes.is_empty() && back.is_empty() {
                return self;
            }
        }
    }

    /// Runs a world that an impostor dials into, and gives what the listener says.
    pub(crate) fn listener_refuses(&mut self) -> Refusal {
        self.run(|| 4096);
        assert!(self.dialer.link.is_none() && self.listener.link.is_none());
        self.listener.refusal.take().expect("the listener accepted")
    }

    /// Runs a world that an impostor listens in, and gives what the dialer says.
    pub(crate) fn dialer_refuses(&mut self) -> Refusal {
        self.run(|| 4096);
        assert!(self.dialer.link.is_none() && self.listener.link.is_none());
        self.dialer.refusal.take().expect("the dialer accepted")
    }

    pub(crate) fn assert_established(&mut self) -> (Established<Fd>, Established<Fd>) {
        assert_eq!(self.dialer.refusal, None);
        assert_eq!(self.listener.refusal, None);
        assert_eq!(
            (self.dialer.rights_allowed, self.listener.rights_allowed),
            (0, 0)
        );
        let dialer = self.dialer.link.take().expect("the dialer has a link");
        let listener = self.listener.link.take().expect("the listener has a link");
        (dialer, listener)
    }
}
