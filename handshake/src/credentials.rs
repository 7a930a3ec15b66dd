//! What a device process or a service authenticates with: its SVID, its key, the trust bundle and
//! the revocation lists.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::{TrustDomain, VmName};
use webpki::KeyUsage;
use zeroize::{Zeroize, Zeroizing};

use crate::edition::EditionFault;
use crate::identity::{self, IdentityFault, Party};
use crate::known::Known;
use crate::limits::{MAX_CHAIN_CERTIFICATES, MAX_CRLS, MAX_TRUST_ANCHORS};
use crate::service::limits::MAX_CHAIN_BYTES;
use crate::service::wire::Chain;
use crate::tls::{provider, unix_time};
use crate::trust::Trust;

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
    /// The chain does not fit the messages of the service handshake.
    #[error(
        "host: the SVID's chain has more than {MAX_CHAIN_CERTIFICATES} certificates or {MAX_CHAIN_BYTES} bytes; use a shorter one"
    )]
    TooLong,
    /// The revocation lists can't be read.
    #[error("host: the revocation lists are not 1 to {MAX_CRLS} X.509 CRLs in PEM")]
    Crl,
    /// The revocation lists can't take the place of those in force.
    #[error(transparent)]
    Edition(#[from] EditionFault),
    /// The own SVID would be refused by every peer.
    #[error("host: every peer would refuse this SVID as follows: {0}")]
    Svid(#[source] IdentityFault),
}

/// The credentials of one party, judged when they were loaded.
///
/// The PEM and DER forms of the key are wiped here. The copy that `ring` signs with lives as long as
/// the credentials do and has no way out; a device process can't be dumped or traced.
#[derive(Clone)]
pub struct Credentials {
    pub(crate) id: SpiffeId,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) certified: Arc<CertifiedKey>,
    pub(crate) trust: Trust,
    pub(crate) not_after: SystemTime,
    /// What `trust` has found already; clones share it.
    pub(crate) known: Arc<Known>,
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
        let subject = Subject::Device(vm);
        Self::read(SpiffeId { domain, subject }, chain, key, bundle, wall)
    }

    /// Loads the credentials of a service, as [`Self::load`] does; the SVID says which service of
    /// which trust domain it is.
    ///
    /// # Errors
    /// As [`Self::load`]; also [`CredentialError::TooLong`].
    pub fn load_service(
        chain: &[u8],
        key: &Zeroizing<Vec<u8>>,
        bundle: &[u8],
        wall: SystemTime,
    ) -> Result<Self, CredentialError> {
        let certificates = certificates(chain).ok_or(CredentialError::Chain)?;
        let leaf = certificates.first().ok_or(CredentialError::Chain)?;
        // A chain to a root proves below that the name is the certificate's to bear.
        let id = identity::svid(leaf).map_err(CredentialError::Svid)?;
        if let Subject::Device(_) = id.subject {
            let fault = identity::other(id.subject, Party::AnyService);
            return Err(CredentialError::Svid(fault));
        }
        Chain::new(certificates).map_err(|_| CredentialError::TooLong)?;
        Self::read(id, chain, key, bundle, wall)
    }

    fn read(
        id: SpiffeId,
        chain: &[u8],
        key: &Zeroizing<Vec<u8>>,
        bundle: &[u8],
        wall: SystemTime,
    ) -> Result<Self, CredentialError> {
        let chain = certificates(chain).ok_or(CredentialError::Chain)?;
        let trust = Trust::from_bundle(bundle).ok_or(CredentialError::Bundle)?;
        let mut der = PrivateKeyDer::from_pem_slice(key).map_err(|_| CredentialError::Key)?;
        let signing = any_ecdsa_type(&der);
        der.zeroize();
        let certified = CertifiedKey::new(chain, signing.map_err(|_| CredentialError::Key)?);
        let not_after = judge(id, &certified.cert, &trust, wall)?;
        certified
            .keys_match()
            .map_err(|_| CredentialError::KeyMismatch)?;
        Ok(Self {
            id,
            provider: Arc::new(provider()),
            certified: Arc::new(certified),
            trust,
            not_after,
            known: Arc::default(),
        })
    }

    /// The same SVID, key and roots with other revocation lists: one or more CRLs in PEM. From then
    /// on a party is believed only if they cover every issuer of its chain, the own one included.
    ///
    /// # Errors
    /// [`CredentialError::Crl`] if they can't be read, [`CredentialError::Edition`] if there are two
    /// of an issuer, [`CredentialError::Svid`] if by them the own SVID is withdrawn, or its status
    /// unknown at `wall`.
    pub fn with_crl(&self, pem: &[u8], wall: SystemTime) -> Result<Self, CredentialError> {
        self.trusting(self.trust.with_crls(pem)?, wall)
    }

    /// As [`Self::with_crl`], for lists that take the place of those that these credentials have.
    ///
    /// # Errors
    /// As [`Self::with_crl`]; also [`CredentialError::Edition`] if one of them is older than a list
    /// of the same issuer that these credentials have, or have had.
    pub fn with_newer_crl(&self, pem: &[u8], wall: SystemTime) -> Result<Self, CredentialError> {
        self.trusting(self.trust.with_crls(pem)?.after(&self.trust)?, wall)
    }

    fn trusting(&self, trust: Trust, wall: SystemTime) -> Result<Self, CredentialError> {
        let not_after = judge(self.id, &self.certified.cert, &trust, wall)?;
        Ok(Self {
            trust,
            not_after,
            // What other lists have said counts no more.
            known: Arc::default(),
            ..self.clone()
        })
    }

    /// The last second at which the own SVID, and every issuer's certificate, is valid.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When there must be newer revocation lists, if there are any: from then on nobody is believed.
    #[must_use]
    pub const fn crl_next_update(&self) -> Option<SystemTime> {
        self.trust.next_update()
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

/// What every other party would find in the own SVID, and when it ends.
fn judge(
    id: SpiffeId,
    chain: &[CertificateDer<'_>],
    trust: &Trust,
    wall: SystemTime,
) -> Result<SystemTime, CredentialError> {
    let (leaf, issuers) = chain.split_first().ok_or(CredentialError::Chain)?;
    let now = unix_time(wall);
    let verify = |usage| {
        let party = id.subject.into();
        identity::verify(leaf, issuers, trust, id.domain, party, usage, now)
            .map_err(CredentialError::Svid)
    };
    verify(KeyUsage::client_auth())?;
    Ok(verify(KeyUsage::server_auth())?.not_after())
}

/// All certificates of a PEM text; none if there is no certificate, or one can't be read.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .ok()?;
    (!all.is_empty()).then_some(all)
}
