//! SVIDs, right and wrong.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sivshm_ca::authority::{INTERMEDIATE, INTERMEDIATE_KEY};
use sivshm_handshake::service::wire::{Accept, Chain, Confirm, Open, Signature};
use time::{Duration, OffsetDateTime};

/// A certificate chain, leaf first, and the leaf's key.
#[derive(Debug)]
pub struct Svid {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Svid {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl Svid {
    /// The one that the CA's tool issued to a device process, stolen from its directory.
    pub fn of_device(vm: &Path) -> Self {
        Self::read(vm, "device")
    }

    /// The one that was issued to a service, stolen in the same way.
    pub fn of_service(vm: &Path, service: &str) -> Self {
        Self::read(&vm.join("svc"), service)
    }

    /// NAME.pem and NAME.key of a directory.
    pub fn read(folder: &Path, name: &str) -> Self {
        let file = |suffix| folder.join(format!("{name}.{suffix}"));
        let chain = CertificateDer::pem_file_iter(file("pem")).unwrap();
        Self {
            chain: chain.collect::<Result<_, _>>().unwrap(),
            key: PrivateKeyDer::from_pem_file(file("key")).unwrap(),
        }
    }

    /// Signs an `open` as it is, in place of whoever has.
    pub fn sign_open(&self, open: &mut Open) {
        open.chain = Chain::new(self.chain.clone()).unwrap();
        open.body.chain = open.chain.hash();
        open.signature = self.signature(&open.body.to_bytes());
    }

    /// The same for an `accept`; its MAC is as it was.
    pub fn sign_accept(&self, accept: &mut Accept) {
        accept.chain = Chain::new(self.chain.clone()).unwrap();
        accept.body.chain = accept.chain.hash();
        accept.signature = self.signature(&accept.body.to_bytes());
    }

    /// The same for a `confirm`.
    pub fn sign_confirm(&self, confirm: &mut Confirm) {
        confirm.signature = self.signature(&confirm.body.to_bytes());
    }

    fn signature(&self, bytes: &[u8]) -> Signature {
        let key = any_ecdsa_type(&self.key).unwrap();
        let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
        Signature::new(signer.unwrap().sign(bytes).unwrap()).unwrap()
    }
}

/// Somebody who signs whatever is wanted.
pub struct Signer {
    intermediate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Signer {
    /// With the key of the deployment's own CA.
    pub fn of_domain(ca: &Path) -> Self {
        let intermediate = CertificateDer::from_pem_file(ca.join(INTERMEDIATE)).unwrap();
        let key = std::fs::read(ca.join(INTERMEDIATE_KEY)).unwrap();
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key)).unwrap();
        Self {
            issuer: Issuer::from_ca_cert_der(&intermediate, key).unwrap(),
            intermediate,
        }
    }

    /// With a key of its own, under the same name as the deployment's CA.
    pub fn of_same_name(ca: &Path) -> Self {
        let real = CertificateDer::from_pem_file(ca.join(INTERMEDIATE)).unwrap();
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_ca_cert_der(&real, key).unwrap();
        Self {
            intermediate: real,
            issuer,
        }
    }

    /// Another CA.
    pub fn stranger() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "other");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            intermediate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A leaf for these names that is valid between these days from now.
    pub fn sign(&self, names: &[&str], days: (i64, i64)) -> Svid {
        let at = |days| OffsetDateTime::now_utc() + Duration::days(days);
        let uri = |name: &&str| SanType::URI((*name).try_into().unwrap());
        let mut params = CertificateParams::default();
        params.not_before = at(days.0);
        params.not_after = at(days.1);
        params.subject_alt_names = names.iter().map(uri).collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Svid {
            chain: vec![leaf.der().clone(), self.intermediate.clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }
}
