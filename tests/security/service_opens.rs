//! Impostors that open channels to the victim's service: as somebody else, on other terms, with
//! other signatures.

use sivshm_abi::grant::{Generation, Integrity, Kind};
use sivshm_abi::name::TrustDomain;
use sivshm_handshake::service::wire::{
    Chain, Content, Open, Pairing, RefusalReason, ServiceRefusal,
};
use sivshm_handshake::wire::Contract;

use crate::support::identity::{Signer, Svid};
use crate::support::liar::{service_id, victim_device};
use crate::support::scene::VICTIM;
use crate::support::stage::{Stage, id, inward, outward, scene};

/// The impostor's own service.
const APP: &str = "spiffe://car.example/vm/camera/svc/app";

#[test]
fn forged_svids() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    let (ca, today) = (scene.ca_dir(), (-1, 1));
    let other_domain = "spiffe://truck.example/vm/camera/svc/app";
    let untrusted = "does not lead to a root of the trust bundle";
    let attacks: Vec<(Svid, RefusalReason, &str)> = vec![
        // Made by itself.
        (
            Signer::stranger().sign(&[APP], today),
            RefusalReason::Svid,
            untrusted,
        ),
        (
            Signer::of_same_name(&ca).sign(&[APP], today),
            RefusalReason::Svid,
            untrusted,
        ),
        // Its own, but of another party.
        (
            stage.camera.device_svid(),
            RefusalReason::Svid,
            "is that of the device process of VM `camera`, not of service `app` in VM `camera`",
        ),
        (
            stage.camera.service_svid("other"),
            RefusalReason::Svid,
            "is that of service `other` in VM `camera`, not of service `app` in VM `camera`",
        ),
        // Somebody else's, stolen.
        (
            stage.beacon.service_svid("app"),
            RefusalReason::Svid,
            "is that of service `app` in VM `beacon`, not of service `app` in VM `camera`",
        ),
        (
            scene.signer().sign(&[other_domain], today),
            RefusalReason::Svid,
            "is of another trust domain, `truck.example`",
        ),
        // Its own, out of its time.
        (
            scene.signer().sign(&[APP], (-2, -1)),
            RefusalReason::Expired,
            "has expired",
        ),
        (
            scene.signer().sign(&[APP], (1, 2)),
            RefusalReason::Svid,
            "is not valid yet",
        ),
    ];
    for (number, (svid, reason, why)) in (1..).zip(attacks) {
        let channel = inward(number);
        stage.open(&channel, |open| svid.sign_open(open));
        stage.assert_refused(&channel, reason, why);
        stage.assert_writes(&channel);
    }
}

#[test]
fn other_terms() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    let app = stage.camera.service_svid("app");
    let late = "the open is not good at this time";
    type Change = fn(&mut Open);
    let attacks: [(Change, RefusalReason, &str); 11] = [
        (
            |open| open.body.trust_domain = TrustDomain::new("truck.example").unwrap(),
            RefusalReason::Terms,
            "the trust domain is not",
        ),
        (
            |open| open.body.contract = Contract([1; 32]),
            RefusalReason::Terms,
            "the contract is not",
        ),
        (
            |open| open.body.serial -= 1,
            RefusalReason::Terms,
            "the policy's serial is not",
        ),
        (
            |open| open.body.slice_generation = Generation(open.body.slice_generation.0 - 1),
            RefusalReason::Terms,
            "the slice's generation is not",
        ),
        (
            |open| open.body.host_boot = [1; 16],
            RefusalReason::Terms,
            "the host's boot is not",
        ),
        (
            |open| open.body.kind = ring(Integrity::None),
            RefusalReason::Policy,
            "the channel's kind is not",
        ),
        (
            |open| open.body.channel = "in-1".parse().unwrap(),
            RefusalReason::Policy,
            "the channel is not",
        ),
        // Whom the policy does not name, whom it names elsewhere, and nobody at all.
        (
            |open| open.body.writer = id("spiffe://car.example/vm/camera/svc/other"),
            RefusalReason::Peer,
            "the writing service is not",
        ),
        (
            |open| open.body.writer = id("spiffe://car.example/vm/camera/svc/invented"),
            RefusalReason::Peer,
            "the writing service is not",
        ),
        (
            |open| open.body.expiry -= 30 + 60 + 5,
            RefusalReason::Late,
            late,
        ),
        (|open| open.body.expiry += 60 + 5, RefusalReason::Late, late),
    ];
    for (number, (change, reason, why)) in (2..).zip(attacks) {
        let channel = inward(number);
        stage.open(&channel, |open| {
            change(open);
            app.sign_open(open);
        });
        stage.assert_refused(&channel, reason, why);
        stage.assert_writes(&channel);
    }
    stage.open("ring", |open| {
        open.body.kind = ring(Integrity::None);
        app.sign_open(open);
    });
    stage.assert_refused(
        "ring",
        RefusalReason::Integrity,
        "the channel's integrity is not",
    );
}

