//! What a guest can and can't bring about.

mod limits;

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use sivshm_abi::directory::VERSION;
use sivshm_abi::frame::Facts;
use sivshm_abi::grant::{Generation, GrantId};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::limits::MAX_SESSIONS;
use sivshm_abi::name::{ServiceName, TrustDomain, VmName};
use sivshm_ca::Authority;
use sivshm_handshake::Credentials;
use sivshm_handshake::service::ServiceClient;
use sivshm_handshake::service::wire::MessageType;
use sivshm_policy::plan::Plan;
use zeroize::Zeroizing;

use super::*;
use crate::audit::tests::{lines, log};
use crate::run::limits::MAX_UNPROVED;

const POLICY: &str = r#"
    version = 1
    trust_domain = "test.example"
    serial = 1
    [[vm]]
    name = "manager"
    [[vm]]
    name = "worker"
    [[service]]
    vm = "manager"
    name = "mapper"
    process = { uid = 1000 }
    [[service]]
    vm = "manager"
    name = "idle"
    process = { uid = 1001 }
    [[service]]
    vm = "worker"
    name = "reducer"
    process = { uid = 1000 }
    [[channel]]
    name = "job"
    from = "manager/mapper"
    to = ["worker/reducer"]
    kind = "region"
    size = "1MiB"
"#;

/// Credentials of the manager's device process and of its services, made once.
struct Keys {
    device: Credentials,
    mapper: Credentials,
    idle: Credentials,
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("test.example").unwrap();
        let now = SystemTime::now();
        let path = dir.path().join("ca");
        let mut authority = Authority::init(&path, &domain, now).unwrap();
        let bundle = std::fs::read(path.join("bundle.pem")).unwrap();
        let mut load = |service: Option<&str>| {
            let vm = VmName::new("manager").unwrap();
            let subject = match service {
                Some(name) => Subject::Service(vm, ServiceName::new(name).unwrap()),
                None => Subject::Device(vm),
            };
            let hour = Duration::from_secs(3600);
            let issued = authority
                .issue(&SpiffeId { domain, subject }, hour, now)
                .unwrap();
            let key = Zeroizing::new(issued.key_pem.as_bytes().to_vec());
            let chain = issued.chain_pem.as_bytes();
            match service {
                Some(_) => Credentials::load_service(chain, &key, &bundle, now).unwrap(),
                None => Credentials::load(domain, vm, chain, &key, &bundle, now).unwrap(),
            }
        };
        Keys {
            device: load(None),
            mapper: load(Some("mapper")),
            idle: load(Some("idle")),
        }
    })
}

/// The sessions of the manager's guest.
struct Manager {
    plan: Plan,
    slices: BTreeMap<sivshm_abi::directory::SliceId, Generation>,
    sessions: Sessions,
    audit: Audit<'static>,
    records: std::fs::File,
    now: Instant,
}

impl Manager {
    fn new() -> Self {
        Self::with(POLICY)
    }

    fn with(policy: &str) -> Self {
        let (audit, records) = log();
        let now = Instant::now();
        let mut this = Self {
            plan: sivshm_policy::compile("test", policy).unwrap(),
            slices: BTreeMap::new(),
            sessions: Sessions::new(Generation(100), now),
            audit,
            records,
            now,
        };
        this.hear(0, hello()).unwrap();
        this.take();
        this.sessions.said.clear();
        this
    }

    fn act<T>(&mut self, with: impl FnOnce(&mut Sessions, &Scope<'_>, &mut Audit<'_>) -> T) -> T {
        let (_, vm) = self.plan.vm(VmName::new("manager").unwrap()).unwrap();
        let scope = Scope {
            plan: &self.plan,
            serial: 1,
            vm,
            links: &[None],
            slices: &self.slices,
            host_boot: [0; 16],
            credentials: keys().device.clone(),
            wall: SystemTime::now(),
            now: self.now,
        };
        with(&mut self.sessions, &scope, &mut self.audit)
    }

    fn hear(&mut self, id: u32, payload: Payload<'_>) -> Result<(), Fault> {
        self.act(|sessions, scope, audit| sessions.receive(SessionId(id), payload, scope, audit))
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.act(|sessions, scope, audit| sessions.on_time(scope, audit))
            .unwrap();
    }

    /// The frames for the guest.
    fn take(&mut self) -> Vec<(SessionId, Frame)> {
        self.sessions.pack();
        self.sessions.outgoing.drain(..).collect()
    }

