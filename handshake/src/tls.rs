//! TLS 1.3 as both handshakes use it: both sides present an SVID, one ALPN, nothing resumed,
//! nothing early, time from the caller.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Connection, Error,
    OtherError, ServerConfig, ServerConnection, SignatureScheme,
};
use rustls_pki_types::{ServerName, UnixTime};
use webpki::ring::{ECDSA_P256_SHA256, ECDSA_P384_SHA384};

use crate::credentials::Credentials;
use crate::identity::{IdentityFault, Party, VerifiedIdentity};
use crate::limits::MAX_UNAUTHENTICATED_BYTES;
use crate::refusal::Blame;
use crate::verifier::SvidVerifier;

/// The application protocol (ALPN) of a connection between two device processes.
pub const ALPN: &[u8] = b"sivshm-peer/1";

/// The signatures that SVIDs and their issuers use. No RSA: its keys are long, its signatures slow.
pub(crate) const SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[ECDSA_P256_SHA256, ECDSA_P384_SHA384],
    mapping: &[
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[ECDSA_P256_SHA256]),
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[ECDSA_P384_SHA384]),
    ],
};

/// Why TLS gave no connection, or lost it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TlsFault {
    /// TLS can't even start.
    #[error("host: TLS can't be set up: {0}")]
    SetUp(Error),
    /// The peer's bytes are not the TLS they have to be.
    #[error("peer: TLS failed: {0}; only TLS 1.3 with both SVIDs is spoken here")]
    Protocol(Error),
    /// The peer ended TLS.
    #[error(
        "host: the peer ended TLS with the alert {0:?}: it refused this side's SVID or hello; its log says why"
    )]
    Alert(AlertDescription),
    /// The peer did not name the application protocol.
    #[error("peer: it did not agree on the application protocol; something else is at that end")]
    Alpn,
    /// More bytes than authentication takes.
    #[error("peer: {MAX_UNAUTHENTICATED_BYTES} bytes came and it is not authenticated yet")]
    TooLong,
    /// The peer closed the connection in the middle of the handshake, or without a `bye`.
    #[error("peer: it closed the connection; its log may say why")]
    Closed,
}

impl TlsFault {
    pub(crate) const fn blame(&self) -> Blame {
        match self {
            Self::SetUp(_) | Self::Alert(_) => Blame::Host,
            Self::Protocol(_) | Self::Alpn | Self::TooLong | Self::Closed => Blame::Peer,
        }
    }
}

/// Why a connection failed: TLS itself, or whose SVID was presented.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ConnectionFault {
    Tls(TlsFault),
    Identity(IdentityFault),
}

impl From<TlsFault> for ConnectionFault {
    fn from(fault: TlsFault) -> Self {
        Self::Tls(fault)
    }
}

impl From<IdentityFault> for ConnectionFault {
    fn from(fault: IdentityFault) -> Self {
        Self::Identity(fault)
    }
}

/// What `rustls` says; the verifier's own findings travel inside its error.
fn fault(error: Error) -> ConnectionFault {
    match error {
        Error::NoCertificatesPresented => IdentityFault::Missing.into(),
        Error::AlertReceived(alert) => TlsFault::Alert(alert).into(),
        Error::InvalidCertificate(CertificateError::Other(OtherError(ref other))) => {
            match other.downcast_ref::<IdentityFault>() {
                Some(fault) => fault.clone().into(),
                None => TlsFault::Protocol(error).into(),
            }
        }
        error => TlsFault::Protocol(error).into(),
    }
}

/// `ring`'s algorithms, with only the signatures that SVIDs use.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider {
        signature_verification_algorithms: SIGNATURES,
        ..rustls::crypto::ring::default_provider()
    }
}

