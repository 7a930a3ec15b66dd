//! A device process that has its own valid SVID, is linked with the victim, and says in the service
//! handshake whatever it wants to.
//!
//! It is [`Impostor`] up to the established link. After it, [`Liar::open`] and [`Liar::answer`] have
//! what the impostor's own honest service says, for an attack to change, to repeat or to keep;
//! [`Liar::write`] and [`Liar::read`] do a whole exchange without any lie.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use sivshm_abi::frame::Reason;
use sivshm_abi::grant::Generation;
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::{ChannelName, ServiceName, VmName};
use sivshm_handshake::Credentials;
use sivshm_handshake::service::Opened;
use sivshm_handshake::service::wire::{
    self, Agreed, Content, Hash, Open, Pairing, RefusalReason, Role, ServiceRefusal, Terms,
};
use sivshm_handshake::wire::{ManifestEntry, Message};
use sivshm_ring::line::ReaderLine;
use sivshm_ring::region::Writer;
use sivshm_sys::eventfd;
use sivshm_sys::map::Mapping;
use zeroize::Zeroizing;

use super::identity::Svid;
use super::impostor::Impostor;
use super::scene::{Scene, VICTIM, wait_until};
use super::service::{Service, credentials, terms_of};
use super::talk::{End, Talk};

/// Longest time for the victim, or its service, to say something that is not due at a later time: an
/// honest service rests up to 5 s after it was refused often.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// The service of the impostor's VM whose key the impostor has.
pub const APP: &str = "app";

/// See the module.
pub struct Liar<'s> {
    scene: &'s Scene,
    vm: String,
    impostor: Impostor<'s>,
    talk: Talk,
    device: Credentials,
    app: Credentials,
    /// What was heard and not asked for yet.
    heard: VecDeque<wire::Message>,
}

impl<'s> Liar<'s> {
    /// A VM's device process, linked with the victim.
    pub fn link(scene: &'s Scene, vm: &str) -> Self {
        let folder = scene.vm_dir(vm);
        let read = |path: &str| fs::read(folder.join(path)).unwrap();
        let bundle = scene.bundle();
        let device = Credentials::load(
            scene.trust_domain(),
            VmName::new(vm).unwrap(),
            &read("device.pem"),
            &Zeroizing::new(read("device.key")),
            &fs::read(&bundle).unwrap(),
            SystemTime::now(),
        );
        let impostor = scene.impostor(vm);
        let outcome = impostor.play();
        assert_eq!(outcome.end, None, "an honest peer is refused");
        Self {
            scene,
            vm: vm.to_owned(),
            impostor,
            talk: outcome.talk,
            device: device.unwrap(),
            app: credentials(&folder.join("svc"), APP, &bundle),
            heard: VecDeque::new(),
        }
    }

    /// Closes the link without a word.
    pub fn close(&self) {
        self.talk.close();
    }

    /// Makes another link with the same slices, which the victim's VM has.
    pub fn link_again(&mut self) {
        self.heard.clear();
        let impostor = &self.impostor;
        self.talk = wait_until("link", ANSWERS_WITHIN, || {
            let outcome = impostor.play();
            match outcome.end {
                None => Some(outcome.talk),
                // It has connected too often.
                Some(End::Closed) => None,
                Some(end) => panic!("an honest peer is refused: {end:?}"),
            }
        });
    }

    /// Signs with another SVID of its service from now on: NAME.pem and NAME.key of a folder.
    pub fn renew_service(&mut self, folder: &Path) {
        self.app = credentials(folder, APP, &self.scene.bundle());
    }

    /// Its own SVID, as a device process.
    pub fn device_svid(&self) -> Svid {
        Svid::of_device(&self.scene.vm_dir(&self.vm))
    }

    /// The SVID of a service of its own VM.
    pub fn service_svid(&self, service: &str) -> Svid {
        Svid::of_service(&self.scene.vm_dir(&self.vm), service)
    }

    /// Says that a message of the service handshake is about this pairing.
    pub fn pass_as(&mut self, pairing: Pairing, content: Content) {
        let message = wire::Message { pairing, content };
        self.talk.say(&Message::Service(Box::new(message)));
    }

