//! Certificates, right and wrong.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::{TrustDomain, VmName};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::identity::{IdentityFault, Party, other};
use crate::tls::provider;
use crate::trust::Trust;
use crate::{CredentialError, Credentials};

/// A second in 2027.
const NOW: i64 = 1_800_000_000;

const DAY: i64 = 24 * 60 * 60;

pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs())
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new("car.example").unwrap()
}

pub(crate) fn vm(name: &str) -> VmName {
    VmName::new(name).unwrap()
}

/// A root and an intermediate.
pub(crate) struct Ca {
    pub(crate) root: String,
    pub(crate) intermediate: String,
    root_issuer: Issuer<'static, KeyPair>,
    issuer: Issuer<'static, KeyPair>,
}

/// What to put into a leaf.
pub(crate) struct Leaf {
    pub(crate) names: Vec<SanType>,
    /// Days from now, from and to.
    pub(crate) days: (i64, i64),
    pub(crate) is_ca: IsCa,
    pub(crate) usages: Vec<KeyUsagePurpose>,
    pub(crate) purposes: Vec<ExtendedKeyUsagePurpose>,
    /// Serial number; any if absent.
    pub(crate) serial: Option<u64>,
    pub(crate) algorithm: &'static SignatureAlgorithm,
}

pub(crate) fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

pub(crate) fn device(vm: &str) -> SanType {
    uri(&format!("spiffe://car.example/vm/{vm}/device"))
}

pub(crate) fn service(vm: &str, service: &str) -> SanType {
    uri(&format!("spiffe://car.example/vm/{vm}/svc/{service}"))
}

impl Leaf {
    pub(crate) fn new(name: SanType) -> Self {
        Self {
            names: vec![name],
            days: (-1, 1),
            is_ca: IsCa::NoCa,
            usages: vec![KeyUsagePurpose::DigitalSignature],
            purposes: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            serial: None,
            algorithm: &PKCS_ECDSA_P256_SHA256,
        }
    }
}

/// Serial number of every intermediate.
pub(crate) const INTERMEDIATE: u64 = 1 << 40;

fn crl(issuer: &Issuer<'_, KeyPair>, number: u64, serials: &[u64], days: i64) -> String {
    let at = |days| OffsetDateTime::from_unix_timestamp(NOW + days * DAY).unwrap();
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: at(-1),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: at(-2),
        next_update: at(days),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().pem().unwrap()
}