/// The wall clock's time for X.509; a clock before 1970 makes every certificate not valid yet.
pub(crate) fn unix_time(wall: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(
        wall.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

/// The time at which a connection was begun.
#[derive(Debug)]
pub(crate) struct GivenTime(pub(crate) UnixTime);

impl TimeProvider for GivenTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// One TLS connection. Never holds more than one record of either direction.
#[derive(Debug)]
pub(crate) struct Tls {
    connection: Connection,
    alpn: &'static [u8],
    verifier: Arc<SvidVerifier>,
    unauthenticated: usize,
}

impl Tls {
    pub(crate) fn dial(
        credentials: &Credentials,
        alpn: &'static [u8],
        want: Party,
        wall: SystemTime,
    ) -> Result<Self, TlsFault> {
        let time = Arc::new(GivenTime(unix_time(wall)));
        let verifier = SvidVerifier::new(credentials, want);
        let mut config =
            ClientConfig::builder_with_details(Arc::clone(&credentials.provider), time)
                .with_protocol_versions(&[&TLS13])
                .map_err(TlsFault::SetUp)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
                .with_client_cert_resolver(Arc::new(certified(credentials)));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        // The name is not sent and not compared: the verifier looks at the SPIFFE ID only.
        let nobody = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let connection =
            ClientConnection::new(Arc::new(config), nobody).map_err(TlsFault::SetUp)?;
        Ok(Self::new(connection.into(), alpn, verifier))
    }

    pub(crate) fn accept(
        credentials: &Credentials,
        alpn: &'static [u8],
        want: Party,
        wall: SystemTime,
    ) -> Result<Self, TlsFault> {
        let time = Arc::new(GivenTime(unix_time(wall)));
        let verifier = SvidVerifier::new(credentials, want);
        let mut config =
            ServerConfig::builder_with_details(Arc::clone(&credentials.provider), time)
                .with_protocol_versions(&[&TLS13])
                .map_err(TlsFault::SetUp)?
                .with_client_cert_verifier(Arc::clone(&verifier) as _)
                .with_cert_resolver(Arc::new(certified(credentials)));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        let connection = ServerConnection::new(Arc::new(config)).map_err(TlsFault::SetUp)?;
        Ok(Self::new(connection.into(), alpn, verifier))
    }

    const fn new(connection: Connection, alpn: &'static [u8], verifier: Arc<SvidVerifier>) -> Self {
        Self {
            connection,
            alpn,
            verifier,
            unauthenticated: 0,
        }
    }

    /// Takes some bytes from the front of `bytes`, which are not empty, and appends what they
    /// decrypt to. False once the peer has said that nothing more will come.
    pub(crate) fn read(
        &mut self,
        bytes: &mut &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<bool, ConnectionFault> {
        let before = bytes.len();
        self.connection
            .read_tls(bytes)
            .map_err(|_| TlsFault::TooLong)?;
        if self.connection.is_handshaking() {
            self.unauthenticated += before - bytes.len();
            if self.unauthenticated > MAX_UNAUTHENTICATED_BYTES {
                return Err(TlsFault::TooLong.into());
            }
        }
        let state = self.connection.process_new_packets().map_err(fault)?;
        let start = plain.len();
        plain.resize(start + state.plaintext_bytes_to_read(), 0);
        let space = plain.get_mut(start..).unwrap_or_default();
        self.connection
            .reader()
            .read_exact(space)
            .map_err(|_| TlsFault::Closed)?;
        Ok(!state.peer_has_closed())
    }

    /// The peer's identity, once: when the TLS handshake is over, so that the peer has proved to
    /// hold the key of the certificate that the verifier accepted.
    pub(crate) fn authenticated(&mut self) -> Result<Option<VerifiedIdentity>, ConnectionFault> {
        if self.connection.is_handshaking() {
            return Ok(None);
        }
        if self.connection.alpn_protocol() != Some(self.alpn) {
            return Err(TlsFault::Alpn.into());
        }
        let identity = self.verifier.take().ok_or(IdentityFault::Missing)?;
        Ok(Some(identity))
    }

    /// Whether the handshake is under way, so that nothing can be encrypted yet.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Encrypts bytes, and gives the result behind what is not sent yet.
    pub(crate) fn write(&mut self, plain: &[u8]) -> Result<Vec<u8>, TlsFault> {
        self.connection
            .writer()
            .write_all(plain)
            .map_err(|_| TlsFault::SetUp(Error::EncryptError))?;
        Ok(self.flush())
    }

    /// Everything that is encrypted and not yet sent.
    pub(crate) fn flush(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to a vector can't fail.
        while matches!(self.connection.write_tls(&mut bytes), Ok(1..)) {}
        bytes
    }

    /// The last bytes to the peer: a message if it can be encrypted yet, and TLS's own end.
    pub(crate) fn farewell(&mut self, message: Option<&[u8]>) -> Vec<u8> {
        // A peer that can't be told is refused all the same.
        let mut bytes = message
            .filter(|_| !self.is_handshaking())
            .and_then(|message| self.write(message).ok())
            .unwrap_or_default();
        self.connection.send_close_notify();
        bytes.extend(self.flush());
        bytes
    }
}

fn certified(credentials: &Credentials) -> SingleCertAndKey {
    SingleCertAndKey::from(Arc::clone(&credentials.certified))
}
