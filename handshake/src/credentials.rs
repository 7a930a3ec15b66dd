//! What a device process authenticates with: its SVID, its key and the trust bundle.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::{TrustDomain, VmName};
use webpki::{KeyUsage, anchor_from_trusted_cert};
use zeroize::{Zeroize, Zeroizing};

use crate::identity::{self, IdentityFault, Wanted};
use crate::limits::MAX_TRUST_ANCHORS;
use crate::tls::{provider, unix_time};

/// Why credentials can't be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CredentialError {
    /// The chain has no certificate, or something else than certificates.
    #[error("host: the SVID's file is not a chain of PEM certificates")]
    Chain,
    /// The key can't be read.
    #[error("host: the key's file is not one PKCS#8 or SEC1 ECDSA key (P-256 or P-384) in PEM")]
    Key,
    /// The key is another certificate's.
    #[error("host: the key is not that of the SVID; issue both again, together")]
    KeyMismatch,
    /// The bundle has no root, too many, or something else than certificates.
    #[error("host: the trust bundle is not 1 to {MAX_TRUST_ANCHORS} PEM certificates of roots")]
    Bundle,
    /// The own SVID would be refused by every peer.
    #[error("host: every peer would refuse this SVID as follows: {0}")]
    Svid(#[source] IdentityFault),
}

/// The credentials of one device process, judged when they were loaded.
///
/// The PEM and DER forms of the key are wiped here. The copy that `ring` signs with lives as long as
/// the credentials do, and a device process can't be dumped or traced.
#[derive(Clone)]
pub struct Credentials {
    pub(crate) id: SpiffeId,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) certified: Arc<SingleCertAndKey>,
    pub(crate) roots: Arc<[TrustAnchor<'static>]>,
}

impl Credentials {
    /// Loads the credentials of the device process of `vm` from PEM: its SVID followed by the
    /// intermediates, the SVID's key, and the roots to trust. They are judged at `wall`.
    ///
    /// # Errors
    /// Each says which of the three is wrong; [`CredentialError::Svid`] is what the peers would
    /// find: expired, another VM's, a service's, of another CA.
    pub fn load(
        domain: TrustDomain,
        vm: VmName,
        chain: &[u8],
        key: &Zeroizing<Vec<u8>>,
        bundle: &[u8],
        wall: SystemTime,
    ) -> Result<Self, CredentialError> {
        let chain = certificates(chain).ok_or(CredentialError::Chain)?;
        let roots = certificates(bundle)
            .filter(|roots| roots.len() <= MAX_TRUST_ANCHORS)
            .and_then(|roots| roots.iter().map(anchor).collect::<Option<Arc<[_]>>>())
            .ok_or(CredentialError::Bundle)?;

        let (leaf, issuers) = chain.split_first().ok_or(CredentialError::Chain)?;
        let wanted = Wanted {
            domain,
            vm: Some(vm),
        };
        for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
            identity::verify(leaf, issuers, &roots, wanted, usage, unix_time(wall))
                .map_err(CredentialError::Svid)?;
        }

        let mut der = PrivateKeyDer::from_pem_slice(key).map_err(|_| CredentialError::Key)?;
        let signing = any_ecdsa_type(&der);
        der.zeroize();
        let certified = CertifiedKey::new(chain, signing.map_err(|_| CredentialError::Key)?);
        certified
            .keys_match()
            .map_err(|_| CredentialError::KeyMismatch)?;
        Ok(Self {
            id: SpiffeId {
                domain,
                subject: Subject::Device(vm),
            },
            provider: Arc::new(provider()),
            certified: Arc::new(SingleCertAndKey::from(certified)),
            roots,
        })
    }

    /// Whose credentials they are.
    #[must_use]
    pub const fn id(&self) -> SpiffeId {
        self.id
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.id)
    }
}

/// All certificates of a PEM text; none if there is no certificate, or one can't be read.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .ok()?;
    (!all.is_empty()).then_some(all)
}

fn anchor(root: &CertificateDer<'static>) -> Option<TrustAnchor<'static>> {
    Some(anchor_from_trusted_cert(root).ok()?.to_owned())
}
