//! What a guest and its peers can and can't bring about.

use super::*;
use crate::audit::tests::{lines, log};
use proptest::prelude::*;
use sivshm_abi::grant::{Grant, RingId};
use sivshm_abi::name::VmName;
use sivshm_policy::plan::Plan;

use crate::run::admission::Link;

const POLICY: &str = r#"
    version = 1
    trust_domain = "test.example"
    serial = 1
    [[vm]]
    name = "manager"
    [[vm]]
    name = "worker-{1..2}"
    [[service]]
    vm = "manager"
    name = "mapper"
    process = { uid = 1000 }
    [[service]]
    vm = "manager"
    name = "idle"
    process = { uid = 1001 }
    [[service]]
    vm = "worker-{n}"
    name = "reducer"
    process = { uid = 1000 }
    [[channel]]
    name = "job-{n}"
    from = "manager/mapper"
    to = ["worker-{n}/reducer"]
    kind = "region"
    size = "1MiB"
    [[channel]]
    name = "result-{n}"
    from = "worker-{n}/reducer"
    to = ["manager/mapper"]
    kind = "region"
    size = "1MiB"
"#;

fn plan() -> Plan {
    sivshm_policy::compile("test", POLICY).unwrap()
}

/// The manager with links to the workers that are named.
struct Manager {
    plan: Plan,
    links: Vec<Option<Link>>,
    sessions: Sessions,
    audit: Audit<'static>,
    records: std::fs::File,
    now: Instant,
}

impl Manager {
    fn new(established: &[usize]) -> Self {
        let (audit, records) = log();
        let now = Instant::now();
        let mut this = Self {
            plan: plan(),
            links: vec![None; 2],
            sessions: Sessions::new(Generation(100), now),
            audit,
            records,
            now,
        };
        for peer in established {
            this.link(*peer, 2);
        }
        this.hear(0, hello()).unwrap();
        this
    }

    fn link(&mut self, peer: usize, ring: u16) {
        let channels = (0..=u16::MAX).map(ChannelIndex).zip(&self.plan.channels);
        let epochs = channels.map(|(at, _)| (at, u64::from(ring))).collect();
        self.links[peer] = Some(Link {
            ring: RingId(ring),
            epochs,
        });
    }

    fn scope(&self) -> Scope<'_> {
        scope(&self.plan, &self.links)
    }

    fn act<T>(&mut self, with: impl FnOnce(&mut Sessions, &Scope<'_>, &mut Audit<'_>) -> T) -> T {
        let scope = scope(&self.plan, &self.links);
        with(&mut self.sessions, &scope, &mut self.audit)
    }

    fn hear(&mut self, id: u32, payload: Payload) -> Result<(), Fault> {
        let now = self.now;
        self.act(|sessions, scope, audit| {
            sessions.receive(SessionId(id), payload, scope, audit, now)
        })
    }

    fn take(&mut self) -> Vec<(SessionId, Payload<'static>)> {
        self.sessions.outgoing.drain(..).collect()
    }

    fn grants(&mut self) -> Vec<Grant> {
        let grant = |(_, payload)| match payload {
            Payload::Grant(grant) => Some(grant),
            _ => None,
        };
        self.take().into_iter().filter_map(grant).collect()
    }

    fn channel(&self, name: &str) -> ChannelIndex {
        let mut names = self
            .plan
            .channels
            .iter()
            .map(|channel| channel.name.as_str());
        number(names.position(|other| other == name).unwrap())
    }
}

fn scope<'a>(plan: &'a Plan, links: &'a [Option<Link>]) -> Scope<'a> {
    let name = VmName::new("manager").unwrap();
    let vm = plan.vm(name).unwrap().1;
    Scope { plan, vm, links }
}

