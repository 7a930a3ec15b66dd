//! Signatures by the keys of SVIDs.

use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;
use webpki::{EndEntityCert, Error};

use super::fault::{Proof, ServiceFault};
use super::wire::{Chain, Signature};
use crate::credentials::Credentials;
use crate::tls::SIGNATURES;

/// What a key signs with: the scheme of its curve.
const SCHEMES: &[SignatureScheme] = &[
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
];

/// Signs with the key of the own SVID.
pub(super) fn sign(credentials: &Credentials, bytes: &[u8]) -> Result<Signature, ServiceFault> {
    let signer = credentials.certified.key.choose_scheme(SCHEMES);
    let signature = signer.and_then(|signer| signer.sign(bytes).ok());
    signature
        .and_then(|signature| Signature::new(signature).ok())
        .ok_or(ServiceFault::Crypto)
}

/// The own SVID's chain.
pub(super) fn own_chain(credentials: &Credentials) -> Result<Chain, ServiceFault> {
    Ok(Chain::new(credentials.certified.cert.clone())?)
}

/// Verifies a signature by the key of a leaf certificate.
pub(super) fn verify(leaf: &[u8], bytes: &[u8], signature: &Signature) -> Result<(), Proof> {
    let leaf = CertificateDer::from(leaf);
    let leaf = EndEntityCert::try_from(&leaf).map_err(|_| Proof::Signature)?;
    // Each algorithm is for one curve; that of another is skipped.
    SIGNATURES
        .all
        .iter()
        .map(|algorithm| leaf.verify_signature(*algorithm, bytes, signature.as_bytes()))
        .find(|result| {
            !matches!(
                result,
                Err(Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_))
            )
        })
        .and_then(Result::ok)
        .ok_or(Proof::Signature)
}
