//! Whole device processes of two VMs in one thread, unconfined, with real sockets and keys.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use sivshm_abi::frame::{Facts, LONGEST_PAYLOAD_BYTES, Payload, SessionId};
use sivshm_abi::grant::Grant;
use sivshm_abi::name::{TrustDomain, VmName};
use sivshm_ca::Authority;
use sivshm_ring::frames::{ControlRings, Side};
use sivshm_sys::map::Mapping;
use sivshm_sys::{eventfd, scm};

use super::*;
use crate::admin_wire::{AdminAnswer, ChannelState, Status};
use crate::args::Config;
use crate::launch_wire::LaunchAnswer;
use crate::opened::Opened;
use crate::paths::{Paths, SocketDir};
use crate::run::peer_link::LinkEnd;

const POLICY: &str = r#"
    version = 1
    trust_domain = "test.example"
    serial = 1
    [[vm]]
    name = "a"
    [[vm]]
    name = "b"
    [[service]]
    vm = "a"
    name = "ask"
    process = { uid = 1000 }
    [[service]]
    vm = "b"
    name = "answer"
    process = { uid = 1000 }
    [[channel]]
    name = "question"
    from = "a/ask"
    to = ["b/answer"]
    kind = "region"
    size = "64KiB"
"#;

/// Longest time for anything here; failing takes it, passing does not.
const PATIENCE: Duration = Duration::from_secs(20);

/// The host: a folder with policy and keys.
struct Host {
    root: tempfile::TempDir,
    paths: Paths,
}

/// One device process; what it holds is leaked, because a process has it until its end.
struct Device(RefCell<EventLoop<'static>>);

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("test.example").unwrap();
        let paths = Paths::new(root.path(), domain);
        for socket_dir in SocketDir::ALL {
            fs::create_dir_all(paths.socket_dir(socket_dir)).unwrap();
        }
        fs::create_dir_all(paths.log_dir()).unwrap();
        fs::create_dir_all(paths.policy().parent().unwrap()).unwrap();
        fs::write(paths.policy(), POLICY).unwrap();
        let mut authority = Authority::init(&paths.ca_dir(), &domain, SystemTime::now()).unwrap();
        fs::copy(paths.ca_dir().join("bundle.pem"), paths.bundle()).unwrap();
        let plan = sivshm_policy::load(&paths.policy()).unwrap();
        for vm in &plan.vms {
            let (id, hour) = (plan.device_id(vm), Duration::from_secs(3600));
            let issued = authority.issue(&id, hour, SystemTime::now()).unwrap();
            fs::create_dir_all(paths.vm_dir(vm.name)).unwrap();
            write_private(&paths.device_chain(vm.name), &issued.chain_pem);
            write_private(&paths.device_key(vm.name), &issued.key_pem);
        }
        Self { root, paths }
    }

    fn start(&self, vm: &str) -> Device {
        let opened = Opened::open(Config {
            vm: name(vm),
            policy: self.paths.policy(),
            root: self.root.path().to_owned(),
            ids: PathBuf::new(),
            mode: Mode::Development,
        });
        let mut held = opened.unwrap().held;
        held.peer_dir = self.paths.socket_dir(SocketDir::Peer);
        let held = Box::leak(Box::new(held));
        for listener in [
            &held.listeners.peer,
            &held.listeners.port,
            &held.listeners.launch,
            &held.listeners.admin,
        ] {
            socket::listen(listener).unwrap();
        }
        Device(EventLoop::new(held, Instant::now()).unwrap().into())
    }

    fn connect(&self, to: SocketDir, vm: &str) -> UnixStream {
        UnixStream::connect(self.paths.socket(to, name(vm))).unwrap()
    }

    /// Asks over a socket of JSON lines while the devices run.
    fn ask(
        &self,
        to: SocketDir,
        vm: &str,
        line: &str,
        devices: &[&Device],
    ) -> (UnixStream, String) {
        let mut connection = self.connect(to, vm);
        writeln!(connection, "{line}").unwrap();
        connection.set_nonblocking(true).unwrap();
        let mut answer = String::new();
        let mut reader = BufReader::with_capacity(1, connection.try_clone().unwrap());
        run_until(devices, || {
            // What was read before the socket was empty stays in `answer`.
            let _ = reader.read_line(&mut answer);
            answer.ends_with('\n')
        });
        (connection, answer)
    }

    fn admin(&self, vm: &str, line: &str, devices: &[&Device]) -> AdminAnswer {
        let (_, answer) = self.ask(SocketDir::Admin, vm, line, devices);
        serde_json::from_str(&answer).unwrap()
    }

    fn status(&self, vm: &str, devices: &[&Device]) -> Status {
        match self.admin(vm, r#"{"command":"status"}"#, devices) {
            AdminAnswer::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    fn audit(&self, vm: &str) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.paths.audit(name(vm))).unwrap();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn name(vm: &str) -> VmName {
    VmName::new(vm).unwrap()
}

fn write_private(path: &Path, text: &str) {
    let mut options = fs::File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

impl Device {
    fn step(&self) {
        let mut this = self.0.borrow_mut();
        let soon = Instant::now() + Duration::from_millis(1);
        let ready = this.poller.wait(Some(soon)).unwrap();
        let now = Instant::now();
        for source in ready {
            this.on_ready(source, now).unwrap();
        }
        this.on_time(now).unwrap();
    }

    fn linked(&self) -> bool {
        self.0.borrow().peers.link(0).is_some()
    }

    fn ring(&self) -> u16 {
        self.0.borrow().peers.link(0).unwrap().ring.0
    }
}

/// Runs the devices until something is so.
fn run_until(devices: &[&Device], mut so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "it did not come to pass");
        devices.iter().for_each(|device| device.step());
    }
}

