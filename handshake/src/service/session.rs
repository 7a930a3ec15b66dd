//! The device process's end of one session: the TLS server that a service dials through
//! `/dev/sivshm`.

use std::mem;
use std::time::SystemTime;

use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::{ServiceName, VmName};

use super::ALPN;
use super::fault::ServiceFault;
use super::wire::Message;
use crate::credentials::Credentials;
use crate::identity::{IdentityFault, Party, VerifiedIdentity};
use crate::tls::{Tls, TlsFault, unix_time};

/// Evidence that the party at the other end of a session holds the key of a service's SVID.
///
/// Made by [`ServiceSession::receive`] and by nothing else.
#[derive(Debug, Eq, PartialEq)]
pub struct VerifiedService {
    identity: VerifiedIdentity,
    service: ServiceName,
}

impl VerifiedService {
    /// Its SPIFFE ID.
    #[must_use]
    pub const fn id(&self) -> SpiffeId {
        self.identity.id()
    }

    /// The VM that it is in.
    #[must_use]
    pub const fn vm(&self) -> VmName {
        self.identity.vm()
    }

    /// Its name in the VM.
    #[must_use]
    pub const fn service(&self) -> ServiceName {
        self.service
    }

    /// The last second at which its SVID, and every issuer's certificate, is valid.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.identity.not_after()
    }

    /// Judges its SVID again, by what `credentials` trust and at `wall`.
    ///
    /// # Errors
    /// Why it is not to be believed any more: expired, withdrawn, or of unknown status.
    pub fn revalidate(
        &self,
        credentials: &Credentials,
        wall: SystemTime,
    ) -> Result<(), IdentityFault> {
        self.identity
            .revalidate(&credentials.trust, unix_time(wall))
    }
}

/// What came through a session.
#[derive(Debug)]
pub enum SessionEvent {
    /// The service has proved who it is. Comes once, before every message.
    Authenticated(VerifiedService),
    /// A message that a service may say.
    Message(Message),
}

/// The device process's end of one session. After an error it takes nothing any more.
#[derive(Debug)]
pub struct ServiceSession {
    tls: Tls,
    service: ServiceName,
    state: State,
    /// Decrypted bytes that are no whole message yet.
    inbox: Vec<u8>,
    /// Encrypted bytes that are not taken yet.
    outbox: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Unproved,
    Live,
    Ended,
}

impl ServiceSession {
    /// Waits for `service` of the own VM to prove itself: the one that the facts of the session's
    /// process match. Certificates are judged at `wall`.
    ///
    /// # Errors
    /// [`ServiceFault::Tls`] if TLS can't be set up, which is this host's fault.
    pub fn accept(
        credentials: &Credentials,
        service: ServiceName,
        wall: SystemTime,
    ) -> Result<Self, ServiceFault> {
        let (Subject::Device(vm) | Subject::Service(vm, _)) = credentials.id.subject;
        Ok(Self {
            tls: Tls::accept(credentials, ALPN, Party::Service(vm, service), wall)?,
            service,
            state: State::Unproved,
            inbox: Vec::new(),
            outbox: Vec::new(),
        })
    }

    /// Takes bytes that the service sent.
    ///
    /// # Errors
    /// Anything that is not as it has to be. The session is over then; [`Self::farewell`] has what
    /// the service is told.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<Vec<SessionEvent>, ServiceFault> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            if self.state == State::Ended {
                return Err(ServiceFault::Ended);
            }
            let result = self.take(&mut bytes, &mut events);
            if result.is_err() {
                self.state = State::Ended;
            }
            result?;
        }
        Ok(events)
    }

    fn take(
        &mut self,
        bytes: &mut &[u8],
        events: &mut Vec<SessionEvent>,
    ) -> Result<(), ServiceFault> {
        let open = self.tls.read(bytes, &mut self.inbox)?;
        if self.state == State::Unproved
            && let Some(identity) = self.tls.authenticated()?
        {
            self.state = State::Live;
            events.push(SessionEvent::Authenticated(VerifiedService {
                identity,
                service: self.service,
            }));
        }
        while let Some((message, len)) = Message::take(&self.inbox)? {
            self.inbox.drain(..len);
            if !message.kind().goes_up() {
                return Err(ServiceFault::OutOfTurn {
                    got: message.kind(),
                    waiting: "a service's message",
                });
            }
            events.push(SessionEvent::Message(message));
        }
        if open {
            Ok(())
        } else {
            Err(TlsFault::Closed.into())
        }
    }

    /// Says a message to the service; [`Self::outgoing`] has its bytes.
    ///
    /// # Errors
    /// [`ServiceFault::Ended`] unless the service is authenticated and there.
    pub fn say(&mut self, message: &Message) -> Result<(), ServiceFault> {
        if self.state != State::Live {
            return Err(ServiceFault::Ended);
        }
        let bytes = self.tls.write(&message.to_bytes())?;
        self.outbox.extend(bytes);
        Ok(())
    }

    /// The bytes to send since the last call.
    #[must_use]
    pub fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = mem::take(&mut self.outbox);
        bytes.append(&mut self.tls.flush());
        bytes
    }

    /// Ends the session, and gives the last bytes to send: those not taken yet, TLS's alert if there
    /// was a fault, and TLS's own end.
    #[must_use]
    pub fn farewell(&mut self) -> Vec<u8> {
        self.state = State::Ended;
        let mut bytes = mem::take(&mut self.outbox);
        bytes.append(&mut self.tls.farewell(None));
        bytes
    }
}
