//! Impostors at the wrong end of a socket, and too many of them.

use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{UnixAddr, connect};
use sivshm_device::paths::SocketDir;
use sivshm_handshake::RefusalCode;
use sivshm_handshake::wire::Told;
use sivshm_sys::{scm, socket};
use sivshm_tests::deployment::PLAIN_USER;

use crate::support::impostor::{Place, dialed};
use crate::support::scene::{RESPONSIVE, Scene, VICTIM, squat, wait_until};
use crate::support::talk::End;
use crate::support::user::User;

/// Connections of a flood.
const FLOOD: usize = 1000;

/// Puts a relay where dialers look for the victim, and says where the victim is now. The relay has
/// a user that may dial the victim.
fn come_between(scene: &Scene) -> (User, OwnedFd, PathBuf) {
    let relay = scene.user("beacon");
    let door = scene.socket(SocketDir::Peer, VICTIM);
    let real = door.with_extension("real");
    fs::rename(&door, &real).unwrap();
    fs::write(&door, "").unwrap();
    let listener = squat(&door, relay);
    (relay, listener, real)
}

/// What the end says that notices whose SVID comes from whom.
fn caught(scene: &Scene, relay: User, vm: &str) -> String {
    format!(
        "peer: a process of uid {} presents the SVID of `{vm}`, whose device process has uid {}",
        relay.uid,
        scene.user(vm).uid
    )
}

#[test]
fn relay_between_two_honest_ends() {
    let Some(scene) = Scene::without(&["camera"]) else {
        return;
    };
    let (relay, listener, real) = come_between(&scene);
    scene.release();
    let copies = relay.act(|| {
        let dialer = dialed(&listener);
        relay_all(&dialer, &UnixStream::connect(&real).unwrap())
    });
    assert_eq!(copies, 0, "the relay keeps descriptors");
    // The dialer is the first to learn who is there.
    let reason = caught(&scene, relay, VICTIM);
    wait_until("the dialer's refusal", RESPONSIVE, || {
        let mut records = scene.records_of("camera").into_iter();
        records.find(|record| {
            let found = record["reason"].as_str().unwrap();
            record["decision"] == "deny" && found.starts_with(&reason)
        })
    });
    // Without the relay both ends find each other.
    let links = || scene.links("camera");
    let before = links();
    fs::rename(&real, scene.socket(SocketDir::Peer, VICTIM)).unwrap();
    drop(listener);
    wait_until("the honest link", RESPONSIVE, || {
        (links() > before).then_some(())
    });
}

#[test]
fn relay_that_the_dialer_trusts() {
    let Some(scene) = Scene::without(&["camera"]) else {
        return;
    };
    let (relay, listener, real) = come_between(&scene);
    // In every other way an honest device process: it does not look at who listens.
    let dialer = scene.impostor("camera");
    let (outcome, copies) = thread::scope(|scope| {
        let copies = scope.spawn(|| {
            relay.act(|| relay_all(&dialed(&listener), &UnixStream::connect(&real).unwrap()))
        });
        (dialer.play(), copies.join().unwrap())
    });
    assert_eq!(outcome.end, Some(End::Told(Told::Code(RefusalCode::Uid))));
    assert_eq!(copies, 0, "the relay keeps descriptors");
    scene.assert_refused(relay, "peer", &caught(&scene, relay, "camera"));
    fs::rename(&real, scene.socket(SocketDir::Peer, VICTIM)).unwrap();
    scene.assert_honest("camera");
}

/// Passes on bytes and descriptors in both directions until one end closes, or both have nothing
/// more to say; tells how many descriptors came by.
fn relay_all(one: &UnixStream, other: &UnixStream) -> usize {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut fds = [one, other].map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
        if poll(&mut fds, PollTimeout::try_from(RESPONSIVE).unwrap()).unwrap() == 0 {
            return kept.len();
        }
        for (from, to) in [(one, other), (other, one)] {
            match scm::receive(from, &mut buffer) {
                Ok(received) if received.bytes > 0 => {
                    let rights: Vec<_> = received.rights.iter().map(|fd| fd.as_fd()).collect();
                    // An end that has closed is noticed when it is read.
                    let _ = scm::send(to, &buffer[..received.bytes], &rights);
                    kept.extend(received.rights);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return kept.len(),
            }
        }
    }
}

