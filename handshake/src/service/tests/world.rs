//! Four parties in memory: two services, their device processes, and what passes between them.

use std::collections::VecDeque;
use std::time::{Instant, SystemTime};

use sivshm_abi::frame::Reason;
use sivshm_abi::grant::{Generation, Integrity, Kind};
use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::{ChannelName, ServiceName};

use crate::Credentials;
use crate::service::wire::{Accept, Agreed, Confirm, Content, Message, Open, Pairing, Role, Terms};
use crate::service::{
    Agreement, CheckedAccept, CheckedOpen, ClientEvent, OpenTerms, Opened, ServiceClient,
    ServiceFault, ServiceSession, SessionEvent, VerifiedService, Want, check_open,
};
use crate::tests::certificates::{Ca, domain, now};
use crate::wire::Contract;

/// A place where a message is on its way. A is the writer, B the reader.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Hop {
    UpA,
    Across,
    DownB,
    UpB,
    Back,
    DownA,
}

pub(super) fn channel() -> ChannelName {
    ChannelName::new("frames").unwrap()
}

pub(super) fn aead() -> Kind {
    Kind::Ring {
        slot_bytes: 4096,
        overwrite: false,
        integrity: Integrity::Aead,
    }
}

/// Everybody's credentials, of one trust domain.
pub(super) struct Cast {
    pub(super) ca: Ca,
    pub(super) device_a: Credentials,
    pub(super) device_b: Credentials,
    pub(super) writer: Credentials,
    pub(super) reader: Credentials,
}

impl Cast {
    pub(super) fn new() -> Self {
        let ca = Ca::new("car");
        Self {
            device_a: ca.device("a"),
            device_b: ca.device("b"),
            writer: ca.service("a", "camera"),
            reader: ca.service("b", "display"),
            ca,
        }
    }

    pub(super) fn terms(&self) -> OpenTerms {
        OpenTerms {
            trust_domain: domain(),
            contract: Contract([4; 32]),
            serial: 7,
            channel: channel(),
            kind: aead(),
            slice_generation: Generation(11),
            host_boot: [9; 16],
            writer: self.writer.id(),
            reader: self.reader.id(),
        }
    }

    pub(super) fn pairing(&self) -> Pairing {
        Pairing {
            channel: channel(),
            reader: self.reader.id(),
        }
    }

    /// An honest exchange with all that passed in it.
    pub(super) fn record(&self) -> Record {
        let mut world = World::new(self);
        world.run().assert_opened();
        world.record()
    }
}

/// The messages of an exchange that are proved.
#[derive(Clone)]
pub(super) struct Record {
    pub(super) open: Open,
    pub(super) accept: Accept,
    pub(super) confirm: Confirm,
    pub(super) agreed: Agreed,
}

/// A device process that does what it has to, or passes everything on.
pub(super) struct Device {
    pub(super) credentials: Credentials,
    pub(super) plan: OpenTerms,
    pub(super) lies: bool,
    pub(super) opened: Option<CheckedOpen>,
    pub(super) accepted: Option<CheckedAccept>,
    pub(super) agreement: Option<Agreement>,
    pub(super) fault: Option<ServiceFault>,
}

impl Device {
    fn new(credentials: &Credentials, plan: OpenTerms) -> Self {
        Self {
            credentials: credentials.clone(),
            plan,
            lies: false,
            opened: None,
            accepted: None,
            agreement: None,
            fault: None,
        }
    }

    /// Whether a message passes. What a liar passes it has not checked.
    fn passes(&mut self, content: &Content) -> bool {
        let checked = self.check(content);
        if let Err(fault) = checked {
            self.fault.get_or_insert(fault);
        }
        self.lies || self.fault.is_none()
    }