    /// Why the sessions end that the guest is told of.
    fn closed(&mut self) -> Vec<Reason> {
        let reason = |(_, frame)| match frame {
            Frame::Control(Payload::Close(reason)) => Some(reason),
            _ => None,
        };
        self.take().into_iter().filter_map(reason).collect()
    }

    /// Carries bytes between a session and its service until there are no more. Returns the reason
    /// if the session was closed.
    fn talk(&mut self, id: u32, client: &mut ServiceClient, now: Instant) -> Option<Reason> {
        loop {
            let bytes = client.outgoing();
            let frames = bytes.chunks(2048);
            frames.for_each(|bytes| self.hear(id, Payload::Data(bytes)).unwrap());
            let mut quiet = bytes.is_empty();
            for (to, frame) in self.take() {
                assert_eq!(to, SessionId(id));
                match frame {
                    Frame::Data(bytes) => {
                        quiet = false;
                        let credit = bytes.len().try_into().unwrap();
                        // One that is refused learns so by an alert, and by `CLOSE`.
                        let _ = client.receive(&bytes, SystemTime::now(), now);
                        self.hear(id, Payload::Ring { credit }).unwrap();
                    }
                    Frame::Control(Payload::Close(reason)) => return Some(reason),
                    Frame::Control(_) => {}
                }
            }
            if quiet {
                return None;
            }
        }
    }

    /// A process of a user that has an identity; the reason if it is not admitted.
    fn prove(&mut self, id: u32, uid: u32, identity: &Credentials) -> Option<Reason> {
        self.hear(id, open(uid)).unwrap();
        let mut client = ServiceClient::dial(identity, SystemTime::now()).unwrap();
        let now = self.now;
        self.talk(id, &mut client, now)
    }

    fn said(&mut self) -> Vec<MessageType> {
        let kind = |said| match said {
            Said::Message(_, message) => Some(message.kind()),
            _ => None,
        };
        self.sessions.said.drain(..).filter_map(kind).collect()
    }
}

fn hello() -> Payload<'static> {
    Payload::Hello {
        version: VERSION,
        boot: [9; 16],
    }
}

fn open(uid: u32) -> Payload<'static> {
    Payload::Open(Facts {
        pid: 1,
        uid,
        gid: 1,
        exe_sha256: None,
    })
}

#[test]
fn a_session_is_what_its_facts_and_its_svid_say_together() {
    let mut manager = Manager::new();
    let keys = keys();
    assert_eq!(manager.prove(1, 0, &keys.mapper), Some(Reason::NoService));
    assert_eq!(manager.prove(2, 1000, &keys.idle), Some(Reason::Unproved));
    assert_eq!(manager.prove(3, 1001, &keys.mapper), Some(Reason::Unproved));
    assert_eq!(manager.prove(4, 1000, &keys.mapper), None);
    assert_eq!(
        manager.prove(5, 1000, &keys.mapper),
        Some(Reason::RoleTaken)
    );
    assert_eq!(manager.prove(6, 1001, &keys.idle), None);
    let proved = manager
        .sessions
        .live()
        .filter(|(_, session)| session.proof().is_some());
    assert_eq!(proved.count(), 2);
    let records = lines(&mut manager.records);
    let admitted = records.iter().filter(|record| record["what"] == "session");
    let decisions: Vec<_> = admitted.map(|record| record["decision"].clone()).collect();
    assert_eq!(
        decisions,
        ["deny", "deny", "deny", "allow", "deny", "allow"]
    );
}

/// A role is taken by who has proved to be the service, not by who has opened first.
#[test]
fn a_role_is_free_again_when_its_session_has_closed() {
    let mut manager = Manager::new();
    manager.hear(1, open(1000)).unwrap();
    assert_eq!(manager.prove(2, 1000, &keys().mapper), None);
    manager.hear(2, Payload::Close(Reason::Closed)).unwrap();
    assert!(matches!(
        manager.sessions.said.pop_back(),
        Some(Said::Closed(SessionId(2)))
    ));
    assert_eq!(manager.prove(3, 1000, &keys().mapper), None);
}

