//! Impostors that stop in the middle, break the link, say more than anybody takes, or go on after
//! the end.

use std::time::Instant;

use sivshm_abi::frame::Reason;
use sivshm_device::admin_wire::{AdminAnswer, AdminRequest, PairingState};
use sivshm_device::audit::STRANGER_RECORDS;
use sivshm_device::run::limits::{COSTLY_AT_ONCE, COSTLY_PER_PAIRING, COSTLY_PER_SECOND};
use sivshm_handshake::RefusalCode;
use sivshm_handshake::limits::MAX_PAYLOAD_BYTES;
use sivshm_handshake::service::limits::{MAX_SERVICE_MESSAGE_BYTES, STEP_WITHIN};
use sivshm_handshake::service::wire::{Content, Hash, Message, RefusalReason, ServiceRefusal};
use sivshm_handshake::wire::{self as link, MessageType, Told};

use crate::support::liar::{service_id, victim_device};
use crate::support::scene::{RESPONSIVE, VICTIM, wait_until};
use crate::support::service::terms_of;
use crate::support::stage::{CHANNELS, Stage, inward, outward, scene};
use crate::support::talk::End;

/// Opens that one impostor sends.
const FLOOD: u32 = 1024;

/// Opens that it sends without waiting: half of what a socket takes.
const WAVE: u32 = 32;

#[test]
fn messages_that_end_the_link() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    let pairing = scene.pairing("in-1");
    let app = service_id(&scene, VICTIM);
    let whole = |content| link::Message::Service(Box::new(Message { pairing, content })).to_bytes();
    let (_, good) = stage.camera.open("in-1");
    let open = whole(Content::Open(good.clone()));
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut open = open.clone();
        change(&mut open);
        open
    };
    let find = |wanted: &[u8]| {
        let mut places = open.windows(wanted.len());
        places.position(|found| found == wanted).unwrap()
    };
    let epoch = find(&good.body.epoch.to_le_bytes());
    let role = find(&[&good.body.writer.to_string().into_bytes()[..], &[1]].concat())
        + good.body.writer.to_string().len();
    let grow = |bytes: &mut Vec<u8>, by: usize| {
        bytes.extend(vec![0; by]);
        let length = u32::try_from(bytes.len() - link::HEADER_BYTES).unwrap();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
    };
    let oversize = u32::try_from(MAX_PAYLOAD_BYTES + 1).unwrap().to_le_bytes();
    let service = [MessageType::Service.code()];
    let attacks: Vec<(Vec<u8>, &str)> = vec![
        // What goes between a service and its own device process only.
        (
            whole(Content::Want {
                peer: app,
                integrity: None,
            }),
            "`service` came",
        ),
        (whole(Content::Terms(terms_of(&good))), "`service` came"),
        (
            changed(&|open| open[epoch..epoch + 8].fill(0)),
            "open.epoch",
        ),
        (changed(&|open| open[role] = 2), "open.role"),
        (changed(&|open| grow(open, 1)), "left over"),
        (
            changed(&|open| grow(open, MAX_SERVICE_MESSAGE_BYTES)),
            "left over",
        ),
        (
            changed(&|open| {
                open.truncate(open.len() - 1);
                grow(open, 0);
            }),
            "signature",
        ),
        ([&oversize[..], &service].concat(), "payload bytes"),
    ];
    for (number, (bytes, why)) in (1..).zip(attacks) {
        let channel = inward(number);
        let before = stage.grants();
        stage.assert_writes(&channel);
        stage.camera.say_bytes(&bytes);
        let refused = Told::Code(RefusalCode::Protocol);
        assert_eq!(stage.camera.end(), End::Told(refused), "{why}");
        scene.wait_record(why, |record| {
            record["event"] == "peer"
                && record["decision"] == "end"
                && record["blame"] == "peer"
                && record["reason"].as_str().unwrap().contains(why)
        });
        stage
            .victim
            .notices("ended", &channel, Reason::PeerGone.words());
        stage.await_grants(before);
        stage.camera.link_again();
    }
    stage.assert_writes(&inward(10));
    stage.assert_beacon();
}

