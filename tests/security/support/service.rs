//! An impostor's own service: honest, with a session of its own, in the impostor's hands.

use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime};

use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_handshake::Credentials;
use sivshm_handshake::service::wire::{Content, Message, Open, Pairing, Role, Terms};
use sivshm_handshake::service::{
    ClientEvent, Opened, ServiceClient, ServiceSession, SessionEvent, Want,
};
use zeroize::Zeroizing;

/// The credentials of a service, as the CA's tool wrote them: NAME.pem and NAME.key.
pub fn credentials(folder: &Path, name: &str, bundle: &Path) -> Credentials {
    let read = |suffix| fs::read(folder.join(format!("{name}.{suffix}"))).unwrap();
    let (chain, key, bundle) = (read("pem"), Zeroizing::new(read("key")), fs::read(bundle));
    Credentials::load_service(&chain, &key, &bundle.unwrap(), SystemTime::now()).unwrap()
}

/// A service in one attempt at one pairing, and the end of its session that a device process has.
#[derive(Debug)]
pub struct Service {
    pairing: Pairing,
    client: ServiceClient,
    session: ServiceSession,
}

impl Service {
    /// One that wants its end of a channel and has been told these terms. Gives what it says to that:
    /// `open` if it writes.
    pub fn begin(
        device: &Credentials,
        own: &Credentials,
        pairing: Pairing,
        peer: SpiffeId,
        terms: Terms,
    ) -> (Self, Option<Content>) {
        let now = SystemTime::now();
        let Subject::Service(_, name) = own.id().subject else {
            panic!("these are no service's credentials");
        };
        let mut this = Self {
            pairing,
            client: ServiceClient::dial(own, now).unwrap(),
            session: ServiceSession::accept(device, name, now).unwrap(),
        };
        let (said, _) = this.exchange();
        assert!(said.is_empty(), "{said:?}");
        let want = Want {
            channel: pairing.channel,
            peer,
            role: terms.role,
            integrity: None,
        };
        this.client.want(want, Instant::now()).unwrap();
        let (said, _) = this.exchange();
        assert!(matches!(said[..], [Content::Want { .. }]), "{said:?}");
        let (said, _) = this.hear(Content::Terms(terms));
        (this, said)
    }

    /// Tells it something, and gives what it says to that, and what it has come to if that is all.
    pub fn hear(&mut self, content: Content) -> (Option<Content>, Option<Opened>) {
        let pairing = self.pairing;
        self.session.say(&Message { pairing, content }).unwrap();
        let (mut said, events) = self.exchange();
        assert!(said.len() <= 1, "{said:?}");
        let opened = events.into_iter().find_map(|event| match event {
            ClientEvent::Opened(opened) => Some(opened),
            _ => None,
        });
        (said.pop(), opened)
    }

    /// Tells it something, and gives its answer.
    pub fn answer(&mut self, content: Content) -> Content {
        let (said, _) = self.hear(content.clone());
        said.unwrap_or_else(|| panic!("an honest service has no answer to {content:?}"))
    }

    /// Moves what is on its way between the two ends of the session.
    fn exchange(&mut self) -> (Vec<Content>, Vec<ClientEvent>) {
        let (mut said, mut events) = (Vec::new(), Vec::new());
        loop {
            let (up, down) = (self.client.outgoing(), self.session.outgoing());
            if up.is_empty() && down.is_empty() {
                return (said, events);
            }
            let heard = self.session.receive(&up).unwrap();
            said.extend(heard.into_iter().filter_map(|event| match event {
                SessionEvent::Message(message) => Some(message.content),
                SessionEvent::Authenticated(_) => None,
            }));
            let (wall, now) = (SystemTime::now(), Instant::now());
            events.extend(self.client.receive(&down, wall, now).unwrap());
        }
    }
}

/// The terms on which a writer opened, for a reader whose device process has no plan of its own.
pub fn terms_of(open: &Open) -> Terms {
    Terms {
        contract: open.body.contract,
        serial: open.body.serial,
        kind: open.body.kind,
        slice_generation: open.body.slice_generation,
        host_boot: open.body.host_boot,
        role: Role::Reader,
        reader: 0,
        readers: 1,
    }
}
