//! Impostors that answer the victim's service: with other SVIDs, with what was said before, out of
//! turn.

use sivshm_abi::frame::Reason;
use sivshm_handshake::service::Opened;
use sivshm_handshake::service::wire::{
    Accept, Agreed, AgreedBody, Content, Hash, RefusalReason, ServiceRefusal,
};

use crate::support::identity::{Signer, Svid};
use crate::support::liar::{service_id, victim_device};
use crate::support::scene::VICTIM;
use crate::support::stage::{Stage, id, outward, scene};

/// The impostor's own service.
const APP: &str = "spiffe://car.example/vm/camera/svc/app";

/// What the victim's service says when it notices something that no device process can.
const SERVICE_NOTICES: &str =
    "service `app` in VM `ivi` refused: a signature, a MAC or a key is wrong";

const OTHER_EXCHANGE: &str = "the message answers another exchange than this one";

#[test]
fn forged_accepts() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    let today = (-1, 1);
    let attacks: Vec<(Svid, RefusalReason, &str)> = vec![
        (
            Signer::stranger().sign(&[APP], today),
            RefusalReason::Svid,
            "does not lead to a root of the trust bundle",
        ),
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
        (
            stage.beacon.service_svid("app"),
            RefusalReason::Svid,
            "is that of service `app` in VM `beacon`, not of service `app` in VM `camera`",
        ),
        (
            scene
                .signer()
                .sign(&["spiffe://truck.example/vm/camera/svc/app"], today),
            RefusalReason::Svid,
            "is of another trust domain, `truck.example`",
        ),
    ];
    for (number, (svid, reason, why)) in (1..).zip(attacks) {
        let channel = outward(number);
        stage.accept(&channel, |accept| svid.sign_accept(accept));
        stage.assert_refused(&channel, reason, why);
        stage.assert_reads(&channel);
    }

    // In the name of others, well signed, and out of its time. These the service does not try again:
    // it has to be told whom to expect, and the impostor has to get another SVID.
    let other = stage.camera.service_svid("other");
    stage.accept(&outward(6), |accept| {
        accept.body.reader = id("spiffe://car.example/vm/camera/svc/other");
        other.sign_accept(accept);
    });
    stage.assert_refused(
        &outward(6),
        RefusalReason::Peer,
        "the reading service is not",
    );
    let app = stage.camera.service_svid("app");
    stage.accept(&outward(7), |accept| {
        accept.body.writer = id("spiffe://car.example/vm/beacon/svc/app");
        app.sign_accept(accept);
    });
    stage.assert_refused(
        &outward(7),
        RefusalReason::Peer,
        "the writing service is not",
    );
    let expired = scene.signer().sign(&[APP], (-2, -1));
    stage.accept(&outward(8), |accept| expired.sign_accept(accept));
    stage.assert_refused(&outward(8), RefusalReason::Expired, "has expired");
    stage.assert_reads(&outward(8));
    for number in [6, 7] {
        let reason = RefusalReason::Peer;
        let lost = format!("the device process of VM `ivi` refused: {reason}");
        stage.victim.notices("lost", &outward(number), &lost);
    }

    // Another key for the agreement than the one that was signed.
    stage.accept(&outward(9), |accept| accept.body.key[0] ^= 1);
    stage.assert_refused(&outward(9), RefusalReason::Proof, "the signature is wrong");
    stage.assert_reads(&outward(9));

    // What only the service can notice: a key of low order, and keys that the impostor does not have.
    let low_order = |accept: &mut Accept| {
        accept.body.key = [0; 32];
        app.sign_accept(accept);
    };
    let no_keys = |accept: &mut Accept| accept.mac[0] ^= 1;
    stage.accept(&outward(10), low_order);
    stage.accept(&outward(11), no_keys);
    for channel in [outward(10), outward(11)] {
        let by = service_id(&scene, VICTIM);
        stage
            .camera
            .assert_refused(&channel, by, RefusalReason::Proof);
        scene.assert_pairing(&channel, "deny", "peer", SERVICE_NOTICES);
        stage.assert_reads(&channel);
    }
}