#[test]
fn silence_at_each_step() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    let before = stage.grants();
    let began = Instant::now();
    // No confirm, no word that the impostor has installed, as the writer's and as the reader's.
    stage.accepted("in-1");
    stage.confirmed("in-2");
    stage.accept("out-1", |_| {});
    let confirm = stage.camera.hear("out-1");
    assert!(matches!(confirm, Content::Confirm(_)), "{confirm:?}");
    let late = began.elapsed() + STEP_WITHIN + RESPONSIVE;
    for channel in ["in-1", "in-2", "out-1"] {
        let pairing = scene.pairing(channel);
        let heard = stage.camera.hear_within(pairing, late);
        assert_eq!(heard, Content::End(Reason::Incomplete), "{channel}");
        assert!(began.elapsed() >= STEP_WITHIN);
        assert!(began.elapsed() < late, "{:?}", began.elapsed());
        let why = Reason::Incomplete.words();
        scene.assert_pairing(channel, "deny", "peer", why);
        stage.camera.leave(channel);
    }
    stage.await_grants(before);
    for channel in ["in-1", "in-2"] {
        stage.await_wanted(channel);
        stage.assert_writes(channel);
    }
    stage.assert_reads("out-1");
}

#[test]
fn link_lost_at_each_step() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    stage.assert_beacon();
    let before = stage.grants();

    // As the writer's device process: after the open, the confirm, the end.
    let (_, open) = stage.camera.open("unread");
    stage.camera.pass("unread", Content::Open(open));
    stage.accepted(&inward(1));
    stage.confirmed(&inward(2));
    stage.assert_writes(&inward(3));
    // As the reader's: after the open, the accept, the end.
    let _ = stage.camera.hear_open(&outward(1));
    stage.accept(&outward(2), |_| {});
    let confirm = stage.camera.hear(&outward(2));
    assert!(matches!(confirm, Content::Confirm(_)), "{confirm:?}");
    stage.assert_reads(&outward(3));
    let opening = [inward(1), outward(1), outward(2)];
    for channel in &opening {
        assert_eq!(stage.state(channel), PairingState::Opening, "{channel}");
    }

    stage.camera.close();
    for channel in [inward(3), outward(3)] {
        let gone = Reason::PeerGone.words();
        stage.victim.notices("ended", &channel, gone);
        scene.assert_pairing(&channel, "end", "peer", gone);
    }
    stage.await_grants(before);
    for channel in scene.assert_answers().channels {
        if channel.name != "beacon-1" {
            let state = channel.pairings[0].state;
            let clean = matches!(state, PairingState::Idle | PairingState::Wanted);
            assert!(clean, "{} is {state:?}", channel.name);
        }
    }
    stage.assert_open("beacon-1");

    stage.camera.link_again();
    for number in 1..=3 {
        stage.assert_writes(&inward(number));
        stage.assert_reads(&outward(number));
    }

    // A second link takes the place of the first one: what began there does not go on here.
    let channel = inward(4);
    let (mut service, accept) = stage.accepted(&channel);
    stage.camera.link_again();
    stage.camera.pass(&channel, service.answer(accept));
    let why = "`confirm` came when something else was awaited";
    stage.assert_refused(&channel, RefusalReason::Protocol, why);
    stage.assert_writes(&channel);
}

#[test]
fn flood_of_opens() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    let (_, open) = stage.camera.open("unread");
    let reason = RefusalReason::Flood;
    let by = victim_device(&scene);
    let began = Instant::now();
    let mut taken = 0;
    for wave in 0..FLOOD / WAVE {
        for _ in 0..WAVE {
            stage.camera.pass("unread", Content::Open(open.clone()));
            // One that is refused needs this to be followed by another one.
            stage.camera.leave("unread");
        }
        if wave == FLOOD / WAVE / 2 {
            stage.assert_beacon();
        }
        for _ in 0..WAVE {
            match stage.camera.hear("unread") {
                // It was taken, and the impostor has left.
                Content::End(Reason::Closed) => taken += 1,
                heard => assert_eq!(heard, Content::Refusal(ServiceRefusal { by, reason })),
            }
        }
    }
    let pairings = 2 + 2 * u32::try_from(CHANNELS).unwrap();
    let at_once = COSTLY_AT_ONCE + COSTLY_PER_PAIRING * pairings;
    let since = u32::try_from(began.elapsed().as_secs() + 1).unwrap();
    assert!(taken <= at_once + COSTLY_PER_SECOND * since, "{taken}");
    assert!(taken < FLOOD, "all of {FLOOD} were taken");
    scene.assert_pairing("unread", "deny", "peer", "a limit was exceeded");
    let records = scene.records();
    let denials = records.iter().filter(|record| record["decision"] == "deny");
    let strangers = usize::try_from(STRANGER_RECORDS + since).unwrap();
    // Each may come with one that says how many were only counted.
    assert!(denials.count() <= 2 * strangers);
    wait_until("an open that is taken", RESPONSIVE, || {
        stage.camera.pass("unread", Content::Open(open.clone()));
        stage.camera.leave("unread");
        (stage.camera.hear("unread") == Content::End(Reason::Closed)).then_some(())
    });
}

