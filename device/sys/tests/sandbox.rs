//! Confinement from the outside (DESIGN section 5, I9): what the kernel says about a confined
//! process, and how one ends that does what it must not do, under the device process's own filter.
//!
//! Each check starts this program again as the process to be confined. Root is needed for the real
//! thing; without it only development mode is checked, and the program says so.
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test without a harness: an assertion that unwraps is still an assertion"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind};
use nix::unistd::{Pid, getegid, geteuid};
use sivshm_sys::facts::{FdInfo, ObjectFacts};
use sivshm_sys::map::Mapping;
use sivshm_sys::memfd::{self, Ownership};
use sivshm_sys::sandbox::{self, Filter, Limits, Namespaces, Spec};
use sivshm_sys::{eventfd, exec, socket};

/// The filter that the device process runs under.
const POLICY: &str = include_str!("../../backend/src/seccomp.json");

/// Users that nobody else has: what a device process becomes, and a developer.
const DEVICE: u32 = 79_001;
const DEVELOPER: u32 = 79_002;

/// What the confined process says when it is.
const READY: &str = "confined";

/// What a confined process holds here.
struct Kit {
    listener: OwnedFd,
    memory: OwnedFd,
    doorbell: OwnedFd,
}

/// Something that must end a confined process.
struct Hostile {
    name: &'static str,
    attempt: fn(Kit),
}

const HOSTILE: &[Hostile] = &[
    Hostile {
        name: "start a program",
        attempt: |_| drop(Command::new("/x").spawn()),
    },
    Hostile {
        name: "open a network socket",
        attempt: |_| {
            let (kind, flags) = (SockType::Stream, SockFlag::empty());
            drop(nix::sys::socket::socket(
                AddressFamily::Inet,
                kind,
                flags,
                None,
            ));
        },
    },
    Hostile {
        name: "create a file",
        attempt: |_| drop(File::create("/x")),
    },
    Hostile {
        name: "change the mode of a file",
        attempt: |_| drop(fs::set_permissions("/x", fs::Permissions::from_mode(0o777))),
    },
    Hostile {
        name: "map a memory file",
        attempt: |kit| drop(Mapping::new(&kit.memory)),
    },
    Hostile {
        name: "create a memory file",
        attempt: |_| drop(memfd::create(c"x", 4096, owned_by_me())),
    },
    Hostile {
        name: "signal another process",
        attempt: |_| _ = nix::sys::signal::kill(Pid::from_raw(1), None),
    },
    Hostile {
        name: "make a shared file blocking",
        attempt: |kit| drop(UnixListener::from(kit.listener).set_nonblocking(false)),
    },
    Hostile {
        name: "become dumpable",
        attempt: |_| _ = nix::sys::prctl::set_dumpable(true),
    },
    Hostile {
        name: "make a namespace",
        attempt: |_| _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER),
    },
];

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, role, mode, place, action] = arguments.as_slice()
        && role == "confined-child"
    {
        child(mode, Path::new(place), action);
        return;
    }
    if geteuid().is_root() {
        confined_process_has_nothing_left("privileged", DEVICE);
        hostile_calls_end_the_process("privileged");
        a_root_with_another_file_is_refused();
        passed("a root with another file is refused");
    } else {
        println!("skipped: confinement with users of their own needs root");
    }
    confined_process_has_nothing_left("unprivileged", DEVELOPER);
    passed("a confined process has nothing left");
    hostile_calls_end_the_process("unprivileged");
    passed("hostile calls end the process");
}

fn passed(name: &str) {
    println!("test {name} ... ok");
}

fn owned_by_me() -> Ownership {
    Ownership {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        mode: 0o600,
    }
}