#[test]
fn a_session_that_was_ended_keeps_its_number_until_the_guest_lets_go() {
    let mut manager = Manager::new();
    assert_eq!(manager.prove(1, 1000, &keys().mapper), None);
    manager.hear(1, Payload::Ring { credit: 1 }).unwrap();
    assert_eq!(manager.closed(), [Reason::Protocol]);
    assert!(matches!(
        manager.sessions.said.pop_back(),
        Some(Said::Closed(SessionId(1)))
    ));
    assert!(matches!(manager.hear(1, open(1000)), Err(Fault::Guest(_))));
    manager.hear(1, Payload::Data(&[0; 100])).unwrap();
    assert!(manager.take().is_empty(), "it is not heard any more");
    manager.hear(1, Payload::Close(Reason::Closed)).unwrap();
    assert!(matches!(
        manager.sessions.said.pop_back(),
        Some(Said::LetGo(_))
    ));
    manager.hear(1, open(1000)).unwrap();
}

#[test]
fn nobody_is_admitted_without_a_record() {
    let mut manager = Manager::new();
    let unwritable = std::fs::File::open("/dev/null").unwrap();
    let clock = crate::clock::Clock::start().unwrap();
    let vm = VmName::new("manager").unwrap();
    let mut broken = Audit::new(&unwritable, &clock, vm, [0; 16], [0; 16], manager.now);
    let fault = manager
        .act(|sessions, scope, _| sessions.receive(SessionId(1), open(1000), scope, &mut broken));
    assert!(matches!(fault, Err(Fault::Audit(_))));
    assert_eq!(manager.sessions.live().count(), 0);
}

#[test]
fn frames_out_of_turn_are_the_guests_fault() {
    let mut manager = Manager::new();
    manager.sessions.forget();
    let broken = |result| matches!(result, Err(Fault::Guest(_)));
    assert!(broken(manager.hear(1, open(1000))), "before HELLO");
    assert!(broken(manager.hear(1, hello())), "HELLO of a session");
    manager.hear(0, hello()).unwrap();
    assert!(broken(manager.hear(0, open(1000))), "session 0");
    manager.hear(1, open(1000)).unwrap();
    assert!(broken(manager.hear(1, open(1001))), "a number in use");
    let revoke = Payload::Revoke {
        grant: GrantId(1),
        generation: Generation(1),
        reason: Reason::Admin,
    };
    assert!(broken(manager.hear(1, revoke)), "a frame of the host");
    manager.hear(0, hello()).unwrap();
    assert!(matches!(manager.sessions.said.pop_back(), Some(Said::Gone)));
    assert_eq!(manager.sessions.live().count(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Hear(u32, Payload<'static>),
    Data(u32, Vec<u8>),
    Pass(u64),
    Drain,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0_u32..6;
    let payload = prop_oneof![
        1 => Just(hello()),
        8 => (999_u32..1003).prop_map(open),
        2 => (0_u32..40, 100_u64..140).prop_map(|(grant, generation)| Payload::Revoked {
            grant: GrantId(grant),
            generation: Generation(generation),
        }),
        3 => Just(Payload::Close(Reason::Closed)),
        2 => (0_u32..10_000).prop_map(|credit| Payload::Ring { credit }),
    ];
    let data = proptest::collection::vec(any::<u8>(), 1..2048);
    let step = prop_oneof![
        8 => (id.clone(), payload).prop_map(|(id, payload)| Step::Hear(id, payload)),
        4 => (id, data).prop_map(|(id, data)| Step::Data(id, data)),
        1 => (0_u64..40).prop_map(Step::Pass),
        3 => Just(Step::Drain),
    ];
    proptest::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// I5: whatever a guest sends, bounds hold, and nothing is heard of a service that has proved
    /// nothing.
    #[test]
    fn a_guest_can_not_break_its_sessions(steps in steps()) {
        let mut manager = Manager::new();
        for step in steps {
            let heard = match &step {
                Step::Hear(id, payload) => manager.hear(*id, *payload),
                Step::Data(id, bytes) => manager.hear(*id, Payload::Data(bytes)),
                Step::Pass(seconds) => {
                    manager.pass(Duration::from_secs(*seconds));
                    Ok(())
                }
                Step::Drain => {
                    manager.take();
                    Ok(())
                }
            };
            if let Err(Fault::Audit(error)) = heard {
                panic!("{error}");
            }
            prop_assert!(manager.sessions.live.len() <= MAX_SESSIONS);
            for service in 0..2 {
                let unproved = manager.sessions.live.values().filter(|session| {
                    session.service == service && matches!(session.stage, Stage::Unproved(_))
                });
                prop_assert!(unproved.count() <= MAX_UNPROVED);
            }
            let said = &manager.sessions.said;
            prop_assert!(!said.iter().any(|said| matches!(said, Said::Message(..))));
        }
    }
}
