//! A victim with a service, and an impostor that plays the device process at the other end of all of
//! its channels.
//!
//! `ivi/app` reads `in-N` and writes `out-N`; `camera/app` is at the other end of all of them. Each
//! attack has a channel of its own, so that many find place in one scene and none waits for a service
//! that rests after another one.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use sivshm_abi::frame::Reason;
use sivshm_abi::identity::SpiffeId;
use sivshm_device::admin_wire::PairingState;
use sivshm_handshake::service::wire::{Accept, Agreed, Confirm, Content, Open, RefusalReason};

use super::liar::{Liar, victim_device};
use super::scene::{RESPONSIVE, Scene, wait_until};
use super::service::Service;
use super::victim::Victim;

/// Channels in each direction: what the attacks of one scene need, whose refusals are all recorded
/// (`sivshm_device::audit::STRANGER_RECORDS`).
pub const CHANNELS: usize = 12;

/// Longest time for the victim's service to start: its program is hashed first.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// What the victim's service says in all channels that it writes.
const GREETING: &[u8] = b"an honest greeting";

/// What the impostor's says.
const ANSWER: &str = "an honest answer";

/// Name of a channel that the victim reads, from 1.
pub fn inward(number: usize) -> String {
    format!("in-{number}")
}

/// Name of a channel that the victim writes, from 1.
pub fn outward(number: usize) -> String {
    format!("out-{number}")
}

/// The identity of this text.
pub fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// The scene, where the device processes of `beacon` and `camera` are missing.
pub fn scene() -> Option<Scene> {
    let mut policy = r#"
        version = 1
        trust_domain = "car.example"
        serial = 7
        vm = [{ name = "beacon" }, { name = "camera" }, { name = "ivi" }, { name = "radar" }]
        service = [
            { vm = "beacon", name = "app", process = { uid = 1000 } },
            { vm = "camera", name = "app", process = { uid = 1000 } },
            { vm = "camera", name = "other", process = { uid = 1001 } },
            { vm = "ivi", name = "app", process = { uid = 1000 } },
            { vm = "radar", name = "app", process = { uid = 1000 } },
        ]
    "#
    .to_owned();
    let mut channel = |name: &str, from: &str, to: &str, kind: &str| {
        let ends = format!("from = \"{from}/app\"\nto = [\"{to}/app\"]");
        let lines = format!("[[channel]]\nname = \"{name}\"\n{ends}\nsize = \"64KiB\"\n{kind}\n");
        policy.write_str(&lines).unwrap();
    };
    let region = "kind = \"region\"";
    for number in 1..=CHANNELS {
        channel(&inward(number), "camera", "ivi", region);
        channel(&outward(number), "ivi", "camera", region);
    }
    let ring = "kind = \"ring\"\nslot = \"64B\"\nintegrity = \"crc32c\"";
    channel("ring", "camera", "ivi", ring);
    channel("unread", "camera", "ivi", region);
    channel("beacon-1", "beacon", "ivi", region);
    channel("radar-1", "radar", "ivi", region);
    Scene::with_policy(&policy, &["beacon", "camera"])
}

/// See the module.
pub struct Stage<'s> {
    pub scene: &'s Scene,
    pub victim: Victim,
    pub camera: Liar<'s>,
    pub beacon: Liar<'s>,
}

impl<'s> Stage<'s> {
    /// Both impostors are linked, and the victim's service wants all of its channels with `camera`.
    pub fn new(scene: &'s Scene) -> Self {
        Self::with(
            Liar::link(scene, "beacon"),
            Liar::link(scene, "camera"),
            scene,
        )
    }

    /// The same with impostors that are linked.
    pub fn with(beacon: Liar<'s>, camera: Liar<'s>, scene: &'s Scene) -> Self {
        let end = |channel: String| format!("{channel}=camera/app");
        let ends = |name: fn(usize) -> String| (1..=CHANNELS).map(name).map(end).collect();
        let (mut reads, writes): (Vec<_>, Vec<_>) = (ends(inward), ends(outward));
        reads.push("beacon-1=beacon/app".to_owned());
        let stage = Self {
            victim: Victim::start(scene, &reads, &writes),
            scene,
            camera,
            beacon,
        };
        let wants = |end: &String| {
            let (channel, _) = end.split_once('=').unwrap();
            stage.state(channel) == PairingState::Wanted
        };
        wait_until("service of the victim", STARTS_WITHIN, || {
            reads.iter().all(wants).then_some(())
        });
        stage
    }

    /// Opens a channel as the impostor's service does, apart from a change.
    pub fn open(&mut self, channel: &str, change: impl FnOnce(&mut Open)) {
        let (_, mut open) = self.camera.open(channel);
        change(&mut open);
        self.camera.pass(channel, Content::Open(open));
    }

    /// Accepts what the victim's service opens as the impostor's does, apart from a change.
    pub fn accept(&mut self, channel: &str, change: impl FnOnce(&mut Accept)) {
        let open = self.camera.hear_open(channel);
        let (_, accept) = self.camera.answer(channel, open);
        let Content::Accept(mut accept) = accept else {
            panic!("no accept: {accept:?}");
        };
        change(&mut accept);
        self.camera.pass(channel, Content::Accept(accept));
    }