    /// Says a message about a channel's pairing.
    pub fn pass(&mut self, channel: &str, content: Content) {
        self.pass_as(self.scene.pairing(channel), content);
    }

    /// Says bytes that need not be a message.
    pub fn say_bytes(&mut self, bytes: &[u8]) {
        self.talk.say_bytes(bytes);
    }

    /// Waits for the victim's next message about a channel.
    pub fn hear(&mut self, channel: &str) -> Content {
        self.hear_about(self.scene.pairing(channel))
    }

    /// Waits for the victim's next message about a pairing.
    pub fn hear_about(&mut self, pairing: Pairing) -> Content {
        self.hear_within(pairing, ANSWERS_WITHIN)
    }

    /// The same, within another time.
    pub fn hear_within(&mut self, pairing: Pairing, limit: Duration) -> Content {
        let deadline = Instant::now() + limit;
        loop {
            let about = |message: &wire::Message| message.pairing == pairing;
            if let Some(at) = self.heard.iter().position(about) {
                return self.heard.remove(at).unwrap().content;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.talk.hear_within(left);
            let message = message.unwrap_or_else(|| panic!("nothing about {pairing} in {limit:?}"));
            self.heard.extend(service_message(message.unwrap()));
        }
    }

    /// Whether the victim says anything about a channel before it answers a question about another
    /// one, which it does after everything that it was told before.
    pub fn silent(&mut self, channel: &str) -> bool {
        let pairing = self.scene.pairing(channel);
        let unknown = Pairing {
            channel: ChannelName::new("barrier").unwrap(),
            ..pairing
        };
        self.pass_as(unknown, Content::Installed(Hash([0; 32])));
        loop {
            let message = self.talk.hear_within(ANSWERS_WITHIN).expect("an answer");
            let Some(message) = service_message(message.unwrap()) else {
                continue;
            };
            if message.pairing == unknown {
                return !self.heard.iter().any(|heard| heard.pairing == pairing);
            }
            self.heard.push_back(message);
        }
    }

    /// How the victim ends the link.
    pub fn end(&mut self) -> End {
        self.talk.end()
    }

    /// Waits for the `open` of the victim's service.
    pub fn hear_open(&mut self, channel: &str) -> Box<Open> {
        match self.hear(channel) {
            Content::Open(open) => open,
            other => panic!("no open of {channel}: {other:?}"),
        }
    }

    /// The victim's device process, or whoever, refuses for this reason; the impostor says in turn
    /// that the attempt is over.
    pub fn assert_refused(&mut self, channel: &str, by: SpiffeId, reason: RefusalReason) {
        let refusal = Content::Refusal(ServiceRefusal { by, reason });
        assert_eq!(self.hear(channel), refusal, "{channel}");
        self.leave(channel);
    }

    /// Says that whatever there is between the two about a channel is over.
    pub fn leave(&mut self, channel: &str) {
        self.pass(channel, Content::End(Reason::OtherEnd));
    }

    /// What the impostor's service says to open a channel to the victim's.
    pub fn open(&self, channel: &str) -> (Service, Box<Open>) {
        let generation = self.own_generation();
        let terms = Terms {
            contract: self.impostor.hello.contract,
            serial: self.impostor.hello.policy_serial,
            kind: self.scene.kind(channel),
            slice_generation: generation,
            host_boot: self.impostor.hello.host_boot,
            role: Role::Writer,
            reader: 0,
            readers: 1,
        };
        match self.begin(channel, terms) {
            (service, Some(Content::Open(open))) => (service, open),
            (_, other) => panic!("no open: {other:?}"),
        }
    }

    /// What the impostor's service answers to an `open` of the victim's.
    pub fn answer(&self, channel: &str, open: Box<Open>) -> (Service, Content) {
        let (mut service, said) = self.begin(channel, terms_of(&open));
        assert_eq!(said, None);
        let accept = service.answer(Content::Open(open));
        assert!(matches!(accept, Content::Accept(_)), "{accept:?}");
        (service, accept)
    }

    fn begin(&self, channel: &str, terms: Terms) -> (Service, Option<Content>) {
        let (pairing, peer) = (self.scene.pairing(channel), service_id(self.scene, VICTIM));
        Service::begin(&self.device, &self.app, pairing, peer, terms)
    }

    fn own_generation(&self) -> Generation {
        let mut slices = self.impostor.lines.iter().filter_map(|line| match line {
            ManifestEntry::Slice(slice) => Some(slice.generation),
            ManifestEntry::Doorbell { .. } => None,
        });
        slices.next().expect("it gives a slice")
    }

    /// Opens a channel to the victim's service, whole and honestly.
    pub fn write(&mut self, channel: &str) -> Opened {
        let (mut service, open) = self.open(channel);
        self.pass(channel, Content::Open(open));
        let accept = self.hear(channel);
        self.pass(channel, service.answer(accept));
        let agreed = self.hear_agreed(channel);
        self.install(channel, agreed);
        opened(&mut service, Content::Agreed(agreed))
    }

    /// Waits for the word that the victim's service has agreed and its device process installed.
    pub fn hear_agreed(&mut self, channel: &str) -> Agreed {
        match self.hear(channel) {
            Content::Agreed(agreed) => agreed,
            other => panic!("{channel} is not agreed: {other:?}"),
        }
    }

    /// Says that it has installed, too.
    pub fn install(&mut self, channel: &str, agreed: Agreed) {
        self.pass(channel, Content::Installed(agreed.body.confirm));
    }

    /// Takes part in a channel that the victim's service opens, whole and honestly.
    pub fn read(&mut self, channel: &str) -> Opened {
        let open = self.hear_open(channel);
        let (mut service, accept) = self.answer(channel, open);
        self.pass(channel, accept);
        let confirm = self.hear(channel);
        let agreed = service.answer(confirm);
        self.pass(channel, agreed);
        let installed = self.hear(channel);
        opened(&mut service, installed)
    }

    /// Writes a message into a channel that was opened, and rings.
    pub fn send(&self, channel: &str, epoch: u64, message: &[u8]) {
        let path = format!("/proc/self/fd/{}", self.impostor.rights[0].as_raw_fd());
        let slice = open(path.as_str(), OFlag::O_RDWR, Mode::empty()).unwrap();
        let (offset, length) = self.scene.range(channel);
        let range = Mapping::new(&slice).unwrap().shared();
        let range = range.sub(offset, length).unwrap();
        let mut writer = Writer::start(range, [] as [ReaderLine; 0], epoch).unwrap();
        writer.write(0, message).unwrap();
        writer.publish(message.len()).unwrap();
        let doorbell = self.talk.received.last().expect("the victim's doorbell");
        eventfd::ring(doorbell.as_fd()).unwrap();
    }

    /// Waits until these bytes are in a channel that the victim writes.
    pub fn await_sight(&self, channel: &str, message: &[u8]) {
        let (offset, length) = self.scene.range(channel);
        let slice = File::from(self.talk.received[0].try_clone().unwrap());
        let mut bytes = vec![0; length];
        wait_until("message in the slice", ANSWERS_WITHIN, || {
            slice.read_exact_at(&mut bytes, offset as u64).unwrap();
            let mut places = bytes.windows(message.len());
            places.any(|found| found == message).then_some(())
        });
    }
}

/// The identity of a VM's service.
pub fn service_id(scene: &Scene, vm: &str) -> SpiffeId {
    let (vm, service) = (VmName::new(vm).unwrap(), ServiceName::new(APP).unwrap());
    SpiffeId {
        domain: scene.trust_domain(),
        subject: Subject::Service(vm, service),
    }
}

/// The identity of the victim's device process.
pub fn victim_device(scene: &Scene) -> SpiffeId {
    SpiffeId {
        domain: scene.trust_domain(),
        subject: Subject::Device(VmName::new(VICTIM).unwrap()),
    }
}

fn service_message(message: Message) -> Option<wire::Message> {
    match message {
        Message::Service(message) => Some(*message),
        _ => None,
    }
}

fn opened(service: &mut Service, last: Content) -> Opened {
    service.hear(last).1.expect("an honest service has it")
}
