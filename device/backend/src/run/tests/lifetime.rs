//! What ends by itself, or by a newer policy or revocation list.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant, SystemTime};

use sivshm_abi::frame::Reason;
use sivshm_abi::identity::SpiffeId;
use sivshm_ca::profile::Reason as Why;
use sivshm_ca::{Authority, Target};
use sivshm_handshake::service::wire::Role;

use super::guest::{Guest, run};
use super::world::{Device, Host, POLICY, pair, run_until, service, write_private};
use crate::admin_wire::{AdminAnswer, AdminRequest, ChannelState, Reloaded, Status};
use crate::opened::{OpenError, Opened};
use crate::paths::SocketDir;
use crate::run::limits::REVOKED_WITHIN;

const HOUR: Duration = Duration::from_secs(3600);

/// The policy with another serial, with or without its channel.
fn policy(serial: u64, with_channel: bool) -> String {
    let policy = POLICY.replace("serial = 1", &format!("serial = {serial}"));
    match with_channel {
        true => policy,
        false => policy.split("[[channel]]").next().unwrap().to_owned(),
    }
}

/// An open channel between the services of two VMs.
struct Open {
    host: Host,
    a: Device,
    b: Device,
    asker: Guest,
    answerer: Guest,
}

impl Open {
    fn new(host: Host) -> Self {
        let (a, b) = pair(&host);
        let asker = Guest::start(&host, "a", &[&a, &b]);
        let answerer = Guest::start(&host, "b", &[&a, &b]);
        let mut this = Self {
            host,
            a,
            b,
            asker,
            answerer,
        };
        this.asker.open(7, &this.host.identity("a", "ask"));
        this.answerer.open(8, &this.host.identity("b", "answer"));
        this.want();
        this.until(|a, b| !a.session(7).opened.is_empty() && !b.session(8).opened.is_empty());
        this
    }

    fn want(&mut self) {
        let (asks, answers) = (service("a", "ask"), service("b", "answer"));
        self.asker.want(7, "question", answers, Role::Writer);
        self.answerer.want(8, "question", asks, Role::Reader);
    }

    fn until(&mut self, mut so: impl FnMut(&Guest, &Guest) -> bool) {
        let mut guests = [&mut self.asker, &mut self.answerer];
        run(&[&self.a, &self.b], &mut guests, |guests| {
            so(guests[0], guests[1])
        });
    }

    /// Lets everything that can happen at once happen.
    fn settle(&mut self) {
        let mut turns = 0..50;
        self.until(|_, _| turns.next().is_none());
    }

    fn reload(&self, vm: &str, policy: &str, crl: &str) -> AdminAnswer {
        let request = AdminRequest::Reload {
            policy: policy.to_owned(),
            crl: crl.to_owned(),
        };
        let line = serde_json::to_string(&request).unwrap();
        self.host.admin(vm, &line, &[&self.a, &self.b])
    }

    fn reloaded(&self, vm: &str, policy: &str, crl: &str) -> Reloaded {
        match self.reload(vm, policy, crl) {
            AdminAnswer::Reloaded(reloaded) => reloaded,
            other => panic!("{other:?}"),
        }
    }

    fn status(&self, vm: &str) -> Status {
        self.host.status(vm, &[&self.a, &self.b])
    }

    fn crl(&self) -> String {
        fs::read_to_string(self.host.paths.crl()).unwrap()
    }

    /// The revocation lists once all SVIDs of a party are withdrawn.
    fn without(&self, party: SpiffeId) -> String {
        let mut authority = Authority::open(&self.host.paths.ca_dir()).unwrap();
        let (target, now) = (Target::Id(party), SystemTime::now());
        let revoked = authority.revoke(&target, Why::KeyCompromise, now).unwrap();
        revoked.crl.pem
    }

    /// What the asker's VMM sees at the start of its own slice.
    fn word(&self) -> [u8; 8] {
        let memory = fs::File::from(self.asker.windows[0].try_clone().unwrap());
        let mut word = [0; 8];
        memory.read_exact_at(&mut word, 0).unwrap();
        word
    }

    fn write(&self) {
        let memory = fs::File::from(self.asker.windows[0].try_clone().unwrap());
        memory.write_all_at(b"question", 0).unwrap();
    }
}

