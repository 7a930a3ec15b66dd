//! Impostors that break the protocol of the peer handshake.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustls::AlertDescription;
use sivshm_device::paths::SocketDir;
use sivshm_handshake::limits::{HANDSHAKE_TIMEOUT, MAX_PAYLOAD_BYTES, MAX_UNAUTHENTICATED_BYTES};
use sivshm_handshake::wire::{Contract, Message, MessageType, Told};
use sivshm_handshake::{ALPN, RefusalCode};

use crate::support::scene::{Scene, VICTIM};
use crate::support::talk::End;

#[test]
fn contract_mismatch() {
    let Some(scene) = Scene::without(&["camera"]) else {
        return;
    };
    let mut impostor = scene.impostor("camera");
    let (refuser, refused) = (impostor.hello.contract, Contract([0xaa; 32]));
    impostor.hello.contract = refused;
    let outcome = impostor.play();
    let told = Told::Contract { refuser, refused };
    assert_eq!(outcome.end, Some(End::Told(told)));
    assert!(outcome.talk.received.is_empty());
    let reason =
        format!("policy: the two sides' contracts differ (here {refuser}, peer {refused})");
    scene.assert_refused(impostor.user, "policy", &reason);
    scene.assert_honest("camera");
}

#[test]
fn older_policy() {
    let Some(scene) = Scene::without(&["camera"]) else {
        return;
    };
    let mut impostor = scene.impostor("camera");
    impostor.hello.policy_serial -= 1;
    let outcome = impostor.play();
    assert_eq!(outcome.end, Some(told(RefusalCode::Serial)));
    assert!(outcome.talk.received.is_empty());
    let reason = "policy: the two sides' policies differ in their serial (here 7, peer 6)";
    scene.assert_refused(impostor.user, "policy", reason);
    scene.assert_honest("camera");
}

#[test]
fn replayed_flight() {
    let Some(scene) = Scene::without(&["camera"]) else {
        return;
    };
    // What an eavesdropper could keep of a handshake that went well.
    let recorded = scene.assert_honest("camera").talk.sent;
    let door = scene.socket(SocketDir::Peer, VICTIM);
    let user = scene.user("camera");
    let heard = user.act(|| send_all(&door, &recorded));
    assert!(!heard.is_empty(), "the first record, a hello, is answered");
    scene.assert_refused(
        user,
        "peer",
        "peer: TLS failed: cannot decrypt peer's message",
    );
    scene.assert_honest("camera");
}

#[test]
fn tls_1_2() {
    let Some(scene) = Scene::without(&["camera"]) else {
        return;
    };
    let door = scene.socket(SocketDir::Peer, VICTIM);
    let user = scene.user("camera");
    let heard = user.act(|| send_all(&door, &tls12_hello()));
    let protocol_version = AlertDescription::ProtocolVersion.into();
    assert_eq!(
        heard.get(..7),
        Some(&[21, 3, 3, 0, 2, 2, protocol_version][..])
    );
    let reason = "peer: TLS failed: peer is incompatible: SupportedVersionsExtensionRequired";
    scene.assert_refused(user, "peer", reason);
    scene.assert_honest("camera");
}

#[test]
fn hello_that_never_ends() {
    let Some(scene) = Scene::without(&["camera"]) else {
        return;
    };
    // Records of one byte each, of a message of 64 KiB.
    let mut stream = vec![22, 3, 1, 0, 5, 1, 0, 0xff, 0xff, 0];
    while stream.len() <= MAX_UNAUTHENTICATED_BYTES {
        stream.extend([22, 3, 1, 0, 1, 0]);
    }
    let door = scene.socket(SocketDir::Peer, VICTIM);
    let user = scene.user("camera");
    user.act(|| send_all(&door, &stream));
    let reason =
        format!("peer: {MAX_UNAUTHENTICATED_BYTES} bytes came and it is not authenticated");
    scene.assert_refused(user, "peer", &reason);
    scene.assert_honest("camera");
}