#[test]
fn squatted_socket_path() {
    let Some(scene) = Scene::without(&["radar"]) else {
        return;
    };
    // A user that may pass the directory, because it has to connect there.
    let squatter = scene.user("beacon");
    let door = scene.socket(SocketDir::Peer, "radar");
    let (new, reached) = (
        door.with_file_name("zebra.sock"),
        scene.socket(SocketDir::Peer, VICTIM),
    );
    squatter.act(|| {
        let denied = |done: io::Result<()>| {
            assert_eq!(done.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        };
        denied(UnixListener::bind(&new).map(drop));
        denied(fs::remove_file(&door));
        denied(fs::rename(&door, &new));
        UnixStream::connect(&reached).unwrap();
    });
    // Somebody else's mistake lets it in: the victim dials it, and it has even the right SVID.
    let listener = squat(&door, squatter);
    let mut impostor = scene.impostor("radar");
    impostor.user = squatter;
    impostor.place = Place::Listens(&listener);
    let outcome = impostor.play();
    assert_eq!(outcome.end, Some(End::Told(Told::Code(RefusalCode::Uid))));
    assert!(outcome.talk.received.is_empty());
    let reason = caught(&scene, squatter, "radar");
    // The victim may have waited in vain for the real one before, which is recorded as well.
    let by = format!("of user {} claiming to be radar", squatter.uid);
    let record = scene.wait_record("a denial", |record| {
        let who = record["who"].as_str().unwrap();
        record["decision"] == "deny" && who.ends_with(&by)
    });
    assert!(
        record["reason"].as_str().unwrap().starts_with(&reason),
        "{record}"
    );
    assert_eq!(record["blame"], "peer");
    drop(listener);
    let listener = squat(&door, scene.user("radar"));
    let mut honest = scene.impostor("radar");
    honest.place = Place::Listens(&listener);
    assert_eq!(honest.play().end, None);
}

#[test]
fn user_that_does_not_dial() {
    let Some(scene) = Scene::without(&["camera", "radar"]) else {
        return;
    };
    // Everything of `camera`, under the user of a device process that the victim itself dials.
    let mut impostor = scene.impostor("camera");
    impostor.user = scene.user("radar");
    let outcome = impostor.play();
    assert_eq!(outcome.end, Some(End::Closed));
    assert!(outcome.talk.received.is_empty());
    let reason = "no peer that dials this VM has its user";
    scene.assert_refused(impostor.user, "peer", reason);
    scene.assert_honest("camera");
}

/// Says something on a socket and gives the answer, which is empty where nobody is answered.
fn ask(path: &Path, question: &str) -> io::Result<String> {
    let mut socket = UnixStream::connect(path)?;
    socket.set_read_timeout(Some(RESPONSIVE))?;
    let mut answer = String::new();
    match socket
        .write_all(question.as_bytes())
        .and_then(|()| BufReader::new(&socket).read_line(&mut answer))
    {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("neither yes nor no"),
        // Closed without having read the question.
        Ok(_) | Err(_) => Ok(answer),
    }
}

/// Strangers can't reach a socket that is root's; and where somebody has opened its directory and
/// its mode to all, the device process looks for itself.
fn foreign_client(of: SocketDir, event: &str, question: &str, reason: &str) {
    let Some(scene) = Scene::without(&[]) else {
        return;
    };
    let path = scene.socket(of, VICTIM);
    let stranger = User {
        uid: PLAIN_USER,
        gid: PLAIN_USER,
    };
    let strangers = [scene.user("beacon"), scene.vmm_user(VICTIM), stranger];
    for stranger in strangers {
        let denied = stranger.act(|| ask(&path, question)).unwrap_err();
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
    }
    let directory = path.parent().unwrap();
    fs::set_permissions(directory, Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    for stranger in strangers {
        assert_eq!(stranger.act(|| ask(&path, question)).unwrap(), "");
        scene.assert_recorded(stranger, event, "host", reason);
    }
    let answer = ask(&path, question).unwrap();
    assert!(answer.starts_with(r#"{"answer":"#), "{answer}");
}

#[test]
fn foreign_client_on_admin() {
    let reason = "only root may administer, and only a few at once";
    foreign_client(
        SocketDir::Admin,
        "admin",
        "{\"command\":\"status\"}\n",
        reason,
    );
}

#[test]
fn foreign_client_on_launch() {
    let reason = "only root may launch, and only a few times at once";
    foreign_client(SocketDir::Launch, "launch", "{}\n", reason);
}

/// Connects without waiting for room.
fn connect_now(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket::stream()?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

#[test]
fn a_thousand_connections() {
    let Some(scene) = Scene::without(&["beacon", "camera"]) else {
        return;
    };
    let before = scene.open_files().len();
    let door = scene.socket(SocketDir::Peer, VICTIM);
    let flood = |begun: Sender<()>| {
        let mut held = Vec::new();
        while held.len() < FLOOD {
            match connect_now(&door) {
                Ok(socket) => held.push(socket),
                // The victim has not accepted as fast as we connect.
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            let _ = begun.send(());
        }
        held
    };
    let user = scene.user("camera");
    let held = thread::scope(|scope| {
        let (begin, begun) = channel();
        let flood = scope.spawn(move || user.act(|| flood(begin)));
        begun.recv().unwrap();
        scene.assert_honest("beacon");
        flood.join().unwrap()
    });
    let link = scene.assert_honest("beacon");
    // All have ended but the one handshake that a peer may have, and each refusal counts.
    let open = held.iter().filter(|socket| is_open(socket)).count();
    assert!(open <= 1, "{open} of {FLOOD} are open");
    drop((link, held));
    let few = before + 1;
    wait_until("the end of all", RESPONSIVE, || {
        (scene.open_files().len() <= few).then_some(())
    });
    let by = format!("process {} of user {}", std::process::id(), user.uid);
    let often = "its user connects too often";
    let records = scene.records();
    let refused = records.iter().filter(|record| record["who"] == by);
    let refused = refused.filter(|record| record["reason"] == often).count();
    assert!((1..FLOOD / 10).contains(&refused), "{refused} records");
}

fn is_open(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 0
}
