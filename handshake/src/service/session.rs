//! The device process's end of one session: the TLS server that a service dials through
//! `/dev/sivshm`.

use std::time::SystemTime;

use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::{ServiceName, VmName};

use super::ALPN;
use super::fault::ServiceFault;
use super::line::{Heard, Line, Side};
use super::wire::Message;
use crate::credentials::Credentials;
use crate::identity::{IdentityFault, Party, VerifiedIdentity};
use crate::tls::{Tls, unix_time};

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
    line: Line,
    service: ServiceName,
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
        let tls = Tls::accept(credentials, ALPN, Party::Service(vm, service), wall)?;
        Ok(Self {
            line: Line::new(tls, Side::Device),
            service,
        })
    }

    /// Takes bytes that the service sent.
    ///
    /// # Errors
    /// Anything that is not as it has to be. The session is over then; [`Self::farewell`] has what
    /// the service is told.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<Vec<SessionEvent>, ServiceFault> {
        let mut events = Vec::new();
        while let Some(heard) = self.line.hear(&mut bytes)? {
            events.push(match heard {
                Heard::Authenticated(identity) => {
                    let service = self.service;
                    SessionEvent::Authenticated(VerifiedService { identity, service })
                }
                Heard::Message(message) => SessionEvent::Message(message),
            });
        }
        Ok(events)
    }

    /// Says a message to the service; [`Self::outgoing`] has its bytes.
    ///
    /// # Errors
    /// [`ServiceFault::Ended`] unless the service is authenticated and there.
    pub fn say(&mut self, message: &Message) -> Result<(), ServiceFault> {
        self.line.say(message)
    }

    /// The bytes to send since the last call.
    #[must_use]
    pub fn outgoing(&mut self) -> Vec<u8> {
        self.line.outgoing()
    }

    /// Ends the session, and gives the last bytes to send: those not taken yet, TLS's alert if there
    /// was a fault, and TLS's own end.
    #[must_use]
    pub fn farewell(&mut self) -> Vec<u8> {
        self.line.farewell()
    }
}