fn device(vm: &str, host: &Host) -> SpiffeId {
    let plan = sivshm_policy::load(&host.paths.policy()).unwrap();
    let (_, vm) = plan.vm(super::world::name(vm)).unwrap();
    plan.device_id(vm)
}

/// Long lives for the device processes, so that services' SVIDs end first.
fn long_lived_devices() -> Host {
    let host = Host::new();
    let mut authority = Authority::open(&host.paths.ca_dir()).unwrap();
    for vm in ["a", "b"] {
        let id = device(vm, &host);
        let issued = authority.issue(&id, 4 * HOUR, SystemTime::now()).unwrap();
        let vm = super::world::name(vm);
        write_private(&host.paths.device_chain(vm), &issued.chain_pem);
        write_private(&host.paths.device_key(vm), &issued.key_pem);
    }
    host
}

/// I9: no revocation list, no device process.
#[test]
fn without_a_revocation_list_nothing_starts() {
    let host = Host::new();
    fs::remove_file(host.paths.crl()).unwrap();
    let refused = Opened::open(host.config("a")).unwrap_err();
    assert!(matches!(refused, OpenError::NoCrl { .. }), "{refused}");
    fs::write(host.paths.crl(), "no list").unwrap();
    let refused = Opened::open(host.config("a")).unwrap_err();
    assert!(
        matches!(refused, OpenError::Credentials { .. }),
        "{refused}"
    );
}

#[test]
fn a_channel_that_a_newer_policy_has_no_more_ends_for_good() {
    let mut world = Open::new(Host::new());
    let (newer, crl) = (policy(2, false), world.crl());
    for vm in ["a", "b"] {
        let reloaded = world.reloaded(vm, &newer, &crl);
        assert_eq!(reloaded.policy_serial, 2);
        assert_eq!(reloaded.ended, ["question"]);
        assert_eq!(reloaded.needs_restart, [""; 0]);
        assert_eq!((reloaded.links, reloaded.sessions), (0, 0));
    }
    world.until(|a, b| a.session(7).grants.is_empty() && b.session(8).grants.is_empty());
    assert_eq!(world.asker.session(7).ends(), [Reason::Policy]);
    for vm in ["a", "b"] {
        let status = world.status(vm);
        assert_eq!(status.policy_serial, 2);
        assert_eq!(status.channels[0].state, ChannelState::Ended);
    }
    // A later policy does not bring it back.
    world.reloaded("a", &policy(3, true), &crl);
    assert_eq!(world.status("a").channels[0].state, ChannelState::Ended);
    world.want();
    world.settle();
    assert!(world.asker.session(7).grants.is_empty());
}

/// The memory is given back when the guest has let go, not before: it could still write.
#[test]
fn a_slice_whose_channels_have_ended_is_emptied_once_the_writer_has_let_go() {
    let mut world = Open::new(Host::new());
    world.asker.lets_go = false;
    world.write();
    world.reloaded("a", &policy(2, false), &world.crl());
    world.settle();
    assert_eq!(&world.word(), b"question");
    world.asker.let_go(7);
    world.settle();
    assert_eq!(world.word(), [0; 8]);
    let audit = world.host.audit("a");
    let emptied =
        |record: &&serde_json::Value| record["event"] == "slices" && record["decision"] == "end";
    assert_eq!(audit.iter().filter(emptied).count(), 1);
}

#[test]
fn a_reload_that_can_not_be_changes_nothing() {
    let mut world = Open::new(Host::new());
    let crl = world.crl();
    let other = policy(1, true).replace("64KiB", "128KiB");
    let long = "#".repeat(crate::admin_wire::MAX_RELOAD_POLICY_BYTES + 1);
    let older = policy(0, true);
    let newer = policy(2, false);
    for (policy, crl) in [
        ("nonsense", crl.as_str()),
        (&older, &crl),
        (&other, &crl),
        (&newer, "no list"),
        (&newer, ""),
    ] {
        let answer = world.reload("a", policy, crl);
        assert!(matches!(answer, AdminAnswer::Refused { .. }), "{answer:?}");
    }
    // More than a socket takes at once, so without one.
    let mut a = world.a.0.borrow_mut();
    let answer = a.reload("test", &long, &crl, Instant::now()).unwrap();
    assert!(matches!(answer, AdminAnswer::Refused { .. }), "{answer:?}");
    drop(a);
    world.settle();
    assert_eq!(world.asker.session(7).grants.len(), 2);
    assert_eq!(world.status("a").policy_serial, 1);
    let again = world.reloaded("a", &policy(1, true), &crl);
    assert_eq!((again.pairings, again.ended.len()), (0, 0));
}