#[test]
fn repeated_messages() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);

    // An accept of an earlier exchange, and of one about another channel.
    let open = stage.camera.hear_open("out-1");
    let (_, old) = stage.camera.answer("out-1", open);
    stage.camera.pass("out-1", old.clone());
    let confirm = stage.camera.hear("out-1");
    assert!(matches!(confirm, Content::Confirm(_)), "{confirm:?}");
    stage.leave("out-1");
    let _ = stage.camera.hear_open("out-1");
    stage.camera.pass("out-1", old);
    stage.assert_refused("out-1", RefusalReason::Proof, OTHER_EXCHANGE);
    stage.assert_reads("out-1");
    let open = stage.camera.hear_open("out-2");
    let (_, other) = stage.camera.answer("out-2", open);
    let _ = stage.camera.hear_open("out-3");
    stage.camera.pass("out-3", other);
    stage.assert_refused("out-3", RefusalReason::Proof, OTHER_EXCHANGE);
    stage.assert_reads("out-3");

    // A confirm of an earlier exchange, and of one about another channel.
    let (_, old) = stage.confirmed("in-1");
    stage.leave("in-1");
    stage.accepted("in-1");
    stage.camera.pass("in-1", old);
    stage.assert_refused("in-1", RefusalReason::Proof, OTHER_EXCHANGE);
    stage.assert_writes("in-1");
    let (mut service, accept) = stage.accepted("in-2");
    let other = service.answer(accept);
    stage.accepted("in-3");
    stage.camera.pass("in-3", other);
    stage.assert_refused("in-3", RefusalReason::Proof, OTHER_EXCHANGE);
    stage.assert_writes("in-3");

    // A whole recorded exchange, without the service that made it.
    let (open, confirm) = stage.confirmed("in-4");
    stage.leave("in-4");
    stage.camera.pass("in-4", Content::Open(open));
    let accept = stage.camera.hear("in-4");
    assert!(matches!(accept, Content::Accept(_)), "{accept:?}");
    stage.camera.pass("in-4", confirm);
    stage.assert_refused("in-4", RefusalReason::Proof, OTHER_EXCHANGE);
    stage.assert_writes("in-4");

    // The victim's own accept, back to it.
    let (_, accept) = stage.accepted("in-5");
    stage.camera.pass("in-5", accept);
    let why = "`accept` came when something else was awaited";
    stage.assert_refused("in-5", RefusalReason::Protocol, why);
    stage.assert_writes("in-5");
}

#[test]
fn false_confirms() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    let device = stage.camera.device_svid();
    stage.confirm("in-1", |confirm| device.sign_confirm(confirm));
    stage.assert_refused("in-1", RefusalReason::Proof, "the signature is wrong");
    stage.assert_writes("in-1");
    stage.confirm("in-2", |confirm| confirm.mac[0] ^= 1);
    let by = service_id(&scene, VICTIM);
    stage
        .camera
        .assert_refused("in-2", by, RefusalReason::Proof);
    scene.assert_pairing("in-2", "deny", "peer", SERVICE_NOTICES);
    stage.assert_writes("in-2");

    // Before there is an accept: nobody of the victim's reads this channel.
    let (_, confirm) = stage.confirmed("in-3");
    let (_, open) = stage.camera.open("unread");
    stage.camera.pass("unread", Content::Open(open));
    stage.camera.pass("unread", confirm);
    let why = "`confirm` came when something else was awaited";
    stage.assert_refused("unread", RefusalReason::Protocol, why);
    stage.assert_writes("in-4");
}

#[test]
fn false_agreements() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    let body = AgreedBody {
        confirm: Hash([0; 32]),
    };
    let nothing = Agreed { body, mac: [0; 32] };
    let out_of_turn = "`agreed` came when something else was awaited";

    // Without any exchange, before it is complete, and by a writer's device process.
    stage.camera.pass("in-1", Content::Agreed(nothing));
    stage.assert_refused("in-1", RefusalReason::Protocol, out_of_turn);
    stage.confirmed("in-2");
    stage.camera.pass("in-2", Content::Agreed(nothing));
    stage.assert_refused("in-2", RefusalReason::Protocol, out_of_turn);
    let _ = stage.camera.hear_open("out-1");
    stage.camera.pass("out-1", Content::Agreed(nothing));
    stage.assert_refused("out-1", RefusalReason::Protocol, out_of_turn);
    for channel in ["in-1", "in-2"] {
        stage.assert_writes(channel);
    }
    stage.assert_reads("out-1");

    // Of an earlier exchange: the victim's device process notices, and grants nothing.
    let old = stage.agreed("out-2");
    stage.leave("out-2");
    let _ = stage.agreed("out-2");
    stage.camera.pass("out-2", Content::Agreed(old));
    let wrong = "a signature, a MAC or a key is wrong";
    stage.assert_refused("out-2", RefusalReason::Proof, wrong);
    stage.assert_reads("out-2");

    // Of this exchange, and the impostor's service has not agreed to it: what was granted is taken
    // back, and the victim's service never has the channel.
    let grants = stage.grants();
    type Lie = fn(&mut Agreed, Agreed);
    let lies: [(&str, Lie); 3] = [
        ("out-3", |agreed, _| agreed.mac = [0; 32]),
        ("out-4", |agreed, _| agreed.mac[31] ^= 0x80),
        ("out-5", |agreed, old| agreed.mac = old.mac),
    ];
    for (channel, lie) in lies {
        let mut agreed = stage.agreed(channel);
        lie(&mut agreed, old);
        stage.camera.pass(channel, Content::Agreed(agreed));
        let installed = Content::Installed(agreed.body.confirm);
        assert_eq!(stage.camera.hear(channel), installed);
        let by = service_id(&scene, VICTIM);
        stage
            .camera
            .assert_refused(channel, by, RefusalReason::Proof);
        scene.assert_pairing(channel, "deny", "peer", SERVICE_NOTICES);
        stage.await_grants(grants);
    }
    for (channel, _) in lies {
        stage.assert_reads(channel);
    }
}

