//! A claim to be a service, by whatever papers. It believes every device process.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use serde_json::json;
use sivshm_abi::frame::{Facts, Payload};
use sivshm_abi::identity::SpiffeId;
use sivshm_abi::limits::MAX_DATA_BYTES;
use sivshm_abi::name::ChannelName;
use sivshm_handshake::service::ALPN;
use sivshm_handshake::service::wire::{Content, Message, Pairing};

use crate::line::{Heard, Inherited, Line};
use crate::{errno_of, event};

/// Longest time for a claim to be decided: that of a session that says nothing, and half as much
/// again.
const DECIDED_WITHIN: Duration = Duration::from_secs(45);

/// Somebody: whoever has proved to be a service is told that there is no such channel.
const SOMEBODY: &str = "spiffe://any.example/vm/any/svc/any";

/// A chain, and the key of its first certificate.
pub struct Papers {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Papers {
    /// Reads what was passed.
    pub fn read(inherited: &Inherited) -> nix::Result<Self> {
        let [chain, key, _] = inherited.papers()?;
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>();
        Ok(Self {
            chain: chain.map_err(|_| Errno::EBADMSG)?,
            key: PrivateKeyDer::from_pem_slice(&key).map_err(|_| Errno::EBADMSG)?,
        })
    }
}

/// Says why the session was closed, or that the device process talks with it.
pub fn claim(line: &mut Line, facts: Facts, papers: Option<Papers>) -> nix::Result<()> {
    let session = line.open(facts)?;
    let mut tls = client(papers).map_err(|_| Errno::EINVAL)?;
    let deadline = Instant::now() + DECIDED_WITHIN;
    let mut asked = false;
    loop {
        let mut bytes = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut bytes)
                .map_err(|error| errno_of(&error))?;
        }
        // A whole handshake is within the credit that a session begins with.
        for part in bytes.chunks(MAX_DATA_BYTES) {
            line.send(session, &Payload::Data(part))?;
        }
        match line.hear(deadline)?.ok_or(Errno::ETIMEDOUT)? {
            (_, Heard::Data(bytes)) => {
                let mut bytes = bytes.as_slice();
                // That TLS ends is less than the reason that comes next.
                let read = tls.read_tls(&mut bytes).is_ok() && tls.process_new_packets().is_ok();
                if read && tls.reader().read(&mut [0; 1]).is_ok_and(|count| count > 0) {
                    event("proved", "", &json!({}));
                    return Ok(());
                }
                if read && !tls.is_handshaking() && !asked {
                    asked = true;
                    let question = question().ok_or(Errno::EINVAL)?;
                    tls.writer()
                        .write_all(&question)
                        .map_err(|error| errno_of(&error))?;
                }
            }
            (_, Heard::Closed(reason)) => {
                event("closed", "", &json!({ "reason": reason.words() }));
                return Ok(());
            }
            (_, Heard::Credit(_)) => {}
        }
    }
}

fn question() -> Option<Vec<u8>> {
    let somebody = SpiffeId::parse(SOMEBODY).ok()?;
    let pairing = Pairing {
        channel: ChannelName::new("any").ok()?,
        reader: somebody,
    };
    let content = Content::Want {
        peer: somebody,
        integrity: None,
    };
    Some(Message { pairing, content }.to_bytes())
}

fn client(papers: Option<Papers>) -> Result<ClientConnection, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match papers {
        Some(Papers { chain, key }) => config.with_client_auth_cert(chain, key)?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    let name = ServerName::try_from("device").map_err(|_| Error::HandshakeNotComplete)?;
    ClientConnection::new(Arc::new(config), name)
}

/// Believes everybody.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let offered = [
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
        ];
        offered.to_vec()
    }
}