fn pair(host: &Host) -> (Device, Device) {
    let (a, b) = (host.start("a"), host.start("b"));
    run_until(&[&a, &b], || a.linked() && b.linked());
    (a, b)
}

/// A process that stands in for a VM's guest.
struct Guest {
    launch: UnixStream,
    port: UnixStream,
    windows: Vec<OwnedFd>,
    rings: ControlRings,
    kick: OwnedFd,
}

impl Guest {
    fn start(host: &Host, vm: &str, devices: &[&Device]) -> Self {
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
            launch,
            port,
            windows,
            rings: ControlRings::new(memory, Side::Guest).unwrap(),
            kick: {
                heard.retain(|(id, _)| *id == 0);
                heard.into_iter().find_map(|(_, fd)| fd).unwrap()
            },
        };
        this.say(
            0,
            Payload::Hello {
                version: 1,
                boot: [1; 16],
            },
        );
        this
    }

    fn say(&mut self, session: u32, payload: Payload) {
        self.rings.send(SessionId(session), &payload).unwrap();
        eventfd::ring(&self.kick).unwrap();
    }

    fn open(&mut self, session: u32) {
        let facts = Facts {
            pid: 1,
            uid: 1000,
            gid: 1000,
            exe_sha256: None,
        };
        self.say(session, Payload::Open(facts));
    }

    fn hear(&mut self, count: usize, devices: &[&Device]) -> Vec<Payload<'static>> {
        let mut heard = Vec::new();
        run_until(devices, || {
            let mut space = [0; LONGEST_PAYLOAD_BYTES];
            while let Ok(Some((_, payload))) = self.rings.receive(&mut space) {
                heard.push(payload.detached().unwrap());
            }
            heard.len() >= count
        });
        heard
    }

    fn grants(&mut self, devices: &[&Device]) -> Vec<Grant> {
        let heard = self.hear(2, devices).into_iter();
        let grant = |payload| match payload {
            Payload::Grant(grant) => grant,
            other => panic!("{other:?}"),
        };
        heard.map(grant).collect()
    }
}

#[test]
fn two_device_processes_find_and_authenticate_each_other_in_any_order() {
    let host = Host::new();
    let a = host.start("a");
    for _ in 0..10 {
        a.step();
    }
    assert!(!a.linked());
    let b = host.start("b");
    run_until(&[&a, &b], || a.linked() && b.linked());
    for vm in ["a", "b"] {
        let audit = host.audit(vm);
        let events: Vec<_> = audit
            .iter()
            .map(|record| record["event"].as_str().unwrap())
            .collect();
        assert!(events.ends_with(&["slices", "peer"]), "{vm}: {events:?}");
    }
}

#[test]
fn both_ends_of_a_channel_are_granted_with_one_epoch() {
    let host = Host::new();
    let (a, b) = pair(&host);
    let devices = [&a, &b];
    let mut asker = Guest::start(&host, "a", &devices);
    let mut answerer = Guest::start(&host, "b", &devices);
    assert_eq!((asker.windows.len(), answerer.windows.len()), (2, 2));
    asker.open(7);
    answerer.open(8);
    let (writer, reader) = (asker.grants(&devices), answerer.grants(&devices));
    let mut epochs: Vec<_> = writer.iter().chain(&reader).map(|g| g.epoch).collect();
    epochs.dedup();
    assert_eq!(epochs.len(), 1);
    let status = host.status("a", &devices);
    assert_eq!(status.channels[0].state, ChannelState::Granted);
    assert_eq!(status.sessions[0].grants, 2);
    assert!(status.vmm.unwrap().driver);

    // The VMM's end is the end of its sessions.
    drop(asker.port);
    drop(asker.launch);
    run_until(&devices, || a.0.borrow().launcher.vmm().is_none());
    assert!(host.status("a", &devices).sessions.is_empty());
}