    fn check(&mut self, content: &Content) -> Result<(), ServiceFault> {
        let never = || panic!("{content:?} came without what it answers");
        match content {
            Content::Open(open) => {
                let checked = check_open(open, &self.plan, &self.credentials, now())?;
                self.opened = Some(checked);
            }
            Content::Accept(accept) if !self.lies => {
                let opened = self.opened.as_ref().unwrap_or_else(never);
                self.accepted = Some(opened.accept(accept, &self.credentials, now())?);
            }
            Content::Confirm(confirm) if !self.lies => {
                let accepted = self.accepted.as_ref().unwrap_or_else(|| panic!());
                self.agreement = Some(accepted.confirm(confirm)?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// One VM's service, its session, and its device process.
pub(super) struct End {
    pub(super) client: ServiceClient,
    pub(super) session: ServiceSession,
    pub(super) device: Device,
    pub(super) service: Option<VerifiedService>,
    pub(super) events: Vec<ClientEvent>,
}

impl End {
    fn new(device: &Credentials, service: &Credentials, name: &str, plan: OpenTerms) -> Self {
        let name = ServiceName::new(name).unwrap();
        Self {
            client: ServiceClient::dial(service, now()).unwrap(),
            session: ServiceSession::accept(device, name, now()).unwrap(),
            device: Device::new(device, plan),
            service: None,
            events: Vec::new(),
        }
    }

    /// Moves what is on its way in the session, and gives what the service said.
    fn exchange(&mut self, wall: SystemTime, at: Instant, chunk: usize) -> Vec<Message> {
        let mut said = Vec::new();
        loop {
            let (up, down) = (self.client.outgoing(), self.session.outgoing());
            if up.is_empty() && down.is_empty() {
                return said;
            }
            for up in up.chunks(chunk) {
                for event in self.session.receive(up).unwrap() {
                    match event {
                        SessionEvent::Authenticated(service) => self.service = Some(service),
                        SessionEvent::Message(message) => said.push(message),
                    }
                }
            }
            for down in down.chunks(chunk) {
                self.events
                    .extend(self.client.receive(down, wall, at).unwrap());
            }
        }
    }

    /// What the service was told of its pairing.
    pub(super) fn opened(&mut self) -> Option<Opened> {
        let is_it = |event: &ClientEvent| matches!(event, ClientEvent::Opened(_));
        let at = self.events.iter().position(is_it)?;
        match self.events.remove(at) {
            ClientEvent::Opened(opened) => Some(opened),
            _ => None,
        }
    }

    /// What the service itself found wrong.
    pub(super) fn fault(&self) -> Option<ServiceFault> {
        self.events.iter().find_map(|event| match event {
            ClientEvent::Refused { fault, .. } => fault.clone(),
            _ => None,
        })
    }
}

pub(super) struct World {
    pub(super) a: End,
    pub(super) b: End,
    pub(super) terms: Terms,
    pub(super) wall: SystemTime,
    pub(super) at: Instant,
    /// Most bytes that a session takes at once.
    pub(super) chunk: usize,
    /// Where everything is lost.
    pub(super) cut: Option<Hop>,
    queue: VecDeque<(Hop, Message)>,
    /// Everything that passed.
    pub(super) seen: Vec<(Hop, Message)>,
}

impl World {
    /// Both services want each other, with the channel protected.
    pub(super) fn new(cast: &Cast) -> Self {
        let mut world = Self::idle(cast, cast.terms());
        world.want(cast);
        world
    }

    /// Nobody wants anything yet.
    pub(super) fn idle(cast: &Cast, plan: OpenTerms) -> Self {
        Self {
            a: End::new(&cast.device_a, &cast.writer, "camera", plan),
            b: End::new(&cast.device_b, &cast.reader, "display", plan),
            terms: Terms {
                contract: plan.contract,
                serial: plan.serial,
                kind: plan.kind,
                slice_generation: plan.slice_generation,
                host_boot: plan.host_boot,
                role: Role::Writer,
                reader: 0,
                readers: 1,
            },
            wall: now(),
            at: Instant::now(),
            chunk: 2048,
            cut: None,
            queue: VecDeque::new(),
            seen: Vec::new(),
        }
    }

    fn want(&mut self, cast: &Cast) {
        let want = |peer: SpiffeId, role| Want {
            channel: channel(),
            peer,
            role,
            integrity: None,
        };
        let (writer, reader) = (cast.writer.id(), cast.reader.id());
        self.a
            .client
            .want(want(reader, Role::Writer), self.at)
            .unwrap();
        self.b
            .client
            .want(want(writer, Role::Reader), self.at)
            .unwrap();
    }

    /// Both device processes pass everything on.
    pub(super) fn lying(mut self) -> Self {
        self.a.device.lies = true;
        self.b.device.lies = true;
        self
    }

    pub(super) fn inject(&mut self, hop: Hop, message: Message) -> &mut Self {
        self.queue.push_back((hop, message));
        self
    }

    pub(super) fn run(&mut self) -> &mut Self {
        self.run_with(|_, _| {})
    }

    /// Moves everything until nothing moves, with somebody who changes what passes.
    pub(super) fn run_with(&mut self, mut tamper: impl FnMut(Hop, &mut Message)) -> &mut Self {
        loop {
            let up_a = self.a.exchange(self.wall, self.at, self.chunk);
            let up_b = self.b.exchange(self.wall, self.at, self.chunk);
            self.queue
                .extend(up_a.into_iter().map(|said| (Hop::UpA, said)));
            self.queue
                .extend(up_b.into_iter().map(|said| (Hop::UpB, said)));
            // `want` goes first, so that an `open` finds the reader.
            let wants =
                |(_, message): &(Hop, Message)| !matches!(message.content, Content::Want { .. });
            self.queue.make_contiguous().sort_by_key(wants);
            let Some((hop, mut message)) = self.queue.pop_front() else {
                return self;
            };
            tamper(hop, &mut message);
            self.seen.push((hop, message.clone()));
            self.mediate(hop, message);
        }
    }

    /// What the device process at the end of a hop does.
    fn mediate(&mut self, hop: Hop, message: Message) {
        if self.cut == Some(hop) {
            return;
        }
        let Message { pairing, content } = message;
        if let Content::End(_) | Content::Refusal(_) = content
            && let Some(down) = match hop {
                Hop::UpA => Some(Hop::DownA),
                Hop::UpB => Some(Hop::DownB),
                _ => None,
            }
        {
            let content = Content::End(Reason::Closed);
            self.queue.push_back((down, Message { pairing, content }));
        }
        let next = match (hop, &content) {
            (Hop::UpA | Hop::UpB, Content::Want { .. }) => {
                let (role, down) = match hop {
                    Hop::UpA => (Role::Writer, Hop::DownA),
                    _ => (Role::Reader, Hop::DownB),
                };
                let terms = Terms { role, ..self.terms };
                let content = Content::Terms(terms);
                return self.queue.push_back((down, Message { pairing, content }));
            }
            (Hop::UpB, Content::Agreed(agreed)) => {
                let agreement = self.b.device.agreement.as_ref();
                assert!(self.b.device.lies || agreement.unwrap().hash() == agreed.body.confirm);
                Hop::Back
            }
            (Hop::Back, Content::Agreed(agreed)) => {
                let content = Content::Installed(agreed.body.confirm);
                let across = Message { pairing, content };
                self.queue.push_back((Hop::Across, across));
                Hop::DownA
            }
            (Hop::UpA, content) if self.a.device.passes(content) => Hop::Across,
            (Hop::Across, content) if self.b.device.passes(content) => Hop::DownB,
            (Hop::UpB, content) if self.b.device.passes(content) => Hop::Back,
            (Hop::Back, content) if self.a.device.passes(content) => Hop::DownA,
            (Hop::DownA, _) => {
                let message = Message { pairing, content };
                return self.a.session.say(&message).unwrap();
            }
            (Hop::DownB, _) => {
                let message = Message { pairing, content };
                return self.b.session.say(&message).unwrap();
            }
            _ => return,
        };
        self.queue.push_back((next, Message { pairing, content }));
    }

    /// Asserts that all four have agreed, and gives what the services got.
    pub(super) fn assert_opened(&mut self) -> (Opened, Opened) {
        for end in [&self.a, &self.b] {
            assert_eq!(end.device.fault, None);
            assert_eq!(end.fault(), None);
        }
        let hash = |end: &End| end.device.agreement.as_ref().map(Agreement::hash);
        if !self.a.device.lies {
            assert_eq!(hash(&self.a), hash(&self.b));
            assert!(hash(&self.a).is_some());
        }
        let writer = self.a.opened().expect("the writer opened");
        let reader = self.b.opened().expect("the reader opened");
        assert_eq!(writer.epoch, reader.epoch);
        assert_ne!(writer.epoch, 0);
        (writer, reader)
    }

    pub(super) fn assert_nothing_opened(&mut self) {
        assert!(self.a.opened().is_none() && self.b.opened().is_none());
    }

    /// The proved messages of the last exchange.
    pub(super) fn record(&self) -> Record {
        let mut passed = self.seen.iter().rev().map(|(_, message)| &message.content);
        let (mut open, mut accept, mut confirm, mut agreed) = (None, None, None, None);
        passed.all(|content| {
            match content {
                Content::Open(found) if open.is_none() => open = Some(found),
                Content::Accept(found) if accept.is_none() => accept = Some(found),
                Content::Confirm(found) if confirm.is_none() => confirm = Some(found),
                Content::Agreed(found) if agreed.is_none() => agreed = Some(*found),
                _ => {}
            }
            true
        });
        Record {
            open: *open.unwrap().clone(),
            accept: *accept.unwrap().clone(),
            confirm: confirm.unwrap().clone(),
            agreed: agreed.unwrap(),
        }
    }
}