fn params(name: &str, days: (i64, i64)) -> CertificateParams {
    let at = |days| OffsetDateTime::from_unix_timestamp(NOW + days * DAY).unwrap();
    let mut params = CertificateParams::default();
    params.not_before = at(days.0);
    params.not_after = at(days.1);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn ca_params(name: &str, path: u8) -> CertificateParams {
    let mut params = params(name, (-10, 10));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A leaf with its key, in PEM.
pub(crate) struct Svid {
    pub(crate) chain: String,
    pub(crate) key: Zeroizing<Vec<u8>>,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let root_params = ca_params(&format!("{name} root"), 1);
        let root_key = KeyPair::generate().unwrap();
        let root = root_params.self_signed(&root_key).unwrap().pem();
        let root_issuer = Issuer::new(root_params, root_key);
        let mut params = ca_params(&format!("{name} intermediate"), 0);
        params.serial_number = Some(SerialNumber::from(INTERMEDIATE));
        let key = KeyPair::generate().unwrap();
        let intermediate = params.signed_by(&key, &root_issuer).unwrap().pem();
        Self {
            root,
            intermediate,
            root_issuer,
            issuer: Issuer::new(params, key),
        }
    }

    /// The root's revocation list and the intermediate's, good for so many days from now.
    pub(crate) fn crls(&self, intermediates: &[u64], leaves: &[u64], days: i64) -> String {
        let root = crl(&self.root_issuer, 1, intermediates, days);
        root + &self.crl(leaves, days)
    }

    /// The root's revocation list, and that of the intermediate with a number.
    pub(crate) fn edition(&self, number: u64, leaves: &[u64]) -> String {
        crl(&self.root_issuer, 1, &[], 1) + &crl(&self.issuer, number, leaves, 1)
    }

    /// The intermediate's alone.
    pub(crate) fn crl(&self, leaves: &[u64], days: i64) -> String {
        crl(&self.issuer, 1, leaves, days)
    }

    /// Credentials of an honest service.
    pub(crate) fn service(&self, vm: &str, name: &str) -> Credentials {
        self.load_service(&self.issue(Leaf::new(service(vm, name))))
            .unwrap()
    }

    pub(crate) fn load_service(&self, svid: &Svid) -> Result<Credentials, CredentialError> {
        let (chain, bundle) = (svid.chain.as_bytes(), self.root.as_bytes());
        Credentials::load_service(chain, &svid.key, bundle, now())
    }

    pub(crate) fn issue(&self, leaf: Leaf) -> Svid {
        let mut params = params("leaf", leaf.days);
        params.subject_alt_names = leaf.names;
        params.is_ca = leaf.is_ca;
        params.key_usages = leaf.usages;
        params.extended_key_usages = leaf.purposes;
        params.serial_number = leaf.serial.map(SerialNumber::from);
        let key = KeyPair::generate_for(leaf.algorithm).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().pem();
        Svid {
            chain: leaf + &self.intermediate,
            key: Zeroizing::new(key.serialize_pem().into_bytes()),
        }
    }

    /// Credentials of an honest device process.
    pub(crate) fn device(&self, name: &str) -> Credentials {
        self.load(name, &self.issue(Leaf::new(device(name))))
            .unwrap()
    }

    pub(crate) fn load(&self, name: &str, svid: &Svid) -> Result<Credentials, CredentialError> {
        let (chain, bundle) = (svid.chain.as_bytes(), self.root.as_bytes());
        Credentials::load(domain(), vm(name), chain, &svid.key, bundle, now())
    }

    /// Credentials that nobody checked when they were loaded, as an impostor's are: the leaf is
    /// whatever it is, and this CA's root is trusted.
    pub(crate) fn forge(&self, svid: &Svid) -> Credentials {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(svid.chain.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap();
        let key = PrivateKeyDer::from_pem_slice(&svid.key).unwrap();
        Credentials {
            id: SpiffeId {
                domain: domain(),
                subject: Subject::Device(vm("impostor")),
            },
            provider: Arc::new(provider()),
            certified: Arc::new(CertifiedKey::new(chain, any_ecdsa_type(&key).unwrap())),
            trust: Trust::from_bundle(self.root.as_bytes()).unwrap(),
            not_after: now(),
            known: Arc::default(),
        }
    }
}

#[test]
fn credentials_say_what_is_wrong_with_them() {
    let ca = Ca::new("car");
    let good = ca.issue(Leaf::new(device("a")));
    let other = ca.issue(Leaf::new(device("a")));
    let load = |chain: &str, key: &Zeroizing<Vec<u8>>, bundle: &str| {
        let (chain, bundle) = (chain.as_bytes(), bundle.as_bytes());
        Credentials::load(domain(), vm("a"), chain, key, bundle, now()).map(drop)
    };
    let nothing = Zeroizing::new(Vec::new());

    assert_eq!(load(&good.chain, &good.key, &ca.root), Ok(()));
    assert_eq!(load("", &good.key, &ca.root), Err(CredentialError::Chain));
    assert_eq!(
        load(&good.chain, &nothing, &ca.root),
        Err(CredentialError::Key)
    );
    assert_eq!(
        load(&good.chain, &good.key, ""),
        Err(CredentialError::Bundle)
    );
    assert_eq!(
        load(&good.chain, &good.key, &ca.root.repeat(17)),
        Err(CredentialError::Bundle)
    );
    assert_eq!(
        load(&good.chain, &other.key, &ca.root),
        Err(CredentialError::KeyMismatch)
    );
}

#[test]
fn an_svid_that_peers_would_refuse_is_not_loaded() {
    let ca = Ca::new("car");
    let refused = |leaf| match ca.load("a", &ca.issue(leaf)).unwrap_err() {
        CredentialError::Svid(fault) => fault,
        other => panic!("{other}"),
    };
    let old = Leaf {
        days: (-3, -2),
        ..Leaf::new(device("a"))
    };
    assert_eq!(refused(old), IdentityFault::Expired);
    assert_eq!(
        refused(Leaf::new(device("b"))),
        other(Subject::Device(vm("b")), Party::Device(vm("a")))
    );
    let foreign = Ca::new("other").issue(Leaf::new(device("a")));
    assert_eq!(
        ca.load("a", &foreign).map(drop),
        Err(CredentialError::Svid(IdentityFault::Untrusted(
            webpki::Error::UnknownIssuer
        )))
    );
}