#[test]
fn after_the_operators_revocation() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    stage.assert_writes("in-1");
    let channel = "in-1".to_owned();
    match scene.ask(&AdminRequest::Revoke { channel }) {
        AdminAnswer::Revoked { grants, .. } => assert_eq!(grants, 2),
        other => panic!("{other:?}"),
    }
    let admin = Reason::Admin;
    stage.victim.notices("ended", "in-1", admin.words());
    stage.victim.notices(
        "lost",
        "in-1",
        &format!("the channel was revoked: {}", admin.words()),
    );
    assert_eq!(stage.camera.hear("in-1"), Content::End(admin));
    stage.camera.leave("in-1");
    let grants = stage.grants();
    let (_, open) = stage.camera.open("in-1");
    let gone = "the policy has no such channel for this service";
    for content in [Content::Open(open), Content::Installed(Hash([0; 32]))] {
        stage.camera.pass("in-1", content);
        stage.assert_refused("in-1", RefusalReason::Policy, gone);
    }
    assert_eq!(stage.grants(), grants);
    stage.assert_writes("in-2");
}

#[test]
fn after_its_svid_was_withdrawn() {
    let Some(scene) = scene() else { return };
    let mut stage = Stage::new(&scene);
    stage.assert_writes("in-1");
    let old = stage.camera.service_svid("app");
    let new = scene.replace_service("camera", "app");
    let withdrawn = Reason::Withdrawn;
    stage.victim.notices("ended", "in-1", withdrawn.words());
    assert_eq!(stage.camera.hear("in-1"), Content::End(withdrawn));
    stage.camera.leave("in-1");
    stage.camera.renew_service(&new);
    let why = "is on the revocation list";
    stage.open("in-2", |open| old.sign_open(open));
    stage.assert_refused("in-2", RefusalReason::Withdrawn, why);
    stage.assert_writes("in-2");
    stage.accept("out-1", |accept| old.sign_accept(accept));
    stage.assert_refused("out-1", RefusalReason::Withdrawn, why);
    stage.assert_reads("out-1");
    // What ended is opened again with the new SVID.
    stage.assert_writes("in-1");
}

#[test]
fn exchange_of_an_earlier_run() {
    let Some(scene) = scene() else { return };
    let mut earlier = Stage::new(&scene);
    let (open, confirm) = earlier.confirmed("in-1");
    let outward = earlier.camera.hear_open("out-1");
    let (_, accept) = earlier.camera.answer("out-1", outward);
    let instance = scene.assert_answers().instance;
    let Stage {
        victim,
        mut beacon,
        mut camera,
        ..
    } = earlier;
    drop(victim);
    scene.restart(&["beacon", "camera"]);
    assert_ne!(scene.assert_answers().instance, instance);

    // Its slices are those that the open speaks of.
    beacon.link_again();
    camera.link_again();
    let mut stage = Stage::with(beacon, camera, &scene);
    stage.camera.pass("in-1", Content::Open(open));
    let answer = stage.camera.hear("in-1");
    assert!(matches!(answer, Content::Accept(_)), "{answer:?}");
    stage.camera.pass("in-1", confirm);
    let why = "the message answers another exchange than this one";
    stage.assert_refused("in-1", RefusalReason::Proof, why);
    let _ = stage.camera.hear_open("out-1");
    stage.camera.pass("out-1", accept);
    stage.assert_refused("out-1", RefusalReason::Proof, why);
    assert_eq!(stage.grants(), 0);
    stage.assert_writes("in-1");
    stage.assert_reads("out-1");
}
