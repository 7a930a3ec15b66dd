//! ECDSA P-256 keys, as they are made, stored and used for signing.

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use zeroize::Zeroizing;

/// Bytes of key material that one line of a PEM file carries (RFC 7468: 64 characters of base64).
const PEM_LINE_BYTES: usize = 48;

/// A private key with its public half.
///
/// The PKCS#8 form is wiped on drop. ring's own copies (its key pair and the buffer it generates
/// into) are not: the process that holds them ends right after its one command.
pub struct Key {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    random: SystemRandom,
}

/// The host gave no randomness, or a stored key is not one that this CA makes.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The kernel's random source failed.
    #[error("the host's random source failed")]
    Random,
    /// A stored key could not be read.
    #[error("not an ECDSA P-256 key in PKCS#8 form ({0})")]
    Rejected(ring::error::KeyRejected),
}

impl Key {
    /// Makes a key.
    ///
    /// # Errors
    /// The host's random source failed.
    pub fn generate() -> Result<Self, KeyError> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
                .map_err(|ring::error::Unspecified| KeyError::Random)?;
        Self::from_pkcs8(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// Takes a stored key.
    ///
    /// # Errors
    /// The bytes are no P-256 key, or its public half does not belong to its private one.
    pub fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &random)
            .map_err(KeyError::Rejected)?;
        Ok(Self {
            pair,
            pkcs8,
            random,
        })
    }

    /// The PKCS#8 form, DER.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The PKCS#8 form, PEM. Written here because the usual encoders leave copies behind.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let lines = self.pkcs8.len().div_ceil(PEM_LINE_BYTES);
        // Capacity for the whole text: a string that grows leaves its old buffer unwiped.
        let mut pem = Zeroizing::new(String::with_capacity(64 + lines * 65));
        pem.push_str("-----BEGIN PRIVATE KEY-----\n");
        for line in self.pkcs8.chunks(PEM_LINE_BYTES) {
            for group in line.chunks(3) {
                push_base64(&mut pem, group);
            }
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        pem
    }

    /// SHA-256 of the public key (its SubjectPublicKeyInfo), in hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex(digest(&SHA256, &self.subject_public_key_info()).as_ref())
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.pair
            .sign(&self.random, message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|ring::error::Unspecified| rcgen::Error::RingUnspecified)
    }
}

/// Appends one group of one to three bytes as four characters of base64.
fn push_base64(text: &mut String, group: &[u8]) {
    let bits = (0..3).fold(0_u32, |bits, at| {
        bits << 8 | group.get(at).map_or(0, |byte| u32::from(*byte))
    });
    for at in 0..4 {
        text.push(if at <= group.len() {
            base64_digit(bits >> (18 - 6 * at) & 0x3f)
        } else {
            '='
        });
    }
}

fn base64_digit(value: u32) -> char {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // The fallback is unreachable: callers mask to six bits.
    ALPHABET
        .get(value as usize)
        .map_or('=', |digit| char::from(*digit))
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::PrivatePkcs8KeyDer;
    use rustls_pki_types::pem::PemObject;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, text) in [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            let mut out = String::new();
            push_base64(&mut out, bytes.as_bytes());
            assert_eq!(out, text);
        }
    }

    #[test]
    fn a_key_survives_pem_as_others_read_it() {
        let key = Key::generate().unwrap();
        let read = PrivatePkcs8KeyDer::from_pem_slice(key.to_pem().as_bytes()).unwrap();
        assert_eq!(read.secret_pkcs8_der(), key.pkcs8());
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let document = ring::signature::Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let pkcs8 = Zeroizing::new(document.unwrap().as_ref().to_vec());
        assert!(matches!(Key::from_pkcs8(pkcs8), Err(KeyError::Rejected(_))));
    }
}