/// Becomes confined, then does what `action` says.
fn child(mode: &str, place: &Path, action: &str) {
    let namespaces = match mode {
        "privileged" => Namespaces::Privileged,
        _ => Namespaces::Unprivileged,
    };
    if geteuid().is_root() && namespaces == Namespaces::Unprivileged {
        exec::become_user(DEVELOPER, DEVELOPER, &[]).unwrap();
        // Changing the user has made our own /proc entries root's; a developer's are their own.
        nix::sys::prctl::set_dumpable(true).unwrap();
    }
    let (uid, gid) = match namespaces {
        Namespaces::Privileged => (DEVICE, DEVICE),
        Namespaces::Unprivileged => (geteuid().as_raw(), getegid().as_raw()),
    };
    let kit = Kit {
        listener: socket::stream().unwrap(),
        memory: memfd::create(c"test", 4096, owned_by_me()).unwrap(),
        doorbell: eventfd::create().unwrap(),
    };
    let address = UnixAddr::new(&place.join("a.sock")).unwrap();
    bind(kit.listener.as_raw_fd(), &address).unwrap();
    fs::set_permissions(place.join("a.sock"), fs::Permissions::from_mode(0o666)).unwrap();
    // Nobody lists this one: it must be gone.
    std::mem::forget(File::open("/").unwrap());
    let fdinfo = FdInfo::open().unwrap();
    let log = io::stderr();
    sandbox::enter(&Spec {
        keep: &[
            kit.listener.as_fd(),
            kit.memory.as_fd(),
            kit.doorbell.as_fd(),
            fdinfo.as_fd(),
            log.as_fd(),
        ],
        namespaces,
        root: place,
        uid,
        gid,
        listeners: &[kit.listener.as_fd()],
        limits: Limits {
            files: 32,
            address_space: 1 << 28,
            data: 1 << 26,
        },
        fdinfo: &fdinfo,
        filter: &Filter::compile(POLICY, "device").unwrap(),
    })
    .unwrap();
    if action == "stay" {
        what_is_needed_still_works(&kit, &fdinfo);
        eprintln!("{READY}");
        let mut never = [PollFd::new(kit.doorbell.as_fd(), PollFlags::POLLIN)];
        poll(&mut never, PollTimeout::NONE).unwrap();
    } else if let Some(hostile) = HOSTILE.iter().find(|hostile| hostile.name == action) {
        eprintln!("{READY}");
        (hostile.attempt)(kit);
    }
}

fn what_is_needed_still_works(kit: &Kit, fdinfo: &FdInfo) {
    let facts = ObjectFacts::of(&kit.doorbell, fdinfo).unwrap();
    assert!(matches!(facts, ObjectFacts::Doorbell(_)));
    let facts = ObjectFacts::of(&kit.memory, fdinfo).unwrap();
    assert!(matches!(facts, ObjectFacts::Memory(_)));
    let _peer = socket::connect(Path::new("/a.sock")).unwrap();
    assert!(socket::accept(&kit.listener).unwrap().is_some());
    for path in ["/etc/passwd", "/proc/self/status", "/"] {
        assert!(File::open(path).is_err(), "{path} was opened");
    }
}

/// Starts the process to be confined; its directory of sockets must be passable by its user.
fn spawn(mode: &str, place: &Path, action: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["confined-child", mode])
        .arg(place)
        .arg(action)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
    place
}

fn confined_process_has_nothing_left(mode: &str, user: u32) {
    let user = if geteuid().is_root() {
        user
    } else {
        geteuid().as_raw()
    };
    let place = place();
    let mut child = spawn(mode, place.path(), "stay");
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    if line.trim() != READY {
        io::Read::read_to_string(&mut said, &mut line).unwrap();
        panic!("{mode}: not confined: {line}");
    }
    let proc = format!("/proc/{}", child.id());
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    let status: BTreeMap<_, _> = status.lines().filter_map(|l| l.split_once(":\t")).collect();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{mode} {set}");
    }
    assert_eq!(status["NoNewPrivs"], "1");
    assert_eq!(status["Seccomp"], "2");
    assert_eq!(status["Threads"], "1");
    assert_eq!(status["Uid"], [user.to_string().as_str(); 4].join("\t"));
    if mode == "privileged" {
        assert_eq!(status["Groups"].trim(), "");
    }
    if geteuid().is_root() {
        assert_outside_view(&proc, place.path(), user);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What only root can look at.
fn assert_outside_view(proc: &str, place: &Path, user: u32) {
    for namespace in ["mnt", "net", "ipc", "uts", "cgroup"] {
        let of = |process: &str| fs::read_link(format!("{process}/ns/{namespace}")).unwrap();
        assert_ne!(of(proc), of("/proc/self"), "{namespace} is shared");
    }
    let open = fs::read_dir(format!("{proc}/fd")).unwrap().count();
    // Standard input, output and error, and four of what it listed.
    assert_eq!(open, 7, "descriptors are open that were not listed");
    let root: Vec<_> = fs::read_dir(format!("{proc}/root"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(root, ["a.sock"]);
    let limits = fs::read_to_string(format!("{proc}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    assert!(
        core.unwrap().split_whitespace().nth(4) == Some("0"),
        "{limits}"
    );
    let peer = socket::connect(&place.join("a.sock")).unwrap();
    assert_eq!(socket::peer_credentials(&peer).unwrap().uid, user);
}

fn hostile_calls_end_the_process(mode: &str) {
    for hostile in HOSTILE {
        let place = place();
        let output = spawn(mode, place.path(), hostile.name)
            .wait_with_output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.trim(), READY, "{mode}: {}", hostile.name);
        let signal = output.status.signal();
        assert_eq!(
            signal,
            Some(libc::SIGSYS),
            "{mode}: to {} was survived",
            hostile.name
        );
    }
}

fn a_root_with_another_file_is_refused() {
    let place = place();
    fs::write(place.path().join("policy.toml"), "").unwrap();
    let output = spawn("privileged", place.path(), "stay")
        .wait_with_output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("policy.toml in it is no socket"), "{said}");
}