#[test]
fn a_revocation_ends_the_channel_at_both_ends_for_good() {
    let host = Host::new();
    let (a, b) = pair(&host);
    let devices = [&a, &b];
    let mut answerer = Guest::start(&host, "b", &devices);
    answerer.open(8);
    let granted = answerer.grants(&devices);
    let answer = host.admin(
        "a",
        r#"{"command":"revoke","channel":"question"}"#,
        &devices,
    );
    assert!(
        matches!(answer, AdminAnswer::Revoked { grants: 0, .. }),
        "{answer:?}"
    );
    for payload in answerer.hear(granted.len(), &devices) {
        let Payload::Revoke {
            grant,
            generation,
            reason: Reason::Admin,
        } = payload
        else {
            panic!("{payload:?}")
        };
        answerer.say(8, Payload::Revoked { grant, generation });
    }
    let revoked = |vm| host.status(vm, &devices).channels[0].state == ChannelState::Revoked;
    assert!(revoked("a") && revoked("b"));

    // A peer that starts again is told, so that the channel stays revoked at both ends.
    drop(b);
    let b = host.start("b");
    let devices = [&a, &b];
    run_until(&devices, || {
        let index = ChannelIndex(0);
        b.linked() && b.0.borrow().control.sessions.is_revoked(index)
    });
}

#[test]
fn a_peer_that_starts_again_gets_a_new_ring_id_and_its_vmm_a_new_launch() {
    let host = Host::new();
    let (a, b) = pair(&host);
    let mut asker = Guest::start(&host, "a", &[&a, &b]);
    asker.open(7);
    assert_eq!(asker.grants(&[&a, &b]).len(), 2);
    let ring = a.ring();
    drop(b);
    run_until(&[&a], || !a.linked());
    let reasons = asker.hear(2, &[&a]);
    let gone = |payload: &Payload| {
        matches!(
            payload,
            Payload::Revoke {
                reason: Reason::PeerGone,
                ..
            }
        )
    };
    assert!(reasons.iter().all(gone), "{reasons:?}");

    let b = host.start("b");
    run_until(&[&a, &b], || a.linked() && b.linked());
    assert!(a.ring() > ring);
    for payload in reasons {
        if let Payload::Revoke {
            grant, generation, ..
        } = payload
        {
            asker.say(7, Payload::Revoked { grant, generation });
        }
    }
    let status = host.status("a", &[&a, &b]);
    assert!(status.contained);
    assert!(status.peers[0].link.as_ref().unwrap().needs_relaunch);
    assert_eq!(
        status.channels[0].state,
        ChannelState::Ready,
        "its VMM has the old slice"
    );
}

#[test]
fn only_one_launch_and_one_port_client_at_a_time() {
    let host = Host::new();
    let (a, b) = pair(&host);
    let devices = [&a, &b];
    let guest = Guest::start(&host, "a", &devices);
    let request = r#"{"version":1,"vmm":"qemu","program":"test"}"#;
    let (_, answer) = host.ask(SocketDir::Launch, "a", request, &devices);
    assert!(answer.contains("runs this VM already"), "{answer}");

    let second = host.connect(SocketDir::Port, "a");
    let mut refused = None;
    run_until(&devices, || {
        refused = scm::receive(&second, &mut [0; 8]).ok();
        refused.is_some()
    });
    assert_eq!(refused.unwrap().bytes, 0);
    assert!(a.0.borrow().port.is_some());
    drop(guest);
}

/// I5 and I9: strangers, even of the right user, neither break nor crowd out a peer.
#[test]
fn strangers_do_not_keep_a_peer_out() {
    let host = Host::new();
    let b = host.start("b");
    let strangers: Vec<_> = (0..100)
        .map(|at| {
            let mut stranger = host.connect(SocketDir::Peer, "b");
            if at % 2 == 0 {
                // It may have been dropped already.
                let _ = stranger.write_all(b"GET / HTTP/1.1\r\n\r\n");
            }
            b.step();
            stranger
        })
        .collect();
    let a = host.start("a");
    run_until(&[&a, &b], || a.linked() && b.linked());
    let denied = host.audit("b");
    let denied = denied
        .iter()
        .filter(|record| record["decision"] == "deny")
        .count();
    assert!(
        (2..=40).contains(&denied),
        "{denied} refusals are recorded one by one"
    );
    drop(strangers);
}

#[test]
fn a_device_process_leaves_in_good_order() {
    let host = Host::new();
    let (a, b) = pair(&host);
    let mut answerer = Guest::start(&host, "b", &[&a, &b]);
    answerer.open(8);
    assert_eq!(answerer.grants(&[&a, &b]).len(), 2);
    b.0.borrow_mut().leave(Instant::now()).unwrap();
    let closed = |payload: &Payload| {
        matches!(
            payload,
            Payload::Revoke {
                reason: Reason::Closed,
                ..
            }
        )
    };
    assert!(answerer.hear(2, &[]).iter().all(closed));
    run_until(&[&a], || !a.linked());
    let audit = host.audit("a");
    let lost = audit
        .iter()
        .rfind(|record| record["event"] == "peer")
        .unwrap();
    assert_eq!(lost["reason"], LinkEnd::Bye.to_string());
    let audit = host.audit("b");
    assert_eq!(audit.last().unwrap()["event"], "process");
}