fn number(channel: usize) -> ChannelIndex {
    ChannelIndex(channel.try_into().unwrap())
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

fn close_of(reason: Reason) -> impl Fn(&[(SessionId, Payload<'static>)]) -> bool {
    move |frames| matches!(frames, [(_, Payload::Close(r))] if *r == reason)
}

#[test]
fn a_session_is_granted_the_ends_whose_peers_are_established() {
    let mut manager = Manager::new(&[0]);
    manager.hear(7, open(1000)).unwrap();
    let grants = manager.grants();
    let channels: BTreeSet<_> = grants.iter().map(|g| g.channel.to_string()).collect();
    assert_eq!(
        channels,
        BTreeSet::from(["job-1".into(), "result-1".into()])
    );
    assert_eq!(grants.len(), 4, "data and acknowledgement line of each");
    assert!(
        grants
            .iter()
            .all(|g| g.epoch == 2 && g.generation > Generation(100))
    );

    manager.link(1, 3);
    manager
        .act(|sessions, scope, audit| sessions.grant(scope, audit))
        .unwrap();
    let more = manager.grants();
    assert_eq!(more.len(), 4);
    assert!(more.iter().all(|g| g.channel.as_str().ends_with("-2")));
    assert!(
        more.iter()
            .all(|g| g.peer.is_none_or(|peer| peer.ring == RingId(3)))
    );
}

#[test]
fn nothing_is_granted_without_its_record() {
    let mut manager = Manager::new(&[0]);
    manager.hear(7, open(1000)).unwrap();
    let granted = manager.grants().len();
    let records = lines(&mut manager.records);
    let events = records.iter().filter(|record| record["event"] == "grant");
    assert_eq!(events.count(), granted);

    let unwritable = std::fs::File::open("/dev/null").unwrap();
    let mut broken = Audit::new(
        &unwritable,
        VmName::new("manager").unwrap(),
        [0; 16],
        [0; 16],
        manager.now,
    );
    let mut other = Manager::new(&[0]);
    let now = other.now;
    let frame = (SessionId(7), open(1000));
    let fault =
        other.act(|sessions, scope, _| sessions.receive(frame.0, frame.1, scope, &mut broken, now));
    assert!(matches!(fault, Err(Fault::Audit(_))));
    assert!(other.grants().is_empty());
}

#[test]
fn processes_that_may_not_are_told_why() {
    let mut manager = Manager::new(&[]);
    manager.hear(1, open(0)).unwrap();
    assert!(close_of(Reason::NoService)(&manager.take()));
    manager.hear(2, open(1000)).unwrap();
    assert!(manager.take().is_empty());
    manager.hear(3, open(1000)).unwrap();
    assert!(close_of(Reason::RoleTaken)(&manager.take()));
    manager.hear(2, Payload::Close(Reason::Closed)).unwrap();
    manager.hear(3, open(1000)).unwrap();
    assert!(manager.take().is_empty());
}

#[test]
fn a_flood_of_opens_is_refused_and_ends() {
    let mut manager = Manager::new(&[]);
    let mut flood = |uid| {
        for id in 1..=OPENS_AT_ONCE + 1 {
            manager.hear(id, open(uid)).unwrap();
            manager.hear(id, Payload::Close(Reason::Closed)).unwrap();
        }
        let last = manager.take().pop();
        assert_eq!(last.unwrap().1, Payload::Close(Reason::Flood));
    };
    flood(0);
    flood(1000);
    manager.hear(98, open(1001)).unwrap();
    assert!(manager.take().is_empty(), "the flood is not this service's");
    manager.now += interval(OPENS_PER_SECOND);
    manager.hear(99, open(1000)).unwrap();
    assert!(
        manager.take().is_empty(),
        "the flood has not closed the door for ever"
    );
    manager.hear(0, hello()).unwrap();
}

#[test]
fn a_peer_that_is_gone_and_back_means_new_grants_once_acknowledged() {
    let mut manager = Manager::new(&[0]);
    manager.hear(7, open(1000)).unwrap();
    let before = manager.grants();
    manager.links[0] = None;
    let now = manager.now;
    let ended = manager
        .act(|sessions, scope, audit| {
            sessions.revoke(scope, |_| true, Reason::PeerGone, audit, now)
        })
        .unwrap();
    assert_eq!(ended as usize, before.len());
    let revokes = manager.take();
    assert_eq!(revokes.len(), before.len());
    assert!(manager.sessions.contained(now));
    assert!(!manager.sessions.contained(now + 2 * REVOKED_WITHIN));

    manager.link(0, 9);
    manager
        .act(|sessions, scope, audit| sessions.grant(scope, audit))
        .unwrap();
    assert!(
        manager.grants().is_empty(),
        "granted before the guest has acknowledged"
    );
    for (id, payload) in revokes {
        let Payload::Revoke {
            grant, generation, ..
        } = payload
        else {
            panic!("{payload:?}")
        };
        manager
            .hear(id.0, Payload::Revoked { grant, generation })
            .unwrap();
    }
    let after = manager.grants();
    assert_eq!(after.len(), before.len());
    let highest = before.iter().map(|g| g.generation).max().unwrap();
    assert!(after.iter().all(|g| g.generation > highest && g.epoch == 9));
    assert!(manager.sessions.contained(now + 2 * REVOKED_WITHIN));
}

#[test]
fn a_new_driver_forgets_sessions_but_not_revocations() {
    let mut manager = Manager::new(&[0]);
    let channel = manager.channel("job-1");
    manager.sessions.never_again(channel);
    manager.hear(7, open(1000)).unwrap();
    assert_eq!(manager.grants().len(), 2);
    manager.hear(0, hello()).unwrap();
    assert_eq!(manager.sessions.live().count(), 0);
    manager.hear(7, open(1000)).unwrap();
    assert!(
        manager
            .grants()
            .iter()
            .all(|g| g.channel.as_str() == "result-1")
    );
}

#[test]
fn frames_out_of_turn_are_the_guests_fault() {
    let mut manager = Manager::new(&[]);
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
}

#[derive(Clone, Debug)]
enum Step {
    Hear(u32, Payload<'static>),
    Link(usize, bool),
    Revoke(usize),
    Drain,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0_u32..5;
    let payload = prop_oneof![
        1 => Just(hello()),
        6 => (998_u32..1003).prop_map(open),
        6 => (0_u32..40, 100_u64..140).prop_map(|(grant, generation)| Payload::Revoked {
            grant: GrantId(grant),
            generation: Generation(generation),
        }),
        3 => Just(Payload::Close(Reason::Closed)),
    ];
    let step = prop_oneof![
        8 => (id, payload).prop_map(|(id, payload)| Step::Hear(id, payload)),
        2 => (0_usize..2, any::<bool>()).prop_map(|(peer, up)| Step::Link(peer, up)),
        1 => (0_usize..4).prop_map(Step::Revoke),
        3 => Just(Step::Drain),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    /// I5 and I4: whatever a guest sends and peers do, bounds hold, no part has two grants at a
    /// time, generations grow and a revoked channel is never granted again.
    #[test]
    fn a_guest_can_not_break_its_sessions(steps in steps()) {
        let mut manager = Manager::new(&[]);
        let mut revoked = BTreeSet::new();
        let mut last = Generation(100);
        let mut ring = 2;
        for step in steps {
            let now = manager.now;
            match step {
                Step::Hear(id, payload) => {
                    if let Err(Fault::Audit(error)) = manager.hear(id, payload) {
                        panic!("{error}");
                    }
                }
                Step::Link(peer, true) => {
                    ring += 1;
                    manager.link(peer, ring);
                    manager.act(|s, scope, audit| s.grant(scope, audit)).unwrap();
                }
                Step::Link(peer, false) => {
                    manager.links[peer] = None;
                    let suffix = format!("-{}", peer + 1);
                    let names: Vec<_> =
                        manager.plan.channels.iter().map(|c| c.name.to_string()).collect();
                    let gone = |c: ChannelIndex| names[usize::from(c.0)].ends_with(&suffix);
                    manager.act(|s, scope, audit| {
                        s.revoke(scope, gone, Reason::PeerGone, audit, now)
                    }).unwrap();
                }
                Step::Revoke(channel) => {
                    let at = number(channel);
                    revoked.insert(manager.plan.channels[channel].name);
                    manager.sessions.never_again(at);
                    manager.act(|s, scope, audit| {
                        s.revoke(scope, |c| c == at, Reason::Admin, audit, now)
                    }).unwrap();
                }
                Step::Drain => manager.sessions.outgoing.clear(),
            }
            prop_assert!(manager.sessions.live.len() <= 2, "one session for each service");
            let scope = manager.scope();
            for (at, channel) in manager.plan.channels.iter().enumerate() {
                let granted = manager.sessions.is_granted(&scope, number(at));
                prop_assert!(!granted || !revoked.contains(&channel.name));
                let peer = usize::from(channel.name.as_str().ends_with("-2"));
                prop_assert!(!granted || manager.links[peer].is_some());
            }
            for (_, payload) in &manager.sessions.outgoing {
                if let Payload::Grant(grant) = payload {
                    last = last.max(grant.generation);
                }
            }
            prop_assert!(manager.sessions.numbers.last() >= last);
        }
    }
}
