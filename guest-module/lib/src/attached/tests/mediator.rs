//! Both device processes between a session of the library and the services at its other ends, which
//! are in this process, too.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use sivshm_abi::frame::Reason;
use sivshm_abi::grant::{Generation, Integrity, Kind};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::ChannelName;
use sivshm_handshake::Credentials;
use sivshm_handshake::service::wire::{
    Content, Message, Open, Pairing, RefusalReason, Role, ServiceRefusal, Terms,
};
use sivshm_handshake::service::{
    Agreement, CheckedAccept, CheckedOpen, ClientEvent, OpenTerms, ServiceClient, ServiceSession,
    SessionEvent, Want, check_open,
};
use sivshm_handshake::wire::Contract;

use crate::tests::{Ca, domain, service};

/// A channel of the plan.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) kind: Kind,
    pub(super) writer: SpiffeId,
    pub(super) readers: Vec<SpiffeId>,
}

impl Planned {
    pub(super) fn integrity(&self) -> Integrity {
        match self.kind {
            Kind::Region => Integrity::None,
            Kind::Ring { integrity, .. } => integrity,
        }
    }
}

/// What the device process does besides talking.
#[derive(Debug)]
pub(super) enum Deed {
    Install(Agreement),
    Remove(Pairing, Reason),
}

/// A service at another end, with its session.
pub(super) struct Peer {
    id: SpiffeId,
    client: ServiceClient,
    session: ServiceSession,
    pub(super) events: Vec<ClientEvent>,
}

/// A pairing under way.
#[derive(Debug, Default)]
struct Passing {
    /// Whether writer and reader have wanted it.
    wanted: (bool, bool),
    open: Option<(Box<Open>, CheckedOpen)>,
    accepted: Option<CheckedAccept>,
    agreement: Option<Agreement>,
}

pub(super) struct Mediator {
    /// Of the device process that the library talks to; checks for the others as well.
    credentials: Credentials,
    own: SpiffeId,
    /// With the library.
    pub(super) session: ServiceSession,
    pub(super) plan: BTreeMap<ChannelName, Planned>,
    pub(super) peers: Vec<Peer>,
    passing: BTreeMap<Pairing, Passing>,
    /// Whether there is a link between the device processes.
    pub(super) linked: bool,
}

impl Mediator {
    /// The library is `manager/mapper`; two workers' reducers are at its other ends.
    pub(super) fn new(ca: &mut Ca, own: SpiffeId) -> Self {
        let (Subject::Service(vm, name), now) = (own.subject, SystemTime::now()) else {
            panic!("{own} is no service");
        };
        let credentials = ca
            .issue(crate::tests::device(vm.as_str()))
            .device(vm.as_str());
        Self {
            session: ServiceSession::accept(&credentials, name, now).unwrap(),
            credentials,
            own,
            plan: BTreeMap::new(),
            peers: ["worker-1", "worker-2"].map(|vm| Peer::new(ca, vm)).into(),
            passing: BTreeMap::new(),
            linked: true,
        }
    }

    pub(super) fn peer(&mut self, vm: &str) -> &mut Peer {
        let id = service(vm, "reducer");
        self.peers.iter_mut().find(|peer| peer.id == id).unwrap()
    }