    /// Opens a channel, and gives the answer of the victim's service with whom it is for.
    pub fn accepted(&mut self, channel: &str) -> (Service, Content) {
        let (service, open) = self.camera.open(channel);
        self.camera.pass(channel, Content::Open(open));
        let accept = self.camera.hear(channel);
        assert!(matches!(accept, Content::Accept(_)), "{accept:?}");
        (service, accept)
    }

    /// Opens a channel and confirms it as the impostor's service does, apart from a change.
    pub fn confirm(&mut self, channel: &str, change: impl FnOnce(&mut Confirm)) {
        let (mut service, accept) = self.accepted(channel);
        let confirm = service.answer(accept);
        let Content::Confirm(mut confirm) = confirm else {
            panic!("no confirm: {confirm:?}");
        };
        change(&mut confirm);
        self.camera.pass(channel, Content::Confirm(confirm));
    }

    /// Opens a channel, up to the word that the victim's device process has installed it. Gives what
    /// an eavesdropper would have, `open` and `confirm`.
    pub fn confirmed(&mut self, channel: &str) -> (Box<Open>, Content) {
        let (mut service, open) = self.camera.open(channel);
        self.camera.pass(channel, Content::Open(open.clone()));
        let confirm = service.answer(self.camera.hear(channel));
        self.camera.pass(channel, confirm.clone());
        let _ = self.camera.hear_agreed(channel);
        (open, confirm)
    }

    /// Lets the impostor's service answer what the victim's opens, up to its `agreed`, which it keeps.
    pub fn agreed(&mut self, channel: &str) -> Agreed {
        let open = self.camera.hear_open(channel);
        let (mut service, accept) = self.camera.answer(channel, open);
        self.camera.pass(channel, accept);
        match service.answer(self.camera.hear(channel)) {
            Content::Agreed(agreed) => agreed,
            other => panic!("an honest service agrees: {other:?}"),
        }
    }

    /// The victim's device process refuses, and records why.
    pub fn assert_refused(&mut self, channel: &str, reason: RefusalReason, why: &str) {
        let device = victim_device(self.scene);
        self.camera.assert_refused(channel, device, reason);
        self.scene.assert_pairing(channel, "deny", "peer", why);
        assert_ne!(self.state(channel), PairingState::Open);
    }

    /// The same program, when it does no harm, opens a channel to the victim's service, which reads
    /// what it writes.
    pub fn assert_writes(&mut self, channel: &str) {
        writes(&mut self.camera, &mut self.victim, channel);
    }

    /// The same for the impostor that nobody attacks with, within [`RESPONSIVE`].
    pub fn assert_beacon(&mut self) {
        let began = Instant::now();
        writes(&mut self.beacon, &mut self.victim, "beacon-1");
        assert!(began.elapsed() < RESPONSIVE, "{:?}", began.elapsed());
    }

    /// The same for a channel that the victim's service writes.
    pub fn assert_reads(&mut self, channel: &str) {
        let opened = self.camera.read(channel);
        let epoch = format!("{:016x}", opened.epoch);
        self.victim.notices("opened", channel, &epoch);
        self.camera.await_sight(channel, GREETING);
    }

    /// The impostor ends what there is between the two about a channel.
    pub fn leave(&mut self, channel: &str) {
        self.camera.leave(channel);
        self.assert_last_word(channel);
    }

    /// The victim answers the impostor's last word about a pairing with its own.
    pub fn assert_last_word(&mut self, channel: &str) {
        assert_eq!(self.camera.hear(channel), Content::End(Reason::Closed));
    }

    /// The pairing of a channel stands.
    pub fn assert_open(&self, channel: &str) {
        assert_eq!(self.state(channel), PairingState::Open);
    }

    /// How far the pairing of a channel is.
    pub fn state(&self, channel: &str) -> PairingState {
        let status = self.scene.assert_answers();
        let mut channels = status.channels.iter();
        let channel = channels.find(|found| found.name == channel).unwrap();
        channel.pairings[0].state
    }

    /// Waits until nothing is under way about a channel that the victim's service wants.
    pub fn await_wanted(&self, channel: &str) {
        wait_until("clean state", RESPONSIVE, || {
            (self.state(channel) == PairingState::Wanted).then_some(())
        });
    }

    /// How many grants the victim's service has.
    pub fn grants(&self) -> u32 {
        let status = self.scene.assert_answers();
        status.sessions.iter().map(|session| session.grants).sum()
    }

    /// Waits until the victim's service has so many grants.
    pub fn await_grants(&self, grants: u32) {
        wait_until("end of grants", RESPONSIVE, || {
            (self.grants() == grants).then_some(())
        });
    }
}

fn writes(liar: &mut Liar<'_>, victim: &mut Victim, channel: &str) {
    let opened = liar.write(channel);
    let epoch = format!("{:016x}", opened.epoch);
    victim.notices("opened", channel, &epoch);
    liar.send(channel, opened.epoch, ANSWER.as_bytes());
    victim.notices("read", channel, ANSWER);
}
