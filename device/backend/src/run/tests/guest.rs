//! A process that stands in for a VM's guest: its gate, and the services behind it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Instant, SystemTime};

use sivshm_abi::frame::{Facts, LONGEST_PAYLOAD_BYTES, Payload, Reason, SessionId};
use sivshm_abi::grant::Grant;
use sivshm_abi::identity::SpiffeId;
use sivshm_abi::limits::{MAX_DATA_BYTES, SESSION_CREDIT_BYTES};
use sivshm_abi::name::ChannelName;
use sivshm_handshake::Credentials;
use sivshm_handshake::service::wire::Role;
use sivshm_handshake::service::{ClientEvent, Opened, ServiceClient, Want};
use sivshm_ring::frames::{ControlRings, SendError, Side};
use sivshm_sys::map::Mapping;
use sivshm_sys::{eventfd, scm};

use super::world::{Device, Host, run_until};
use crate::launch_wire::LaunchAnswer;
use crate::paths::SocketDir;

pub(super) struct Guest {
    /// The VMM's signs of life.
    _connections: [UnixStream; 2],
    pub(super) windows: Vec<OwnedFd>,
    pub(super) rings: ControlRings,
    kick: OwnedFd,
    pub(super) sessions: BTreeMap<u32, Session>,
    /// Whether revocations are acknowledged.
    pub(super) lets_go: bool,
}

/// A process that has opened the device.
pub(super) struct Session {
    client: Option<ServiceClient>,
    waiting: Vec<u8>,
    credit: usize,
    pub(super) authenticated: bool,
    pub(super) grants: Vec<Grant>,
    pub(super) revoked: Vec<(Grant, Reason)>,
    pub(super) opened: Vec<Opened>,
    pub(super) setbacks: Vec<ClientEvent>,
    pub(super) closed: Option<Reason>,
}

impl Session {
    /// The reasons that pairings ended for, as the service was told.
    pub(super) fn ends(&self) -> Vec<Reason> {
        let reason = |event: &ClientEvent| match event {
            ClientEvent::Ended { reason, .. } => Some(*reason),
            _ => None,
        };
        self.setbacks.iter().filter_map(reason).collect()
    }
}

impl Guest {
    pub(super) fn start(host: &Host, vm: &str, devices: &[&Device]) -> Self {
        let request = r#"{"version":1,"vmm":"attached","program":"test"}"#;
        let (launch, answer) = host.ask(SocketDir::Launch, vm, request, devices);
        let answer: LaunchAnswer = serde_json::from_str(&answer).unwrap();
        let LaunchAnswer::Launched {
            windows: table,
            vectors,
            ..
        } = answer
        else {
            panic!("{answer:?}")
        };
        let mut windows = Vec::new();
        run_until(devices, || {
            if let Ok(received) = scm::receive(&launch, &mut [0; 8]) {
                windows.extend(received.rights);
            }
            windows.len() == table.len()
        });
        let port = host.connect(SocketDir::Port, vm);
        let mut heard = Vec::new();
        run_until(devices, || {
            let mut bytes = [0; 8];
            if let Ok(received) = scm::receive(&port, &mut bytes) {
                heard.push((
                    i64::from_le_bytes(bytes),
                    received.rights.into_iter().next(),
                ));
            }
            let own = heard.iter().filter(|(id, fd)| *id == 1 && fd.is_some());
            own.count() == usize::from(vectors)
        });
        let mut right = |id| {
            let found = heard
                .iter_mut()
                .find(|(other, fd)| *other == id && fd.is_some());
            found.and_then(|(_, fd)| fd.take()).unwrap()
        };
        let memory = Mapping::new(right(-1)).unwrap().shared();
        let mut this = Self {
            _connections: [launch, port],
            windows,
            rings: ControlRings::new(memory, Side::Guest).unwrap(),
            kick: right(0),
            sessions: BTreeMap::new(),
            lets_go: true,
        };
        let (version, boot) = (1, [1; 16]);
        this.say(0, &Payload::Hello { version, boot });
        this
    }

    pub(super) fn say(&mut self, session: u32, payload: &Payload<'_>) {
        self.rings.send(SessionId(session), payload).unwrap();
        eventfd::ring(&self.kick).unwrap();
    }

    /// A process of a user opens the device, and is a service if it has an identity.
    pub(super) fn open_as(&mut self, number: u32, uid: u32, identity: Option<&Credentials>) {
        let client = identity.map(|of| ServiceClient::dial(of, SystemTime::now()).unwrap());
        let facts = Facts {
            pid: 1,
            uid,
            gid: 1000,
            exe_sha256: None,
        };
        self.say(number, &Payload::Open(facts));
        let session = Session {
            client,
            waiting: Vec::new(),
            credit: SESSION_CREDIT_BYTES,
            authenticated: false,
            grants: Vec::new(),
            revoked: Vec::new(),
            opened: Vec::new(),
            setbacks: Vec::new(),
            closed: None,
        };
        self.sessions.insert(number, session);
    }

    pub(super) fn open(&mut self, number: u32, identity: &Credentials) {
        self.open_as(number, 1000, Some(identity));
    }

