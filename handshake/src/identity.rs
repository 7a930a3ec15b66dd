//! Whether a certificate is the SVID of the party that it has to be (DESIGN section 12,
//! `docs/identity.md`).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, UnixTime};
use sivshm_abi::identity::{BadSpiffeId, SpiffeId, Subject};
use sivshm_abi::name::{ServiceName, TrustDomain, VmName};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::limits::{MAX_CERTIFICATE_BYTES, MAX_CHAIN_CERTIFICATES};
use crate::trust::Trust;

/// Why a certificate is not the SVID that it has to be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdentityFault {
    /// None was presented.
    #[error("peer: it presents no certificate; issue an SVID for it")]
    Missing,
    /// More certificates, or longer ones, than a chain may have.
    #[error(
        "peer: its chain has {certificates} certificates, the longest of {bytes} bytes: at most {MAX_CHAIN_CERTIFICATES} of {MAX_CERTIFICATE_BYTES}"
    )]
    TooLong {
        /// Certificates.
        certificates: usize,
        /// Bytes of the longest.
        bytes: usize,
    },
    /// Its time is over.
    #[error("peer: its SVID, or an issuer's certificate, has expired; issue a new one")]
    Expired,
    /// Its time has not begun.
    #[error("peer: its SVID, or an issuer's certificate, is not valid yet; check the clock")]
    NotYetValid,
    /// No path from it to a root of the trust bundle.
    #[error(
        "peer: its SVID does not lead to a root of the trust bundle ({0}); check that one CA issued both"
    )]
    Untrusted(webpki::Error),
    /// An extension is not as X509-SVID has it.
    #[error("peer: its certificate is no SVID: {0}")]
    Profile(&'static str),
    /// The one name in it is no SPIFFE ID.
    #[error("peer: the name in its certificate is no SPIFFE ID of SIVSHM: {0}")]
    Name(BadSpiffeId),
    /// Another trust domain's.
    #[error("peer: its SVID is of another trust domain, `{0}`")]
    Domain(TrustDomain),
    /// It, or an issuer's certificate, was withdrawn.
    #[error("peer: its SVID, or an issuer's certificate, is on the revocation list")]
    Revoked,
    /// The revocation lists don't say whether it was.
    #[error(
        "host: the revocation lists don't cover its SVID or an issuer's certificate ({0}); renew them"
    )]
    Status(webpki::Error),
    /// Somebody else's.
    #[error("peer: its SVID is that of {}, not of {}", Party::from(.0.got), .0.want)]
    Other(Box<Other>),
}

/// Whose SVID it is, and whose it had to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Other {
    /// The SVID's.
    pub got: Subject,
    /// The one that it had to be.
    pub want: Party,
}

/// Who a party has to be, within the trust domain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Party {
    /// The device process of any VM.
    AnyDevice,
    /// The device process of this VM.
    Device(VmName),
    /// Any service in any VM.
    AnyService,
    /// This service in this VM.
    Service(VmName, ServiceName),
}

impl Party {
    fn is(self, subject: Subject) -> bool {
        match self {
            Self::AnyDevice => matches!(subject, Subject::Device(_)),
            Self::AnyService => matches!(subject, Subject::Service(..)),
            party => party == Self::from(subject),
        }
    }
}

impl From<Subject> for Party {
    fn from(subject: Subject) -> Self {
        match subject {
            Subject::Device(vm) => Self::Device(vm),
            Subject::Service(vm, service) => Self::Service(vm, service),
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyDevice => f.write_str("a device process"),
            Self::AnyService => f.write_str("a service"),
            Self::Device(vm) => write!(f, "the device process of VM `{vm}`"),
            Self::Service(vm, service) => write!(f, "service `{service}` in VM `{vm}`"),
        }
    }
}

/// Evidence that a chain is the SVID of a party of this trust domain. It says nothing about who
/// presented it. Made by [`verify`] and by nothing else.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct VerifiedIdentity {
    id: SpiffeId,
    /// The leaf first.
    chain: Arc<[CertificateDer<'static>]>,
    not_after: SystemTime,
}

impl VerifiedIdentity {
    pub(crate) const fn id(&self) -> SpiffeId {
        self.id
    }

    pub(crate) const fn vm(&self) -> VmName {
        match self.id.subject {
            Subject::Device(vm) | Subject::Service(vm, _) => vm,
        }
    }

    /// The last second at which every certificate of the chain is valid.
    pub(crate) const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The SVID's own certificate.
    pub(crate) fn leaf(&self) -> &[u8] {
        self.chain.first().map_or(&[], |leaf| leaf.as_ref())
    }

    /// Judges the chain again, by other roots, revocation lists and time.
    pub(crate) fn revalidate(&self, trust: &Trust, now: UnixTime) -> Result<(), IdentityFault> {
        let (leaf, issuers) = self.chain.split_first().ok_or(IdentityFault::Missing)?;
        let party = self.id.subject.into();
        let usage = KeyUsage::client_auth();
        verify(leaf, issuers, trust, self.id.domain, party, usage, now).map(drop)
    }
}

