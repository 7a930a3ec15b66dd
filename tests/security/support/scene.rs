//! A running trust domain in which the device processes of some VMs are missing, so that an
//! impostor can play them.
//!
//! `beacon` and `camera` dial the victim `ivi`, and `ivi` dials `radar`. Everything is brought up
//! by `sivshm up`; then the supervisor is stopped, so that it does not replace what an attack needs
//! out of the way.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{UnixAddr, bind};
use nix::unistd::{Pid, geteuid};
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::Value;
use sivshm_abi::name::{TrustDomain, VmName};
use sivshm_device::admin_wire::{AdminAnswer, AdminRequest, Status};
use sivshm_device::ids::{DomainIds, IdMap};
use sivshm_device::paths::{Paths, SocketDir};
use sivshm_handshake::wire::{Contract, Hello, PROTOCOL_VERSION};
use sivshm_policy::plan::{Peer, Plan, Vm};
use sivshm_sys::socket;
use sivshm_tests::artifacts::Artifacts;
use sivshm_tests::deployment::Deployment;

use super::goods::Goods;
use super::identity::{Signer, Svid};
use super::impostor::{Impostor, Outcome, Place};
use super::user::User;

mod services;

/// The VM whose device process is attacked.
pub const VICTIM: &str = "ivi";

/// Longest time for a victim under attack to answer its operator, or to establish an honest peer: half
/// of that for which the worst descriptor would stall it, and much more than it takes.
pub const RESPONSIVE: Duration = Duration::from_secs(30);

/// Longest time for a record to appear, or a process to be gone.
const SOON: Duration = Duration::from_secs(60);

/// Pause between two looks at something that can't be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

const POLICY: &str = r#"
version = 1
trust_domain = "car.example"
serial = 7
vm = [{ name = "beacon" }, { name = "camera" }, { name = "ivi" }, { name = "radar" }]
service = [
    { vm = "beacon", name = "app", process = { uid = 1000 } },
    { vm = "camera", name = "app", process = { uid = 1000 } },
    { vm = "ivi", name = "app", process = { uid = 1000 } },
    { vm = "radar", name = "app", process = { uid = 1000 } },
]
channel = [
    { name = "beacon-1", from = "beacon/app", to = ["ivi/app"], kind = "region", size = "64KiB" },
    { name = "camera-1", from = "camera/app", to = ["ivi/app"], kind = "region", size = "64KiB" },
    { name = "camera-2", from = "ivi/app", to = ["camera/app"], kind = "region", size = "64KiB" },
    { name = "radar-1", from = "radar/app", to = ["ivi/app"], kind = "region", size = "64KiB" },
]
"#;

/// One scene at a time: users are the same in all of them, and the kernel counts descriptors in
/// flight for each user.
static TURN: Mutex<()> = Mutex::new(());

/// See the module.
pub struct Scene {
    plan: Plan,
    ids: DomainIds,
    paths: Paths,
    supervisor: Pid,
    squatted: Vec<(String, OwnedFd)>,
    // Ends the processes; before the next scene's turn.
    deployment: Deployment,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    /// Everything runs, and is linked, but the device processes of `missing`. None, with a reason
    /// printed, where there can be no users of their own.
    pub fn without(missing: &[&str]) -> Option<Self> {
        Self::with_policy(POLICY, missing)
    }

    /// The same under another policy for the same VMs.
    pub fn with_policy(policy: &str, missing: &[&str]) -> Option<Self> {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can be the users of several device processes");
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut deployment =
            Deployment::new(&Artifacts::from_env().unwrap(), policy, None).unwrap();
        deployment.up().unwrap();
        let supervisor = deployment.supervisor().unwrap().id();
        let domain = TrustDomain::new(deployment.domain()).unwrap();
        let paths = Paths::new(deployment.root(), domain);
        let ids = IdMap::load(&paths.ids()).unwrap();
        let mut scene = Self {
            plan: sivshm_policy::load(&paths.policy()).unwrap(),
            ids: ids.domain(domain).unwrap().clone(),
            paths,
            supervisor: Pid::from_raw(supervisor.cast_signed()),
            squatted: Vec::new(),
            deployment,
            _turn: turn,
        };
        for peer in ["beacon", "camera", "radar"] {
            scene.wait_record("a link", |record| is_link(record, "allow", peer));
        }
        kill(scene.supervisor, Signal::SIGSTOP).unwrap();
        for vm in missing {
            kill(scene.device(vm), Signal::SIGKILL).unwrap();
            scene.wait_record("the end of a link", |record| is_link(record, "end", vm));
            if *vm > VICTIM {
                let listener = squat(&scene.socket(SocketDir::Peer, vm), scene.user(vm));
                scene.squatted.push(((*vm).to_owned(), listener));
            }
        }
        Some(scene)
    }