#[test]
fn false_installations() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    let nothing = Content::Installed(Hash([0; 32]));
    let out_of_turn = "`installed` came when something else was awaited";
    let wrong = "a signature, a MAC or a key is wrong";

    // Without any exchange, before it is complete, and by the one who installs first.
    stage.camera.pass("in-1", nothing.clone());
    stage.assert_refused("in-1", RefusalReason::Protocol, out_of_turn);
    stage.accepted("in-2");
    stage.camera.pass("in-2", nothing.clone());
    stage.assert_refused("in-2", RefusalReason::Protocol, out_of_turn);
    let _ = stage.camera.hear_open("out-1");
    stage.camera.pass("out-1", nothing.clone());
    stage.assert_refused("out-1", RefusalReason::Protocol, out_of_turn);
    let _ = stage.agreed("out-2");
    stage.camera.pass("out-2", nothing.clone());
    stage.assert_refused("out-2", RefusalReason::Protocol, out_of_turn);
    for channel in ["in-1", "in-2"] {
        stage.assert_writes(channel);
    }
    for channel in ["out-1", "out-2"] {
        stage.assert_reads(channel);
    }

    // Of another exchange: nothing stays granted.
    let grants = stage.grants();
    stage.confirmed("in-3");
    assert!(stage.grants() > grants);
    stage.camera.pass("in-3", nothing);
    stage.assert_refused("in-3", RefusalReason::Proof, wrong);
    stage.await_grants(grants);
    stage.assert_writes("in-3");

    // Again.
    let (mut service, accept) = stage.accepted("in-4");
    let confirm = service.answer(accept);
    stage.camera.pass("in-4", confirm);
    let agreed = stage.camera.hear_agreed("in-4");
    stage.camera.install("in-4", agreed);
    stage.camera.install("in-4", agreed);
    stage.assert_refused("in-4", RefusalReason::Proof, wrong);
    stage.assert_writes("in-4");
}

#[test]
fn false_last_words() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);

    // It speaks in the victim's own name.
    let _ = stage.camera.hear_open("out-1");
    let by = victim_device(&scene);
    let reason = RefusalReason::Proof;
    let refusal = Content::Refusal(ServiceRefusal { by, reason });
    stage.camera.pass("out-1", refusal);
    let why = "the device process of VM `camera` refused: a signature, a MAC or a key is wrong";
    scene.assert_pairing("out-1", "deny", "peer", why);
    stage.assert_last_word("out-1");
    stage.assert_reads("out-1");

    // It gives a reason that only the victim's own guest can have.
    stage.assert_writes("in-1");
    stage.camera.pass("in-1", Content::End(Reason::RoleTaken));
    let broken = Reason::Protocol.words();
    stage.victim.notices("ended", "in-1", broken);
    scene.assert_pairing("in-1", "end", "peer", broken);
    stage.assert_last_word("in-1");
    stage.assert_writes("in-1");

    // It ends what is between others.
    stage.assert_beacon();
    stage
        .camera
        .pass("beacon-1", Content::End(Reason::OtherEnd));
    stage
        .camera
        .pass("beacon-1", Content::Refusal(ServiceRefusal { by, reason }));
    assert!(stage.camera.silent("beacon-1"));
    for kind in ["end", "refusal"] {
        let why = format!("`{kind}` about a pairing that it has no part in");
        scene.assert_pairing("beacon-1", "deny", "peer", &why);
    }
    stage.assert_open("beacon-1");
}

#[test]
fn racing_opens() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    let (_, older) = stage.camera.open("in-1");
    let (mut service, newer) = stage.camera.open("in-1");
    let wanted = newer.hash();
    stage.camera.pass("in-1", Content::Open(older));
    stage.camera.pass("in-1", Content::Open(newer));
    // The older one may have been accepted before the newer one came.
    let accept = loop {
        match stage.camera.hear("in-1") {
            Content::Accept(accept) if accept.body.open == wanted => break accept,
            Content::Accept(_) => {}
            other => panic!("{other:?}"),
        }
    };
    let confirm = service.answer(Content::Accept(accept));
    stage.camera.pass("in-1", confirm);
    let agreed = stage.camera.hear_agreed("in-1");
    stage.camera.install("in-1", agreed);
    let (_, opened) = service.hear(Content::Agreed(agreed));
    let opened = opened.expect("an honest service has it");
    let epoch = |opened: &Opened| format!("{:016x}", opened.epoch);
    stage.victim.notices("opened", "in-1", &epoch(&opened));

    // One more takes the place of what is open, with an epoch of its own.
    let again = stage.camera.write("in-1");
    let ended = Reason::OtherEnd.words();
    stage.victim.notices("ended", "in-1", ended);
    stage.victim.notices("opened", "in-1", &epoch(&again));
    scene.assert_pairing("in-1", "end", "peer", ended);
    stage.assert_open("in-1");
    stage.await_grants(2);
}
