//! Impostors that give something else than they promised, or give it when they may not.

use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::pty::openpty;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::stat::Mode;
use nix::unistd::{ftruncate, pipe};
use sivshm_handshake::RefusalCode;
use sivshm_handshake::wire::{ManifestEntry, Told};
use sivshm_sys::facts::ObjectFacts;
use sivshm_sys::scm::{self, MAX_RIGHTS};
use sivshm_sys::socket::{PassRights, PassRightsSupport, set_pass_rights, stream};

use crate::support::goods::facts;
use crate::support::impostor::Impostor;
use crate::support::scene::{RESPONSIVE, Scene, VICTIM, wait_until};
use crate::support::talk::{End, Talk};

const REFUSED: End = End::Told(Told::Code(RefusalCode::Rights));

/// An impostor that gives something else with this change is refused like this, and leaves nothing
/// open in the victim. It is whom its SVID names, so it may get what the policy gives that VM.
fn refused(change: impl FnOnce(&mut Impostor<'_>), reason: &str) {
    let Some(scene) = Scene::without(&["camera"]) else {
        return;
    };
    let before = scene.open_files();
    let mut impostor = scene.impostor("camera");
    change(&mut impostor);
    let outcome = impostor.play();
    assert_eq!(outcome.end, Some(REFUSED));
    assert_only_planned(&scene, &outcome.talk);
    scene.assert_refused(impostor.user, "peer", reason);
    assert_eq!(scene.open_files(), before);
    scene.assert_honest("camera");
}

/// Nothing came that the policy does not give to `camera`: no more, and nothing to write to but
/// its doorbell.
fn assert_only_planned(scene: &Scene, talk: &Talk) {
    assert!(talk.received.len() <= scene.planned_gifts("camera"));
    for right in &talk.received {
        match facts(right) {
            ObjectFacts::Memory(memory) => assert!(memory.read_only),
            ObjectFacts::Doorbell(_) => {}
            ObjectFacts::Other => panic!("something else came"),
        }
    }
}

#[test]
fn substituted_memfd() {
    refused(
        |impostor| {
            // The same in everything but its identity.
            let ObjectFacts::Memory(memory) = facts(&impostor.rights[0]) else {
                panic!("the first descriptor is the slice");
            };
            let copy = sivshm_sys::memfd::create(c"copy", memory.bytes, memory.ownership).unwrap();
            impostor.rights[0] = sivshm_sys::memfd::reopen_read_only(&copy).unwrap();
        },
        "peer: descriptor 0 is an object that its manifest doesn't name: Memfd",
    );
}

#[test]
fn writable_memfd() {
    refused(
        |impostor| {
            let path = format!("/proc/self/fd/{}", impostor.rights[0].as_raw_fd());
            impostor.rights[0] = open(path.as_str(), OFlag::O_RDWR, Mode::empty()).unwrap();
        },
        "peer: descriptor 0 is not read-only",
    );
}

#[test]
fn memfd_without_seals() {
    refused(
        |impostor| {
            let ManifestEntry::Slice(line) = &mut impostor.lines[0] else {
                panic!("the first line is the slice");
            };
            let file = memfd_create(c"loose", MFdFlags::MFD_ALLOW_SEALING).unwrap();
            ftruncate(&file, i64::try_from(line.bytes).unwrap()).unwrap();
            nix::unistd::fchown(&file, Some(line.uid.into()), Some(line.gid.into())).unwrap();
            let mode = Mode::from_bits_truncate(line.mode);
            nix::sys::stat::fchmod(&file, mode).unwrap();
            impostor.rights[0] = sivshm_sys::memfd::reopen_read_only(&file).unwrap();
            let ObjectFacts::Memory(memory) = facts(&impostor.rights[0]) else {
                panic!("a memfd is something else");
            };
            (line.dev, line.ino) = (memory.device, memory.inode);
        },
        "peer: descriptor 0 differs from its manifest in seals",
    );
}

#[test]
fn substituted_eventfd() {
    refused(
        |impostor| impostor.rights[1] = sivshm_sys::eventfd::create().unwrap(),
        "peer: descriptor 1 is an object that its manifest doesn't name: Eventfd",
    );
}

/// The impostor's doorbell is this one, and its manifest says so.
fn with_doorbell(impostor: &mut Impostor<'_>, flags: EfdFlags) {
    let doorbell = OwnedFd::from(EventFd::from_flags(flags).unwrap());
    let ObjectFacts::Doorbell(of) = facts(&doorbell) else {
        panic!("an eventfd is something else");
    };
    impostor.lines[1] = ManifestEntry::Doorbell { id: of.id };
    impostor.rights[1] = doorbell;
}

#[test]
fn doorbell_that_blocks() {
    refused(
        |impostor| with_doorbell(impostor, EfdFlags::empty()),
        "peer: the doorbell in descriptor 1 blocks: its ringer could be stopped",
    );
}

#[test]
fn doorbell_that_is_a_semaphore() {
    let flags = EfdFlags::EFD_SEMAPHORE | EfdFlags::EFD_NONBLOCK;
    refused(
        |impostor| with_doorbell(impostor, flags),
        "peer: the doorbell in descriptor 1 is a semaphore: its ringer would never be heard again",
    );
}

#[test]
fn extra_descriptor() {
    refused(
        |impostor| impostor.rights.push(sivshm_sys::eventfd::create().unwrap()),
        "peer: its manifest has 2 entries, but 3 descriptors came",
    );
}

#[test]
fn missing_descriptor() {
    refused(
        |impostor| drop(impostor.rights.pop()),
        "peer: it says that 2 descriptors are sent, but 1 came",
    );
}

#[test]
fn reordered_descriptors() {
    refused(
        |impostor| impostor.rights.swap(0, 1),
        "peer: descriptor 0 is the one of entry 1 of its manifest",
    );
}

#[test]
fn descriptors_253_at_once() {
    refused(
        |impostor| {
            while impostor.rights.len() < MAX_RIGHTS {
                let another = impostor.rights[1].try_clone().unwrap();
                impostor.rights.push(another);
            }
        },
        "peer: its manifest has 2 entries, but 253 descriptors came",
    );
}

#[test]
fn truncated_descriptors() {
    let Some(scene) = Scene::without(&["camera"]) else {
        return;
    };
    let before = scene.open_files();
    let impostor = scene.impostor("camera");
    let mut talk = impostor.user.act(|| {
        let mut talk = impostor.meet();
        talk.shake().unwrap();
        impostor.greet(&mut talk).unwrap();
        impostor.promise(&mut talk).unwrap();
        talk
    });
    // Room for one of two descriptors.
    let open = scene.open_files();
    let free = (0..).find(|number| !open.contains(number)).unwrap();
    let whole = scene.limit_files(free + 1);
    impostor.user.act(|| impostor.give(&mut talk));
    assert_eq!(talk.end(), End::Closed);
    assert_only_planned(&scene, &talk);
    scene.limit_files(whole);
    scene.assert_refused(
        impostor.user,
        "peer",
        "peer: descriptors were lost on the way",
    );
    assert_eq!(scene.open_files(), before);
    scene.assert_honest("camera");
}

/// Whether this kernel can refuse descriptors; else the machine does, after they came.
fn can_refuse() -> bool {
    let support = set_pass_rights(stream().unwrap(), PassRights::Refuse).unwrap();
    if support == PassRightsSupport::No {
        eprintln!("skipped: SO_PASSRIGHTS needs Linux 6.16");
    }
    support == PassRightsSupport::Yes
}

/// A descriptor can't even be sent.
fn assert_unsendable(talk: &mut Talk, right: &OwnedFd) {
    let refused = talk.send(b"x", &[right.as_fd()]).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn descriptors_before_authentication() {
    let Some(scene) = Scene::without(&["camera"]).filter(|_| can_refuse()) else {
        return;
    };
    let impostor = scene.impostor("camera");
    let doorbell = &impostor.rights[1];
    let talk = impostor.user.act(|| {
        let mut talk = impostor.meet();
        assert_unsendable(&mut talk, doorbell);
        talk.shake().unwrap();
        assert_unsendable(&mut talk, doorbell);
        impostor.greet(&mut talk).unwrap();
        assert_unsendable(&mut talk, doorbell);
        // The same connection goes on, and takes the same descriptor when it is its turn.
        impostor.promise(&mut talk).unwrap();
        impostor.give(&mut talk);
        impostor.accept(&mut talk).unwrap();
        assert_unsendable(&mut talk, doorbell);
        talk
    });
    assert_eq!(talk.received.len(), scene.planned_gifts("camera"));
    drop(talk);
    scene.assert_honest("camera");
}

/// Things that hurt whoever reads them, waits for them or drops them.
fn harmful() -> [OwnedFd; 4] {
    let (pipe, _) = pipe().unwrap();
    let terminal = openpty(None, None).unwrap();
    let fuse = open("/dev/fuse", OFlag::O_RDWR, Mode::empty()).unwrap();
    [lingering().into(), pipe, terminal.master, fuse]
}

/// A socket whose last holder waits in `close` for a minute: nobody takes what it has to send.
fn lingering() -> TcpStream {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    socket.set_nonblocking(true).unwrap();
    // It is never accepted, and lives as long as the test to be full for as long.
    let _listener: &TcpListener = Box::leak(Box::new(listener));
    let full = loop {
        if let Err(full) = socket.write(&[0; 64 * 1024]) {
            break full;
        }
    };
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 60,
    };
    setsockopt(&socket, sockopt::Linger, &linger).unwrap();
    socket
}

#[test]
fn harmful_descriptors_before_authentication() {
    let Some(scene) = Scene::without(&["beacon", "camera"]).filter(|_| can_refuse()) else {
        return;
    };
    let impostor = scene.impostor("camera");
    let talk = impostor.user.act(|| {
        let mut talk = impostor.meet();
        for right in harmful() {
            assert_unsendable(&mut talk, &right);
            // Dropping it would hurt us.
            std::mem::forget(right);
        }
        talk
    });
    scene.assert_honest("beacon");
    drop(talk);
    scene.assert_refused(impostor.user, "peer", "peer: it closed the connection");
    scene.assert_honest("camera");
}

#[test]
fn harmful_descriptors_of_an_authenticated_peer() {
    let Some(scene) = Scene::without(&["beacon", "camera"]) else {
        return;
    };
    let before = scene.open_files();
    let mut impostor = scene.impostor("camera");
    let user = impostor.user;
    let mut talk = user.act(|| {
        let mut talk = impostor.meet();
        talk.shake().unwrap();
        impostor.greet(&mut talk).unwrap();
        impostor.promise(&mut talk).unwrap();
        talk
    });
    // One that the victim looks at, and others that still wait in the socket when it closes that.
    // It holds them alone then: the impostor's own are gone before it looks.
    kill(scene.device(VICTIM), Signal::SIGSTOP).unwrap();
    impostor.rights[0] = lingering().into();
    let sent = user.act(move || {
        impostor.give(&mut talk);
        for right in harmful() {
            talk.send(b"x", &[right.as_fd()]).unwrap();
        }
        talk
    });
    kill(scene.device(VICTIM), Signal::SIGCONT).unwrap();
    scene.assert_answers();
    scene.assert_honest("beacon");
    drop(sent);
    let reason = "peer: descriptor 0 is an object that its manifest doesn't name: Other";
    scene.assert_refused(user, "peer", reason);
    wait_until("the end of all", RESPONSIVE, || {
        (scene.open_files() == before).then_some(())
    });
    scene.assert_honest("camera");
}

#[test]
fn exhausted_descriptors_in_flight() {
    let Some(scene) = Scene::without(&["camera"]) else {
        return;
    };
    // The kernel counts for each user, and a sender above its own limit gets ETOOMANYREFS.
    let hog = scene.user(VICTIM).act(|| {
        let right = sivshm_sys::eventfd::create().unwrap();
        let rights = [right.as_fd(); MAX_RIGHTS];
        let send = || {
            let (kept, unread) = UnixStream::pair().unwrap();
            scm::send(&kept, b"x", &rights).unwrap();
            (kept, unread)
        };
        // Two are more than any device process may have open.
        [send(), send()]
    });
    let impostor = scene.impostor("camera");
    let mut talk = impostor.user.act(|| {
        let mut talk = impostor.meet();
        talk.shake().unwrap();
        impostor.greet(&mut talk).unwrap();
        impostor.promise(&mut talk).unwrap();
        impostor.give(&mut talk);
        talk
    });
    // The victim has heard all that and can't send what is due, but serves others.
    scene.assert_answers();
    assert!(!talk.stirs(Duration::ZERO), "nothing is exhausted");
    scene.assert_answers();
    drop(hog);
    impostor.user.act(|| impostor.accept(&mut talk)).unwrap();
    assert_eq!(talk.received.len(), scene.planned_gifts("camera"));
}