/// Judges a chain, the leaf first: X.509's path validation by `webpki`, then SPIFFE's rules. The
/// leaf is parsed a second time only after a trusted issuer has vouched for its bytes.
pub(crate) fn verify(
    leaf: &CertificateDer<'_>,
    issuers: &[CertificateDer<'_>],
    trust: &Trust,
    domain: TrustDomain,
    want: Party,
    usage: KeyUsage,
    now: UnixTime,
) -> Result<VerifiedIdentity, IdentityFault> {
    let bytes = issuers.iter().chain([leaf]).map(|der| der.len()).max();
    let (certificates, bytes) = (1 + issuers.len(), bytes.unwrap_or_default());
    if certificates > MAX_CHAIN_CERTIFICATES || bytes > MAX_CERTIFICATE_BYTES {
        return Err(IdentityFault::TooLong {
            certificates,
            bytes,
        });
    }
    let not_after = path(leaf, issuers, trust, usage, now).map_err(|error| match error {
        webpki::Error::CertExpired { .. } => IdentityFault::Expired,
        webpki::Error::CertNotValidYet { .. } => IdentityFault::NotYetValid,
        webpki::Error::CertRevoked => IdentityFault::Revoked,
        webpki::Error::UnknownRevocationStatus | webpki::Error::CrlExpired { .. } => {
            IdentityFault::Status(error)
        }
        error => IdentityFault::Untrusted(error),
    })?;
    let id = svid(leaf)?;
    if id.domain != domain {
        return Err(IdentityFault::Domain(id.domain));
    }
    if !want.is(id.subject) {
        return Err(other(id.subject, want));
    }
    let chain = [leaf].into_iter().chain(issuers);
    Ok(VerifiedIdentity {
        id,
        chain: chain.map(|der| der.clone().into_owned()).collect(),
        not_after,
    })
}

pub(crate) fn other(got: Subject, want: Party) -> IdentityFault {
    IdentityFault::Other(Box::new(Other { got, want }))
}

/// Finds a path from the leaf to a root, and says when the first certificate of it ends.
fn path(
    leaf: &CertificateDer<'_>,
    issuers: &[CertificateDer<'_>],
    trust: &Trust,
    usage: KeyUsage,
    now: UnixTime,
) -> Result<SystemTime, webpki::Error> {
    let end_entity = EndEntityCert::try_from(leaf)?;
    let path = trust.path(&end_entity, issuers, usage, now)?;
    path.intermediate_certificates()
        .map(|issuer| issuer.der())
        .try_fold(end(leaf)?, |first, issuer| Ok(first.min(end(&issuer)?)))
}

/// The last second of a certificate's life.
fn end(certificate: &[u8]) -> Result<SystemTime, webpki::Error> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| webpki::Error::BadDer)?;
    u64::try_from(certificate.validity().not_after.timestamp())
        .map(|end| SystemTime::UNIX_EPOCH + Duration::from_secs(end))
        .map_err(|_| webpki::Error::BadDerTime)
}

/// Reads the SPIFFE ID of a leaf certificate that keeps to X509-SVID's rules. It proves nothing: that
/// is [`verify`]'s.
pub(crate) fn svid(leaf: &[u8]) -> Result<SpiffeId, IdentityFault> {
    use IdentityFault::Profile;
    let (_, leaf) =
        X509Certificate::from_der(leaf).map_err(|_| Profile("it is not well-formed"))?;

    let constraints = leaf
        .basic_constraints()
        .map_err(|_| Profile("basicConstraints is not well-formed"))?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(Profile("it is a CA's"));
    }

    let usage = leaf
        .key_usage()
        .map_err(|_| Profile("keyUsage is not well-formed"))?
        .filter(|usage| usage.critical)
        .ok_or(Profile("it has no critical keyUsage"))?
        .value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(Profile("keyUsage has no digitalSignature, or a CA's usage"));
    }

    let usage = leaf
        .extended_key_usage()
        .map_err(|_| Profile("extKeyUsage is not well-formed"))?
        .ok_or(Profile("it has no extKeyUsage"))?
        .value;
    if !usage.client_auth || !usage.server_auth {
        return Err(Profile("extKeyUsage is not both serverAuth and clientAuth"));
    }

    let names = leaf
        .subject_alternative_name()
        .map_err(|_| Profile("subjectAltName is not well-formed"))?
        .ok_or(Profile("it has no subjectAltName"))?
        .value;
    match names.general_names.as_slice() {
        [GeneralName::URI(uri)] => SpiffeId::parse(uri).map_err(IdentityFault::Name),
        _ => Err(Profile("subjectAltName is not exactly one URI")),
    }
}