const fn ring(integrity: Integrity) -> Kind {
    Kind::Ring {
        slot_bytes: 64,
        overwrite: false,
        integrity,
    }
}

#[test]
fn invented_and_foreign_pairings() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    let by = victim_device(&scene);
    let svid = scene
        .signer()
        .sign(&["spiffe://car.example/vm/camera/svc/invented"], (-1, 1));
    let invented = Pairing {
        channel: "invented".parse().unwrap(),
        reader: service_id(&scene, VICTIM),
    };
    let others = scene.pairing("radar-1");
    let wrong_reader = Pairing {
        reader: id("spiffe://car.example/vm/ivi/svc/invented"),
        ..scene.pairing("in-1")
    };
    let own_reader = Pairing {
        reader: id(APP),
        ..scene.pairing("in-1")
    };
    for pairing in [invented, others, wrong_reader, own_reader] {
        let (_, mut open) = stage.camera.open("in-1");
        open.body.channel = pairing.channel;
        open.body.reader = pairing.reader;
        open.body.writer = id("spiffe://car.example/vm/camera/svc/invented");
        svid.sign_open(&mut open);
        stage.camera.pass_as(pairing, Content::Open(open));
        let reason = RefusalReason::Policy;
        let refusal = Content::Refusal(ServiceRefusal { by, reason });
        assert_eq!(stage.camera.hear_about(pairing), refusal);
        let channel = pairing.channel.as_str();
        let why = "`open` about a pairing that it has no part in";
        scene.assert_pairing(channel, "deny", "peer", why);
    }
    stage.assert_writes("in-1");
    assert_eq!(
        stage.beacon.write("beacon-1").peer,
        service_id(&scene, VICTIM)
    );
}

#[test]
fn changed_and_misled_opens() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    let signature = "the signature is wrong";

    // Another key for the agreement than the one that was signed.
    stage.open("in-1", |open| open.body.key[0] ^= 1);
    stage.assert_refused("in-1", RefusalReason::Proof, signature);
    stage.assert_writes("in-1");

    // Another epoch.
    stage.open("in-2", |open| open.body.epoch ^= 1 << 40);
    stage.assert_refused("in-2", RefusalReason::Proof, signature);
    stage.assert_writes("in-2");

    // A chain that was not signed: the same leaf, alone.
    stage.open("in-3", |open| {
        let leaf = Svid::of_service(&scene.vm_dir("camera"), "app").chain[0].clone();
        open.chain = Chain::new(vec![leaf]).unwrap();
    });
    stage.assert_refused(
        "in-3",
        RefusalReason::Proof,
        "the SVID is another than the one",
    );
    stage.assert_writes("in-3");

    // A good open of one channel as one of another.
    let (_, open) = stage.camera.open("in-4");
    stage.camera.pass("in-5", Content::Open(open));
    stage.assert_refused("in-5", RefusalReason::Policy, "the channel is not");
    assert!(stage.camera.silent("in-4"));
    stage.assert_writes("in-5");
    stage.assert_writes("in-4");

    // The victim's own open, back to it: as what it is, and as one of the other direction.
    let own = stage.camera.hear_open(&outward(1));
    stage.camera.pass(&outward(1), Content::Open(own));
    let out_of_turn = "`open` came when something else was awaited";
    stage.assert_refused(&outward(1), RefusalReason::Protocol, out_of_turn);
    let own = stage.camera.hear_open(&outward(1));
    stage.camera.pass("in-6", Content::Open(own));
    stage.assert_refused("in-6", RefusalReason::Peer, "the writing service is not");
    stage.assert_writes("in-6");

    // The reader opens.
    let _ = stage.camera.hear_open(&outward(2));
    let (_, open) = stage.camera.open("in-7");
    stage.camera.pass(&outward(2), Content::Open(open));
    stage.assert_refused(&outward(2), RefusalReason::Protocol, out_of_turn);
    stage.assert_reads(&outward(2));

    // A key of low order, well signed: only the service that agrees with it can notice.
    let app = stage.camera.service_svid("app");
    stage.open("in-8", |open| {
        open.body.key = [0; 32];
        app.sign_open(open);
    });
    let by = service_id(&scene, VICTIM);
    stage
        .camera
        .assert_refused("in-8", by, RefusalReason::Proof);
    let why = "service `app` in VM `ivi` refused: a signature, a MAC or a key is wrong";
    scene.assert_pairing("in-8", "deny", "peer", why);
    stage.assert_writes("in-8");
}
