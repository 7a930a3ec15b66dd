//! Whether a certificate is the SVID of a device process (DESIGN section 12, `docs/identity.md`).

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sivshm_abi::identity::{BadSpiffeId, SpiffeId, Subject};
use sivshm_abi::name::{ServiceName, TrustDomain, VmName};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::limits::{MAX_CERTIFICATE_BYTES, MAX_CHAIN_CERTIFICATES};
use crate::tls::SIGNATURES;

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
    /// A service's.
    #[error("peer: its SVID is that of service `{service}` in VM `{vm}`, not of a device process")]
    Service {
        /// The VM.
        vm: VmName,
        /// The service.
        service: ServiceName,
    },
    /// Another VM's.
    #[error("peer: its SVID is that of VM `{got}`, not of `{want}`")]
    OtherVm {
        /// The SVID's.
        got: VmName,
        /// The one that was dialed.
        want: VmName,
    },
}

/// Whose SVID it has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) domain: TrustDomain,
    /// Any VM's if absent.
    pub(crate) vm: Option<VmName>,
}

/// Evidence that a certificate is the SVID of the device process of a VM of this trust domain.
/// Made by [`verify`] and by nothing else.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct VerifiedIdentity {
    domain: TrustDomain,
    vm: VmName,
}

impl VerifiedIdentity {
    pub(crate) const fn vm(&self) -> VmName {
        self.vm
    }

    pub(crate) const fn id(&self) -> SpiffeId {
        SpiffeId {
            domain: self.domain,
            subject: Subject::Device(self.vm),
        }
    }
}

/// Judges a chain, the leaf first: X.509's path validation by `webpki`, then SPIFFE's rules. The
/// leaf is parsed a second time only after a trusted issuer has vouched for its bytes.
pub(crate) fn verify(
    leaf: &CertificateDer<'_>,
    issuers: &[CertificateDer<'_>],
    roots: &[TrustAnchor<'_>],
    wanted: Wanted,
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
    EndEntityCert::try_from(leaf)
        .and_then(|leaf| {
            leaf.verify_for_usage(SIGNATURES.all, roots, issuers, now, usage, None, None)
                .map(drop)
        })
        .map_err(|error| match error {
            webpki::Error::CertExpired { .. } => IdentityFault::Expired,
            webpki::Error::CertNotValidYet { .. } => IdentityFault::NotYetValid,
            error => IdentityFault::Untrusted(error),
        })?;
    let SpiffeId { domain, subject } = svid(leaf)?;
    if domain != wanted.domain {
        return Err(IdentityFault::Domain(domain));
    }
    match (subject, wanted.vm) {
        (Subject::Service(vm, service), _) => Err(IdentityFault::Service { vm, service }),
        (Subject::Device(got), Some(want)) if got != want => {
            Err(IdentityFault::OtherVm { got, want })
        }
        (Subject::Device(vm), _) => Ok(VerifiedIdentity { domain, vm }),
    }
}

/// Reads the SPIFFE ID of a leaf certificate that keeps to X509-SVID's rules.
fn svid(leaf: &[u8]) -> Result<SpiffeId, IdentityFault> {
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