/// A list that was there before would bring back what a later one has withdrawn.
#[test]
fn a_reload_with_an_older_revocation_list_changes_nothing() {
    let mut world = Open::new(Host::new());
    let old = world.crl();
    let newer = world.without(service("b", "answer"));
    world.reloaded("b", &policy(1, true), &newer);
    world.until(|_, b| b.session(8).closed.is_some());

    let AdminAnswer::Refused { reason } = world.reload("b", &policy(2, false), &old) else {
        panic!("an older list was taken");
    };
    let numbers = "has number 1, which is older than number 2 in force";
    assert!(
        reason.starts_with("host: ") && reason.contains(numbers),
        "{reason}"
    );
    let audit = world.host.audit("b");
    let refused = audit.last().unwrap();
    assert_eq!(
        (&refused["event"], &refused["decision"]),
        (&"admin".into(), &"deny".into())
    );
    assert_eq!(
        (&refused["blame"], &refused["reason"]),
        (&"host".into(), &reason.into())
    );
    let status = world.status("b");
    assert_eq!(
        (status.policy_serial, &status.channels[0].state),
        (1, &ChannelState::Ready)
    );
    world.answerer.open(9, &world.host.identity("b", "answer"));
    world.until(|_, b| b.session(9).closed.is_some());
    assert_eq!(world.answerer.session(9).closed, Some(Reason::Unproved));

    // The list in force is no older than itself.
    world.reloaded("b", &policy(2, false), &newer);
}

#[test]
fn a_withdrawn_service_loses_everything_and_does_not_come_back() {
    let mut world = Open::new(Host::new());
    let crl = world.without(service("b", "answer"));
    let here = world.reloaded("b", &policy(1, true), &crl);
    assert_eq!((here.links, here.sessions, here.pairings), (0, 1, 1));
    world.reloaded("a", &policy(1, true), &crl);
    world.until(|a, b| a.session(7).grants.is_empty() && b.session(8).closed.is_some());
    assert_eq!(world.answerer.session(8).closed, Some(Reason::Withdrawn));
    assert_eq!(world.asker.session(7).ends(), [Reason::Withdrawn]);
    assert!(world.status("a").sessions[0].proved, "the other one stays");

    world.answerer.open(9, &world.host.identity("b", "answer"));
    world.until(|_, b| b.session(9).closed.is_some());
    assert_eq!(world.answerer.session(9).closed, Some(Reason::Unproved));
}

#[test]
fn a_withdrawn_device_process_is_out_of_service_and_its_peers_refuse_it() {
    let mut world = Open::new(Host::new());
    let crl = world.without(device("b", &world.host));
    let there = world.reloaded("a", &policy(2, true), &crl);
    assert_eq!((there.links, there.sessions, there.pairings), (1, 0, 1));
    world.reloaded("b", &policy(2, true), &crl);
    world.until(|a, b| a.session(7).grants.is_empty() && b.session(8).closed.is_some());
    world.settle();
    assert!(!world.a.linked() && !world.b.linked());
    let status = world.status("b");
    assert_eq!(status.policy_serial, 2);
    assert_eq!(
        status.out_of_service.as_deref(),
        Some(Reason::Withdrawn.words())
    );
    assert_eq!(world.status("a").out_of_service, None);
    let audit = world.host.audit("b");
    assert!(audit.iter().any(|record| record["event"] == "lifetime"));
}

