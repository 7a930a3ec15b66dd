//! Certificates, right and wrong.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::{TrustDomain, VmName};
use time::OffsetDateTime;
use webpki::anchor_from_trusted_cert;
use zeroize::Zeroizing;

use crate::identity::IdentityFault;
use crate::tls::provider;
use crate::{CredentialError, Credentials};

/// A second in 2027.
const NOW: i64 = 1_800_000_000;

const DAY: i64 = 24 * 60 * 60;

pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs())
}

pub(super) fn domain() -> TrustDomain {
    TrustDomain::new("car.example").unwrap()
}

pub(super) fn vm(name: &str) -> VmName {
    VmName::new(name).unwrap()
}

/// A root and an intermediate.
pub(super) struct Ca {
    root: String,
    pub(super) intermediate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What to put into a leaf.
pub(super) struct Leaf {
    pub(super) names: Vec<SanType>,
    /// Days from now, from and to.
    pub(super) days: (i64, i64),
    pub(super) is_ca: IsCa,
    pub(super) usages: Vec<KeyUsagePurpose>,
    pub(super) purposes: Vec<ExtendedKeyUsagePurpose>,
}

pub(super) fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

pub(super) fn device(vm: &str) -> SanType {
    uri(&format!("spiffe://car.example/vm/{vm}/device"))
}

impl Leaf {
    pub(super) fn new(name: SanType) -> Self {
        Self {
            names: vec![name],
            days: (-1, 1),
            is_ca: IsCa::NoCa,
            usages: vec![KeyUsagePurpose::DigitalSignature],
            purposes: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        }
    }
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
pub(super) struct Svid {
    pub(super) chain: String,
    pub(super) key: Zeroizing<Vec<u8>>,
}

impl Ca {
    pub(super) fn new(name: &str) -> Self {
        let root_params = ca_params(&format!("{name} root"), 1);
        let root_key = KeyPair::generate().unwrap();
        let root = root_params.self_signed(&root_key).unwrap().pem();
        let root_issuer = Issuer::new(root_params, root_key);
        let params = ca_params(&format!("{name} intermediate"), 0);
        let key = KeyPair::generate().unwrap();
        let intermediate = params.signed_by(&key, &root_issuer).unwrap().pem();
        Self {
            root,
            intermediate,
            issuer: Issuer::new(params, key),
        }
    }

    pub(super) fn issue(&self, leaf: Leaf) -> Svid {
        let mut params = params("leaf", leaf.days);
        params.subject_alt_names = leaf.names;
        params.is_ca = leaf.is_ca;
        params.key_usages = leaf.usages;
        params.extended_key_usages = leaf.purposes;
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().pem();
        Svid {
            chain: leaf + &self.intermediate,
            key: Zeroizing::new(key.serialize_pem().into_bytes()),
        }
    }

    /// Credentials of an honest device process.
    pub(super) fn device(&self, name: &str) -> Credentials {
        self.load(name, &self.issue(Leaf::new(device(name))))
            .unwrap()
    }

    pub(super) fn load(&self, name: &str, svid: &Svid) -> Result<Credentials, CredentialError> {
        let (chain, bundle) = (svid.chain.as_bytes(), self.root.as_bytes());
        Credentials::load(domain(), vm(name), chain, &svid.key, bundle, now())
    }

    /// Credentials that nobody checked when they were loaded, as an impostor's are: the leaf is
    /// whatever it is, and this CA's root is trusted.
    pub(super) fn forge(&self, svid: &Svid) -> Credentials {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(svid.chain.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap();
        let root = CertificateDer::from_pem_slice(self.root.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&svid.key).unwrap();
        let certified = CertifiedKey::new(chain, any_ecdsa_type(&key).unwrap());
        Credentials {
            id: SpiffeId {
                domain: domain(),
                subject: Subject::Device(vm("impostor")),
            },
            provider: Arc::new(provider()),
            certified: Arc::new(SingleCertAndKey::from(certified)),
            roots: [anchor_from_trusted_cert(&root).unwrap().to_owned()].into(),
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
        IdentityFault::OtherVm {
            got: vm("b"),
            want: vm("a")
        }
    );
    let foreign = Ca::new("other").issue(Leaf::new(device("a")));
    assert_eq!(
        ca.load("a", &foreign).map(drop),
        Err(CredentialError::Svid(IdentityFault::Untrusted(
            webpki::Error::UnknownIssuer
        )))
    );
}