    /// Takes bytes of the library.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Vec<Deed> {
        // What a session that failed has to say is in its last bytes.
        let events = self.session.receive(bytes).unwrap_or_default();
        let mut deeds = Vec::new();
        for event in events {
            if let SessionEvent::Message(message) = event {
                deeds.extend(self.on_message(self.own, message));
            }
        }
        deeds
    }

    /// Lets the peers talk until nobody has more to say.
    pub(super) fn settle(&mut self) -> Vec<Deed> {
        let mut deeds = Vec::new();
        loop {
            let heard: Vec<_> = (self.peers.iter_mut())
                .flat_map(|peer| peer.shuttle().into_iter().map(|message| (peer.id, message)))
                .collect();
            if heard.is_empty() {
                return deeds;
            }
            for (from, message) in heard {
                deeds.extend(self.on_message(from, message));
            }
        }
    }

    fn say(&mut self, to: SpiffeId, pairing: Pairing, content: Content) {
        let message = Message { pairing, content };
        let session = match self.peers.iter_mut().find(|peer| peer.id == to) {
            Some(peer) => &mut peer.session,
            None => &mut self.session,
        };
        // A session that has ended is told nothing any more.
        let _ = session.say(&message);
    }

    /// Ends a pairing for everybody.
    pub(super) fn end(&mut self, pairing: Pairing, reason: Reason) -> Option<Deed> {
        self.passing.remove(&pairing);
        let writer = self.plan[&pairing.channel].writer;
        for to in [writer, pairing.reader] {
            self.say(to, pairing, Content::End(reason));
        }
        Some(Deed::Remove(pairing, reason))
    }

    fn on_message(&mut self, from: SpiffeId, message: Message) -> Option<Deed> {
        let (pairing, now) = (message.pairing, SystemTime::now());
        let Some(planned) = self.plan.get(&pairing.channel).cloned() else {
            self.refuse(from, pairing, RefusalReason::Policy);
            return None;
        };
        let other = if from == planned.writer {
            pairing.reader
        } else {
            planned.writer
        };
        let terms = Terms {
            contract: Contract([4; 32]),
            serial: 1,
            kind: planned.kind,
            slice_generation: Generation(1),
            host_boot: [9; 16],
            role: if from == planned.writer {
                Role::Writer
            } else {
                Role::Reader
            },
            reader: number(&planned, pairing.reader).unwrap_or(0),
            readers: planned.readers.len().try_into().unwrap(),
        };
        let passing = self.passing.entry(pairing).or_default();
        match message.content {
            Content::Want { peer, integrity } => {
                let right = number(&planned, pairing.reader).is_some()
                    && [planned.writer, pairing.reader].contains(&from);
                let refused = if !right {
                    Some(RefusalReason::Policy)
                } else if peer != other {
                    Some(RefusalReason::Peer)
                } else {
                    (integrity.is_some_and(|wanted| wanted != planned.integrity()))
                        .then_some(RefusalReason::Integrity)
                };
                if let Some(reason) = refused {
                    self.refuse(from, pairing, reason);
                    return None;
                }
                match terms.role {
                    Role::Writer => passing.wanted.0 = true,
                    Role::Reader => passing.wanted.1 = true,
                }
                if !self.linked {
                    return None;
                }
                self.say(from, pairing, Content::Terms(terms));
                self.pass_open(pairing);
            }
            Content::Open(open) => {
                let terms = OpenTerms {
                    trust_domain: domain(),
                    contract: terms.contract,
                    serial: terms.serial,
                    channel: pairing.channel,
                    kind: terms.kind,
                    slice_generation: terms.slice_generation,
                    host_boot: terms.host_boot,
                    writer: planned.writer,
                    reader: pairing.reader,
                };
                let checked = check_open(&open, &terms, &self.credentials, now).unwrap();
                passing.open = Some((open, checked));
                self.pass_open(pairing);
            }
            Content::Accept(accept) => {
                let (_, opened) = passing.open.as_ref().unwrap();
                passing.accepted = Some(opened.accept(&accept, &self.credentials, now).unwrap());
                self.say(other, pairing, Content::Accept(accept));
            }
            Content::Confirm(confirm) => {
                let accepted = passing.accepted.as_ref().unwrap();
                passing.agreement = Some(accepted.confirm(&confirm).unwrap());
                self.say(other, pairing, Content::Confirm(confirm));
            }
            Content::Agreed(agreed) => {
                let agreement = passing.agreement.take().unwrap();
                assert_eq!(agreement.hash(), agreed.body.confirm);
                self.say(other, pairing, Content::Agreed(agreed));
                self.say(from, pairing, Content::Installed(agreed.body.confirm));
                return Some(Deed::Install(agreement));
            }
            Content::Refusal(refusal) => {
                self.passing.remove(&pairing);
                self.say(other, pairing, Content::Refusal(refusal));
                self.say(from, pairing, Content::End(Reason::Closed));
            }
            Content::End(_) => {
                self.passing.remove(&pairing);
                self.say(other, pairing, Content::End(Reason::OtherEnd));
                self.say(from, pairing, Content::End(Reason::Closed));
                return Some(Deed::Remove(pairing, Reason::OtherEnd));
            }
            content => panic!("{content:?} from {from}"),
        }
        None
    }

    /// Passes the writer's open to the reader, once both want the pairing.
    fn pass_open(&mut self, pairing: Pairing) {
        let passing = &self.passing[&pairing];
        if let ((true, true), Some((open, _))) = (passing.wanted, &passing.open) {
            let open = Content::Open(open.clone());
            self.say(pairing.reader, pairing, open);
        }
    }

    fn refuse(&mut self, service: SpiffeId, pairing: Pairing, reason: RefusalReason) {
        let Subject::Service(vm, _) = service.subject else {
            panic!("{service} is no service");
        };
        let by = crate::tests::device(vm.as_str());
        self.say(
            service,
            pairing,
            Content::Refusal(ServiceRefusal { by, reason }),
        );
    }
}

/// A reader's number.
pub(super) fn number(planned: &Planned, reader: SpiffeId) -> Option<u8> {
    let at = planned.readers.iter().position(|id| *id == reader)?;
    at.try_into().ok()
}

impl Peer {
    fn new(ca: &mut Ca, vm: &str) -> Self {
        let (id, now) = (service(vm, "reducer"), SystemTime::now());
        let device = ca.issue(crate::tests::device(vm)).device(vm);
        Self {
            id,
            client: ServiceClient::dial(&ca.issue(id).service(), now).unwrap(),
            session: ServiceSession::accept(&device, "reducer".parse().unwrap(), now).unwrap(),
            events: Vec::new(),
        }
    }

    /// Opens its end of a channel with the library's service.
    pub(super) fn want(&mut self, channel: ChannelName, role: Role, peer: SpiffeId) {
        let want = Want {
            channel,
            peer,
            role,
            integrity: None,
        };
        self.client.want(want, Instant::now()).unwrap();
    }

    pub(super) fn close(&mut self, channel: ChannelName, peer: SpiffeId) {
        self.client.close(channel, peer);
    }

    /// When it has to be asked again, though nothing has come.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.client.deadline()
    }

    /// Moves bytes between the service and its device process; gives the service's messages.
    fn shuttle(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        self.client.on_time(Instant::now()).unwrap();
        loop {
            let (up, down) = (self.client.outgoing(), self.session.outgoing());
            if up.is_empty() && down.is_empty() {
                return messages;
            }
            for event in self.session.receive(&up).unwrap() {
                if let SessionEvent::Message(message) = event {
                    messages.push(message);
                }
            }
            let now = (SystemTime::now(), Instant::now());
            self.events
                .extend(self.client.receive(&down, now.0, now.1).unwrap());
        }
    }
}