/// A clock that is set back brings nothing that has expired to life.
#[test]
fn nothing_outlives_the_svid_of_a_service_whatever_the_clock_says() {
    let mut world = Open::new(long_lived_devices());
    for device in [&world.a, &world.b] {
        device.clock().set_ahead(2 * HOUR);
    }
    world.until(|a, b| a.session(7).closed.is_some() && b.session(8).closed.is_some());
    assert_eq!(world.asker.session(7).closed, Some(Reason::Expired));
    let revoked = &world.answerer.session(8).revoked;
    assert!(revoked.iter().all(|(_, reason)| *reason == Reason::Expired));
    assert!(world.a.linked(), "device processes live longer");

    world.asker.open(9, &world.host.identity("a", "ask"));
    world.until(|a, _| a.session(9).closed.is_some());
    assert_eq!(world.asker.session(9).closed, Some(Reason::Unproved));
}

#[test]
fn everything_ends_with_the_own_svid() {
    let mut world = Open::new(Host::new());
    world.b.clock().set_ahead(2 * HOUR);
    world.until(|a, b| a.session(7).grants.is_empty() && b.session(8).closed.is_some());
    assert_eq!(world.answerer.session(8).closed, Some(Reason::Expired));
    assert!(!world.b.linked());
    let status = world.status("b");
    assert_eq!(
        status.out_of_service.as_deref(),
        Some(Reason::Expired.words())
    );
    assert!(status.sessions.is_empty() || !status.sessions[0].proved);
    // It does not stand in the way of what the others are told.
    let reloaded = world.reloaded("b", &policy(2, true), &world.crl());
    assert_eq!(reloaded.policy_serial, 2);
}

#[test]
fn what_was_taken_stays_taken_when_the_device_process_starts_again() {
    let host = Host::new();
    let narrowed = host.paths.policy().with_file_name("narrowed.toml");
    fs::write(&narrowed, policy(2, false)).unwrap();
    let mut config = host.config("a");
    config.narrowed = Some(narrowed.clone());
    let a = host.start_as(config);
    let status = host.status("a", &[&a]);
    assert_eq!(status.policy_serial, 2);
    assert_eq!(status.channels[0].state, ChannelState::Ended);

    fs::write(&narrowed, policy(0, false)).unwrap();
    let mut config = host.config("b");
    config.narrowed = Some(narrowed);
    let refused = Opened::open(config).unwrap_err();
    assert!(matches!(refused, OpenError::Narrowed { .. }), "{refused}");
}

#[test]
fn who_watches_is_told_once_that_a_guest_does_not_let_go() {
    let ends = POLICY.replace("name = \"b\"", "name = \"b\"\nuncontained = \"end-vmm\"");
    let mut world = Open::new(Host::with(&ends));
    let watch = |world: &Open| {
        let mut connection = world.host.connect(SocketDir::Admin, "b");
        connection.write_all(b"{\"command\":\"watch\"}\n").unwrap();
        connection.set_nonblocking(true).unwrap();
        BufReader::new(connection)
    };
    let heard = |world: &mut Open, from: &mut BufReader<_>, lines: usize| {
        let mut text = String::new();
        world.until(|_, _| {
            // What was read before the socket was empty stays in `text`.
            let _ = BufReader::<std::os::unix::net::UnixStream>::read_line(from, &mut text);
            text.lines().count() >= lines && text.ends_with('\n')
        });
        text
    };
    const TOLD: &str = "{\"answer\":\"watching\"}\n\
                        {\"uncontained\":{\"vm\":\"b\",\"end_vmm\":true}}\n";
    let mut early = watch(&world);
    world.answerer.lets_go = false;
    let began = Instant::now();
    let revoke = r#"{"command":"revoke","channel":"question"}"#;
    world.host.admin("b", revoke, &[&world.a, &world.b]);
    assert_eq!(heard(&mut world, &mut early, 2), TOLD);
    assert!(began.elapsed() > REVOKED_WITHIN);
    assert!(!world.status("b").contained);
    assert!(world.status("a").contained);
    let mut late = watch(&world);
    assert_eq!(heard(&mut world, &mut late, 2), TOLD);

    world.answerer.let_go(8);
    world.settle();
    assert!(world.status("b").contained);
    let audit = world.host.audit("b");
    let told = audit
        .iter()
        .filter(|record| record["event"] == "containment");
    assert_eq!(told.count(), 1);
    assert_eq!(
        early.read_line(&mut String::new()).unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
    run_until(&[&world.b], || true);
}
