//! A host with the device processes of its VMs, in one thread, unconfined, with real sockets and keys.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::{ServiceName, TrustDomain, VmName};
use sivshm_ca::Authority;
use sivshm_handshake::Credentials;
use sivshm_sys::socket;
use zeroize::Zeroizing;

use crate::admin_wire::{AdminAnswer, Status};
use crate::args::{Config, Mode};
use crate::audit::Audit;
use crate::clock::Clock;
use crate::opened::Opened;
use crate::paths::{Paths, SocketDir};
use crate::run::{EventLoop, RunError};

pub(super) const POLICY: &str = r#"
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
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The host: a folder with policy and keys.
pub(super) struct Host {
    root: tempfile::TempDir,
    pub(super) paths: Paths,
    services: BTreeMap<(String, String), Credentials>,
}

/// One device process; what it holds is leaked, because a process has it until its end.
pub(super) struct Device(pub(super) RefCell<EventLoop<'static>>);

impl Host {
    pub(super) fn new() -> Self {
        Self::with(POLICY)
    }

    pub(super) fn with(policy: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("test.example").unwrap();
        let paths = Paths::new(root.path(), domain);
        for socket_dir in SocketDir::ALL {
            fs::create_dir_all(paths.socket_dir(socket_dir)).unwrap();
        }
        fs::create_dir_all(paths.log_dir()).unwrap();
        fs::create_dir_all(paths.policy().parent().unwrap()).unwrap();
        fs::write(paths.policy(), policy).unwrap();
        let mut authority = Authority::init(&paths.ca_dir(), &domain, SystemTime::now()).unwrap();
        fs::copy(paths.ca_dir().join("bundle.pem"), paths.bundle()).unwrap();
        fs::copy(paths.ca_dir().join("crl.pem"), paths.crl()).unwrap();
        let bundle = fs::read(paths.bundle()).unwrap();
        let mut services = BTreeMap::new();
        let plan = sivshm_policy::load(&paths.policy()).unwrap();
        for vm in &plan.vms {
            let (id, hour) = (plan.device_id(vm), Duration::from_secs(3600));
            let issued = authority.issue(&id, hour, SystemTime::now()).unwrap();
            fs::create_dir_all(paths.vm_dir(vm.name)).unwrap();
            write_private(&paths.device_chain(vm.name), &issued.chain_pem);
            write_private(&paths.device_key(vm.name), &issued.key_pem);
            for service in &vm.services {
                let id = SpiffeId {
                    domain,
                    subject: Subject::Service(vm.name, service.name),
                };
                let issued = authority.issue(&id, hour, SystemTime::now()).unwrap();
                let key = Zeroizing::new(issued.key_pem.as_bytes().to_vec());
                let chain = issued.chain_pem.as_bytes();
                let credentials =
                    Credentials::load_service(chain, &key, &bundle, SystemTime::now()).unwrap();
                services.insert((vm.name.to_string(), service.name.to_string()), credentials);
            }
        }
        Self {
            root,
            paths,
            services,
        }
    }

    /// SVID and key of a service.
    pub(super) fn identity(&self, vm: &str, service: &str) -> Credentials {
        let service = (vm.to_owned(), service.to_owned());
        self.services[&service].clone()
    }

    pub(super) fn config(&self, vm: &str) -> Config {
        Config {
            vm: name(vm),
            policy: self.paths.policy(),
            narrowed: None,
            root: self.root.path().to_owned(),
            ids: PathBuf::new(),
            mode: Mode::Development,
        }
    }

    pub(super) fn start(&self, vm: &str) -> Device {
        self.start_as(self.config(vm))
    }

    pub(super) fn start_as(&self, config: Config) -> Device {
        let mut held = Opened::open(config).unwrap().held;
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

    pub(super) fn connect(&self, to: SocketDir, vm: &str) -> UnixStream {
        UnixStream::connect(self.paths.socket(to, name(vm))).unwrap()
    }

    /// Asks over a socket of JSON lines while the devices run.
    pub(super) fn ask(
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

    pub(super) fn admin(&self, vm: &str, line: &str, devices: &[&Device]) -> AdminAnswer {
        let (_, answer) = self.ask(SocketDir::Admin, vm, line, devices);
        serde_json::from_str(&answer).unwrap()
    }

    pub(super) fn status(&self, vm: &str, devices: &[&Device]) -> Status {
        match self.admin(vm, r#"{"command":"status"}"#, devices) {
            AdminAnswer::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn audit(&self, vm: &str) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.paths.audit(name(vm))).unwrap();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

pub(super) fn name(vm: &str) -> VmName {
    VmName::new(vm).unwrap()
}

pub(super) fn write_private(path: &Path, text: &str) {
    let mut options = fs::File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

impl Device {
    pub(super) fn clock(&self) -> &'static Clock {
        &self.0.borrow().held.clock
    }

    pub(super) fn step(&self) {
        self.try_step().unwrap();
    }

    pub(super) fn try_step(&self) -> Result<(), RunError> {
        let mut this = self.0.borrow_mut();
        let soon = Instant::now() + Duration::from_millis(1);
        let ready = this.poller.wait(Some(soon)).unwrap();
        let now = Instant::now();
        for source in ready {
            this.on_ready(source, now)?;
        }
        this.on_time(now)
    }

    /// From now on no record can be written.
    pub(super) fn lose_audit(&self) {
        let mut this = self.0.borrow_mut();
        let held = this.held;
        let unwritable = Box::leak(Box::new(fs::File::open("/dev/null").unwrap()));
        let (vm, now) = (this.vm.name, Instant::now());
        this.audit = Audit::new(
            unwritable,
            &held.clock,
            vm,
            held.host_boot,
            held.instance,
            now,
        );
    }

    /// Does what is due at a moment, which may be to come.
    pub(super) fn at(&self, now: Instant) {
        self.0.borrow_mut().on_time(now).unwrap();
    }

    pub(super) fn linked(&self) -> bool {
        self.0.borrow().peers.link(0).is_some()
    }

    pub(super) fn ring(&self) -> u16 {
        self.0.borrow().peers.link(0).unwrap().ring.0
    }
}

/// Runs the devices until something is so.
pub(super) fn run_until(devices: &[&Device], mut so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "it did not come to pass");
        devices.iter().for_each(|device| device.step());
    }
}

/// The identity of a service, as its peers name it.
pub(super) fn service(vm: &str, name: &str) -> SpiffeId {
    SpiffeId {
        domain: TrustDomain::new("test.example").unwrap(),
        subject: Subject::Service(self::name(vm), ServiceName::new(name).unwrap()),
    }
}

pub(super) fn pair(host: &Host) -> (Device, Device) {
    let (a, b) = (host.start("a"), host.start("b"));
    run_until(&[&a, &b], || a.linked() && b.linked());
    (a, b)
}
