//! Claims to be a service: what to show to a device process, and what to say to it.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Error};
use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::ChannelName;
use sivshm_handshake::service::ALPN;
use sivshm_handshake::service::wire::{Content, Message, Pairing};

use crate::gullible::Gullible;

/// Longest time for a claim to be decided: that of a session that says nothing, and half as much
/// again.
pub const DECIDED_WITHIN: Duration = Duration::from_secs(45);

/// Somebody: whoever has proved to be a service is told that there is no such channel.
const SOMEBODY: &str = "spiffe://any.example/vm/any/svc/any";

/// An SVID with its chain, and its key.
#[derive(Debug)]
pub struct Papers {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Papers {
    /// Takes a chain and a key, whether or not they belong together.
    ///
    /// # Errors
    /// `EBADMSG` if one is no PEM.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> nix::Result<Self> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>();
        Ok(Self {
            chain: chain.map_err(|_| Errno::EBADMSG)?,
            key: PrivateKeyDer::from_pem_slice(key).map_err(|_| Errno::EBADMSG)?,
        })
    }
}

/// A client of a device process with these papers, or with none.
///
/// # Errors
/// The key is of no kind that TLS knows.
pub fn client(papers: Option<&Papers>) -> Result<ClientConnection, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match papers {
        Some(Papers { chain, key }) => {
            config.with_client_auth_cert(chain.clone(), key.clone_key())?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    let name = ServerName::try_from("device").map_err(|_| Error::HandshakeNotComplete)?;
    ClientConnection::new(Arc::new(config), name)
}

/// A message that is answered to every service, and to nobody else.
#[must_use]
pub fn question() -> Option<Vec<u8>> {
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