    pub(super) fn want(&mut self, number: u32, channel: &str, peer: SpiffeId, role: Role) {
        let channel = ChannelName::new(channel).unwrap();
        let want = Want {
            channel,
            peer,
            role,
            integrity: None,
        };
        let client = self.sessions.get_mut(&number).unwrap().client.as_mut();
        client.unwrap().want(want, Instant::now()).unwrap();
    }

    /// The service closes its end of a channel, and keeps its session.
    pub(super) fn unwant(&mut self, number: u32, channel: &str, peer: SpiffeId) {
        let channel = ChannelName::new(channel).unwrap();
        let client = self.sessions.get_mut(&number).unwrap().client.as_mut();
        client.unwrap().close(channel, peer);
    }

    /// The process closes the device, or dies.
    pub(super) fn close(&mut self, number: u32) {
        self.sessions.remove(&number);
        self.say(number, &Payload::Close(Reason::Closed));
    }

    /// The process stops doing anything.
    pub(super) fn freeze(&mut self, number: u32) {
        self.sessions.get_mut(&number).unwrap().client = None;
    }

    pub(super) fn session(&self, number: u32) -> &Session {
        &self.sessions[&number]
    }

    /// Serves what has come, as a gate and its services do.
    pub(super) fn serve(&mut self) {
        let mut space = [0; LONGEST_PAYLOAD_BYTES];
        while let Ok(Some((session, payload))) = self.rings.receive(&mut space) {
            let answer = self.hear(session.0, payload);
            for answer in answer {
                self.say(session.0, &answer);
            }
        }
        let mut rung = false;
        for (number, session) in &mut self.sessions {
            if let Some(client) = &mut session.client {
                client.on_time(Instant::now()).unwrap();
                session.waiting.extend(client.outgoing());
            }
            while session.credit.min(session.waiting.len()) > 0 {
                let len = session
                    .waiting
                    .len()
                    .min(session.credit)
                    .min(MAX_DATA_BYTES);
                let data = Payload::Data(&session.waiting[..len]);
                match self.rings.send(SessionId(*number), &data) {
                    Ok(()) => {}
                    Err(SendError::Full) => break,
                    Err(error) => panic!("{error}"),
                }
                session.waiting.drain(..len);
                session.credit -= len;
                rung = true;
            }
        }
        if rung {
            eventfd::ring(&self.kick).unwrap();
        }
    }

    fn hear(&mut self, number: u32, payload: Payload<'_>) -> Vec<Payload<'static>> {
        let Some(session) = self.sessions.get_mut(&number) else {
            return Vec::new();
        };
        match payload {
            Payload::Data(bytes) => {
                session.take(bytes);
                let credit = bytes.len().try_into().unwrap();
                vec![Payload::Ring { credit }]
            }
            Payload::Ring { credit } => {
                session.credit += usize::try_from(credit).unwrap();
                assert!(session.credit <= SESSION_CREDIT_BYTES);
                Vec::new()
            }
            Payload::Grant(grant) => {
                session.grants.push(grant);
                Vec::new()
            }
            Payload::Revoke {
                grant,
                generation,
                reason,
            } => {
                let at = session
                    .grants
                    .iter()
                    .position(|held| held.id == grant)
                    .unwrap();
                let held = session.grants.remove(at);
                assert_eq!(held.generation, generation);
                session.revoked.push((held, reason));
                let answer = Payload::Revoked { grant, generation };
                if self.lets_go {
                    vec![answer]
                } else {
                    Vec::new()
                }
            }
            Payload::Close(reason) => {
                session.closed = Some(reason);
                session.client = None;
                session.grants.clear();
                vec![Payload::Close(reason)]
            }
            other => panic!("{other:?}"),
        }
    }

    /// Acknowledges what was not acknowledged before.
    pub(super) fn let_go(&mut self, number: u32) {
        self.lets_go = true;
        let revoked: Vec<_> = self.sessions[&number]
            .revoked
            .iter()
            .map(|(g, _)| *g)
            .collect();
        for grant in revoked {
            let (grant, generation) = (grant.id, grant.generation);
            self.say(number, &Payload::Revoked { grant, generation });
        }
    }
}

impl Session {
    fn take(&mut self, bytes: &[u8]) {
        let Some(client) = &mut self.client else {
            return;
        };
        let events = client.receive(bytes, SystemTime::now(), Instant::now());
        let events = events.unwrap_or_else(|_| {
            self.waiting.extend(client.farewell());
            Vec::new()
        });
        for event in events {
            match event {
                ClientEvent::Authenticated => self.authenticated = true,
                ClientEvent::Opened(opened) => self.opened.push(opened),
                setback => self.setbacks.push(setback),
            }
        }
    }
}

/// Runs devices and guests until something is so.
pub(super) fn run(
    devices: &[&Device],
    guests: &mut [&mut Guest],
    mut so: impl FnMut(&[&mut Guest]) -> bool,
) {
    run_until(devices, || {
        guests.iter_mut().for_each(|guest| guest.serve());
        so(guests)
    });
}