#[test]
fn oversized_message() {
    let Some(scene) = Scene::without(&["camera"]) else {
        return;
    };
    let impostor = scene.impostor("camera");
    impostor.user.act(|| {
        let mut talk = impostor.meet();
        talk.shake().unwrap();
        impostor.greet(&mut talk).unwrap();
        let length = u32::try_from(MAX_PAYLOAD_BYTES + 1).unwrap();
        let mut header = length.to_le_bytes().to_vec();
        header.push(MessageType::Manifest.code());
        talk.say_bytes(&header);
        assert_eq!(talk.end(), told(RefusalCode::Protocol));
        assert!(talk.received.is_empty());
    });
    let reason = "peer: bytes that are no message of the peer protocol";
    scene.assert_refused(impostor.user, "peer", reason);
    scene.assert_honest("camera");
}

#[test]
fn message_out_of_turn() {
    let Some(scene) = Scene::without(&["camera"]) else {
        return;
    };
    let impostor = scene.impostor("camera");
    impostor.user.act(|| {
        let mut talk = impostor.meet();
        talk.shake().unwrap();
        impostor.greet(&mut talk).unwrap();
        talk.say(&Message::Accepted);
        assert_eq!(talk.end(), told(RefusalCode::Protocol));
        assert!(talk.received.is_empty());
    });
    let reason = "peer: `accepted` came while waiting for `manifest`";
    scene.assert_refused(impostor.user, "peer", reason);
    scene.assert_honest("camera");
}

/// Less than a whole first flight takes, of one byte a second.
const ALL_BYTES: Duration = Duration::from_secs(100);

#[test]
fn one_byte_a_second() {
    let Some(scene) = Scene::without(&["beacon", "camera"]) else {
        return;
    };
    let impostor = scene.impostor("camera");
    let began = Instant::now();
    thread::scope(|scope| {
        let (first, begun) = channel();
        scope.spawn(move || {
            impostor.user.act(|| {
                let mut talk = impostor.meet();
                let bytes = talk.first_bytes();
                assert!(bytes.len() as u64 > ALL_BYTES.as_secs());
                for byte in bytes {
                    let sent = talk.send(&[byte], &[]);
                    let _ = first.send(());
                    if sent.is_err() || talk.stirs(Duration::from_secs(1)) {
                        return;
                    }
                }
            });
        });
        begun.recv().unwrap();
        scene.assert_honest("beacon");
    });
    assert!(began.elapsed() >= HANDSHAKE_TIMEOUT);
    assert!(began.elapsed() < ALL_BYTES);
    let user = scene.user("camera");
    let reason = "peer: nothing for too long while waiting for the TLS handshake";
    scene.assert_refused(user, "peer", reason);
    scene.assert_honest("camera");
}

#[test]
fn descriptors_that_never_come() {
    let Some(scene) = Scene::without(&["beacon", "camera"]) else {
        return;
    };
    let impostor = scene.impostor("camera");
    let mut talk = impostor.user.act(|| {
        let mut talk = impostor.meet();
        talk.shake().unwrap();
        impostor.greet(&mut talk).unwrap();
        impostor.promise(&mut talk).unwrap();
        talk
    });
    scene.assert_honest("beacon");
    assert_eq!(talk.end(), told(RefusalCode::Timeout));
    let reason = "peer: nothing for too long while waiting for `rights`";
    scene.assert_refused(impostor.user, "peer", reason);
    scene.assert_honest("camera");
}

const fn told(code: RefusalCode) -> End {
    End::Told(Told::Code(code))
}

/// Sends bytes to the victim and gives what it says until it closes.
fn send_all(door: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut socket = UnixStream::connect(door).unwrap();
    socket.write_all(bytes).unwrap();
    let mut heard = Vec::new();
    match socket.read_to_end(&mut heard) {
        Ok(_) => heard,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => heard,
        Err(error) => panic!("{error}"),
    }
}

/// A whole TLS 1.2 client's hello: ECDHE-ECDSA with AES-128-GCM, P-256, ECDSA with SHA-256, our
/// application protocol, and no `supported_versions`.
fn tls12_hello() -> Vec<u8> {
    let mut extensions = vec![
        0, 10, 0, 4, 0, 2, 0, 23, // supported_groups
        0, 11, 0, 2, 1, 0, // ec_point_formats
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms
        0, 23, 0, 0, // extended_master_secret
        0, 16, 0, 16, 0, 14, 13, // ALPN
    ];
    extensions.extend(ALPN);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0]);
    body.push(u8::try_from(extensions.len()).unwrap());
    body.extend(extensions);
    let len = u8::try_from(body.len()).unwrap();
    let mut hello = vec![22, 3, 1, 0, len + 4, 1, 0, 0, len];
    hello.extend(body);
    hello
}