    /// Has the victim's device process killed and started again. Those of `missing` VMs stay missing:
    /// their keys are gone.
    pub fn restart(&self, missing: &[&str]) {
        for vm in missing {
            fs::remove_file(self.vm_dir(vm).join("device.key")).unwrap();
        }
        let before = self.links("radar");
        kill(self.device(VICTIM), Signal::SIGKILL).unwrap();
        self.release();
        let linked = || (self.links("radar") > before).then_some(());
        wait_until("link", SOON, linked);
        kill(self.supervisor, Signal::SIGSTOP).unwrap();
    }

    /// Lets the supervisor start what is missing.
    pub fn release(&self) {
        kill(self.supervisor, Signal::SIGCONT).unwrap();
    }

    /// An honest device process of a VM that is missing, under its user and with its real SVID.
    pub fn impostor(&self, vm: &str) -> Impostor<'_> {
        let (_, me) = self.vm(vm);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let boot: String = boot.trim().split('-').collect();
        let mut squatted = self.squatted.iter();
        let place = match squatted.find(|(name, _)| name == vm) {
            Some((_, listener)) => Place::Listens(listener),
            None => Place::Dials(self.socket(SocketDir::Peer, VICTIM)),
        };
        let peer = self.link(me);
        let hello = Hello {
            version: PROTOCOL_VERSION,
            connection: u64::from(matches!(place, Place::Dials(_))),
            instance: [7; 16],
            host_boot: u128::from_str_radix(&boot, 16).unwrap().to_be_bytes(),
            policy_serial: self.plan.serial,
            contract: Contract(peer.contract.0),
        };
        let goods = Goods::honest(&self.plan, peer, self.ids.vm(me.name).unwrap());
        Impostor::honest(self.user(vm), self.svid(vm), hello, goods, place)
    }

    /// The user of a VM's device process.
    pub fn user(&self, vm: &str) -> User {
        let ids = self.ids.vm(VmName::new(vm).unwrap()).unwrap();
        User {
            uid: ids.device_uid,
            gid: self.ids.device_gid,
        }
    }

    /// The user of a VM's VMM.
    pub fn vmm_user(&self, vm: &str) -> User {
        let ids = self.ids.vm(VmName::new(vm).unwrap()).unwrap();
        User {
            uid: ids.vmm_uid,
            gid: ids.vmm_gid,
        }
    }

    /// The SVID that was issued to a VM's device process.
    pub fn svid(&self, vm: &str) -> Svid {
        Svid::of_device(&self.vm_dir(vm))
    }

    /// Where the SVIDs and keys of a VM are.
    pub fn vm_dir(&self, vm: &str) -> PathBuf {
        self.paths.vm_dir(VmName::new(vm).unwrap())
    }

    /// What everybody trusts.
    pub fn bundle(&self) -> PathBuf {
        self.paths.bundle()
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> TrustDomain {
        self.plan.trust_domain
    }

    /// The trust domain's own CA, in the impostor's hands.
    pub fn signer(&self) -> Signer {
        Signer::of_domain(&self.ca_dir())
    }

    /// Where the CA is.
    pub fn ca_dir(&self) -> PathBuf {
        self.paths.ca_dir()
    }

    /// A socket.
    pub fn socket(&self, of: SocketDir, vm: &str) -> PathBuf {
        self.paths.socket(of, VmName::new(vm).unwrap())
    }

    /// A VM's running device process.
    pub fn device(&self, vm: &str) -> Pid {
        let state = fs::read(self.paths.supervisor_state()).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        let mut vms = state["vms"].as_array().unwrap().iter();
        let vm = vms.find(|line| line["name"] == vm).unwrap();
        let pid = vm["device"]["pid"].as_i64().unwrap();
        Pid::from_raw(pid.try_into().unwrap())
    }

    /// Numbers of the descriptors that the victim has open.
    pub fn open_files(&self) -> Vec<u64> {
        let folder = format!("/proc/{}/fd", self.device(VICTIM));
        let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
        let mut numbers: Vec<u64> = entries
            .map(|entry| entry.file_name().to_str().unwrap().parse().unwrap())
            .collect();
        numbers.sort_unstable();
        numbers
    }

    /// Lowers, or raises again, how many descriptors the victim may have, and says how many it
    /// could have before. Asked as the victim's own user, who needs no privilege for it.
    pub fn limit_files(&self, files: u64) -> u64 {
        let victim = self.device(VICTIM);
        let limits = fs::read_to_string(format!("/proc/{victim}/limits")).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let mut numbers = line.unwrap().split_whitespace().flat_map(str::parse);
        let [soft, hard] = [numbers.next().unwrap(), numbers.next().unwrap()];
        let limit = Rlimit {
            current: Some(files),
            maximum: Some(hard),
        };
        let victim = rustix::process::Pid::from_raw(victim.as_raw());
        let set = || prlimit(victim, Resource::Nofile, limit).unwrap();
        self.user(VICTIM).act(set);
        soft
    }

    /// What the victim has recorded.
    pub fn records(&self) -> Vec<Value> {
        self.records_of(VICTIM)
    }

    /// What a VM's device process has recorded.
    pub fn records_of(&self, vm: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.paths.audit(VmName::new(vm).unwrap())).unwrap();
        // A record that is being written has no end yet.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits for one of the victim's records.
    pub fn wait_record(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, SOON, || self.records().into_iter().find(&wanted))
    }

    /// How many links with a VM the victim has recorded.
    pub fn links(&self, vm: &str) -> usize {
        let records = self.records();
        let links = records.iter().filter(|record| is_link(record, "allow", vm));
        links.count()
    }

    /// The victim refused a link to this user, for this reason and no other.
    pub fn assert_refused(&self, user: User, blame: &str, reason: &str) {
        self.assert_recorded(user, "peer", blame, reason);
    }

    /// The victim denied this user something, for this reason and no other.
    pub fn assert_recorded(&self, user: User, event: &str, blame: &str, reason: &str) {
        let by = format!("process {} of user {}", std::process::id(), user.uid);
        // A victim that dials may have waited for the device process that is not there, before.
        let in_vain = "nothing for too long while waiting for the TLS handshake";
        let record = self.wait_record("a denial", |record| {
            let who = record["who"].as_str().unwrap();
            let why = record["reason"].as_str().unwrap();
            record["decision"] == "deny"
                && (who == by || who.starts_with(&format!("{by} ")))
                && (reason.contains(in_vain) || !why.contains(in_vain))
        });
        let found = record["reason"].as_str().unwrap();
        assert!(found.contains(reason), "wanted {reason:?}, found {record}");
        assert_eq!(record["event"], event, "{record}");
        assert_eq!(record["blame"], blame, "{record}");
    }

    /// The same program, when it does no harm, is established: with exactly what the policy gives
    /// it, and within [`RESPONSIVE`].
    pub fn assert_honest(&self, vm: &str) -> Outcome {
        let began = Instant::now();
        let outcome = self.impostor(vm).play();
        assert_eq!(outcome.end, None, "an honest peer is refused");
        assert_eq!(outcome.talk.received.len(), self.planned_gifts(vm));
        let status = self.assert_answers();
        let peer = status.peers.iter().find(|peer| peer.vm == vm).unwrap();
        assert!(peer.link.is_some(), "{peer:?}");
        assert!(began.elapsed() < RESPONSIVE, "{:?}", began.elapsed());
        outcome
    }

    /// How many descriptors the policy gives to a VM's device process.
    pub fn planned_gifts(&self, vm: &str) -> usize {
        let (_, me) = self.vm(vm);
        self.link(me).takes.len() + 1
    }

    /// The victim answers its operator within [`RESPONSIVE`].
    pub fn assert_answers(&self) -> Status {
        match self.ask(&AdminRequest::Status {}) {
            AdminAnswer::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Asks the victim as its operator.
    pub fn ask(&self, request: &AdminRequest) -> AdminAnswer {
        let mut operator = UnixStream::connect(self.socket(SocketDir::Admin, VICTIM)).unwrap();
        operator.set_read_timeout(Some(RESPONSIVE)).unwrap();
        let question = serde_json::to_string(request).unwrap();
        writeln!(operator, "{question}").unwrap();
        let mut line = String::new();
        BufReader::new(operator).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn vm(&self, name: &str) -> (sivshm_policy::plan::VmIndex, &Vm) {
        self.plan.vm(VmName::new(name).unwrap()).unwrap()
    }

    /// A VM's line about the victim.
    fn link<'a>(&self, of: &'a Vm) -> &'a Peer {
        let (victim, _) = self.vm(VICTIM);
        of.peers.iter().find(|peer| peer.vm == victim).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // The deployment ends next, for which its supervisor has to run.
        let _ = kill(self.supervisor, Signal::SIGCONT);
    }
}

fn is_link(record: &Value, decision: &str, vm: &str) -> bool {
    let who = record["who"].as_str().unwrap();
    record["event"] == "peer"
        && record["decision"] == decision
        && who == format!("spiffe://car.example/vm/{vm}/device")
}

/// Takes the place of a device process: its socket, bound by root as there and listened on by its
/// user.
pub fn squat(path: &Path, user: User) -> OwnedFd {
    let listener = socket::stream().unwrap();
    fs::remove_file(path).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    chown(path, None, Some(user.gid)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).unwrap();
    user.act(|| socket::listen(&listener)).unwrap();
    listener
}

/// Looks until there is something to see.
pub fn wait_until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "no {what} within {limit:?}");
        thread::sleep(LOOK_AGAIN);
    }
}
