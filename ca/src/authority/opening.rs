//! Opening a CA: only if nobody else can reach its keys and its files belong together.

use std::fs;
use std::path::Path;

use rcgen::{Issuer, PublicKeyData};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use sivshm_abi::identity::SCHEME;
use sivshm_abi::name::TrustDomain;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;
use x509_parser::{parse_x509_certificate, parse_x509_crl};
use zeroize::Zeroizing;

use super::{Authority, AuthorityError, BUNDLE, INTERMEDIATE, INTERMEDIATE_KEY, LEDGER, ROOT_CRL};
use crate::files::{self, Context, PRIVATE};
use crate::key::Key;
use crate::ledger::Ledger;
use crate::profile::{Serial, Validity};

impl Authority {
    /// Opens the CA at `dir`, after checking that only its owner can reach its keys and that its
    /// files belong together.
    ///
    /// # Errors
    /// A file is missing, too open, or not what `init` wrote.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        private(dir, files::PRIVATE_DIR)?;
        let root_path = dir.join(BUNDLE);
        let (_, root_der) = certificate(&root_path)?;
        let root = parse(&root_der, &root_path)?;

        let path = dir.join(INTERMEDIATE);
        let (pem, der) = certificate(&path)?;
        let intermediate = parse(&der, &path)?;
        let damaged = |what| AuthorityError::Damaged {
            path: path.clone(),
            what,
        };
        let signature = &intermediate.signature_value.data;
        signed(intermediate.tbs_certificate.as_ref(), signature, &root)
            .ok_or_else(|| damaged("is not signed by the root"))?;
        let domain = domain_of(&intermediate).ok_or_else(|| damaged("names no trust domain"))?;
        let serial = Serial::from_der(intermediate.raw_serial())
            .ok_or_else(|| damaged("has no serial number of this CA"))?;
        let validity = Validity {
            not_before: intermediate.validity().not_before.to_datetime(),
            not_after: intermediate.validity().not_after.to_datetime(),
        };

        let key_path = dir.join(INTERMEDIATE_KEY);
        private(&key_path, PRIVATE)?;
        let pkcs8 = Zeroizing::new(fs::read(&key_path).context("read", &key_path)?);
        let key = Key::from_pkcs8(pkcs8)?;
        if key.subject_public_key_info() != intermediate.public_key().raw {
            return Err(damaged("does not belong to the key beside it"));
        }
        let root_crl = revocation_list(&dir.join(ROOT_CRL), &root)?;
        Ok(Self {
            dir: dir.to_owned(),
            domain,
            serial,
            validity,
            issuer: Issuer::from_ca_cert_der(&der, key)?,
            chain: pem,
            root_crl,
            ledger: Ledger::open(&dir.join(LEDGER))?,
        })
    }
}

/// Refuses a path that more than its owner can reach.
fn private(path: &Path, want: u32) -> Result<(), AuthorityError> {
    let mode = files::mode(path)?;
    if mode & !want == 0 {
        return Ok(());
    }
    Err(AuthorityError::Exposed {
        path: path.to_owned(),
        mode,
        want,
    })
}

/// The text of a certificate file and the certificate in it.
fn certificate(path: &Path) -> Result<(String, CertificateDer<'static>), AuthorityError> {
    let pem = fs::read_to_string(path).context("read", path)?;
    match CertificateDer::from_pem_slice(pem.as_bytes()) {
        Ok(der) => Ok((pem, der)),
        Err(_) => Err(AuthorityError::Damaged {
            path: path.to_owned(),
            what: "holds no certificate in PEM form",
        }),
    }
}

fn parse<'a>(
    der: &'a CertificateDer<'_>,
    path: &Path,
) -> Result<X509Certificate<'a>, AuthorityError> {
    match parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(AuthorityError::Damaged {
            path: path.to_owned(),
            what: "holds no X.509 certificate",
        }),
    }
}

/// The text of the root's revocation list.
fn revocation_list(path: &Path, root: &X509Certificate<'_>) -> Result<String, AuthorityError> {
    let damaged = |what| AuthorityError::Damaged {
        path: path.to_owned(),
        what,
    };
    let pem = fs::read_to_string(path).context("read", path)?;
    let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes());
    let der = der.map_err(|_| damaged("holds no CRL in PEM form"))?;
    match parse_x509_crl(&der) {
        Ok(([], list)) => signed(
            list.tbs_cert_list.as_ref(),
            &list.signature_value.data,
            root,
        )
        .ok_or_else(|| damaged("is not signed by the root"))?,
        _ => return Err(damaged("holds no X.509 CRL")),
    }
    Ok(pem)
}

/// `signature` over `content` is valid under `signer`'s key.
fn signed(content: &[u8], signature: &[u8], signer: &X509Certificate<'_>) -> Option<()> {
    let key = &signer.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(content, signature)
        .ok()
}

/// The trust domain that a signing certificate names in its one URI.
fn domain_of(certificate: &X509Certificate<'_>) -> Option<TrustDomain> {
    let names = certificate.subject_alternative_name().ok().flatten()?;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => TrustDomain::new(uri.strip_prefix(SCHEME)?).ok(),
        _ => None,
    }
}
