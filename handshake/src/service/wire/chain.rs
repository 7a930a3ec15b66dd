//! What a party proves itself with: its SVID's chain and a signature.

use rustls_pki_types::CertificateDer;
use sivshm_abi::wire::{Malformed, Reader};

use super::Hash;
use crate::limits::{MAX_CERTIFICATE_BYTES, MAX_CHAIN_CERTIFICATES};
use crate::service::limits::{MAX_CHAIN_BYTES, MAX_SIGNATURE_BYTES};

/// An SVID and the certificates of its issuers, the leaf first: 1 to [`MAX_CHAIN_CERTIFICATES`] of
/// at most [`MAX_CERTIFICATE_BYTES`], [`MAX_CHAIN_BYTES`] with their lengths.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chain {
    certificates: Vec<CertificateDer<'static>>,
}

impl Chain {
    /// Bytes of an empty chain.
    const COUNT_BYTES: usize = 1;

    /// Makes a chain.
    ///
    /// # Errors
    /// No certificate, or more or longer ones than a chain may have.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, Malformed> {
        if certificates.is_empty() {
            return Err(Malformed::BadValue("chain"));
        }
        if certificates.len() > MAX_CHAIN_CERTIFICATES {
            return Err(Malformed::TooMany {
                what: "certificates",
                max: MAX_CHAIN_CERTIFICATES,
            });
        }
        if certificates
            .iter()
            .any(|der| der.len() > MAX_CERTIFICATE_BYTES)
        {
            return Err(Malformed::TooMany {
                what: "bytes of a certificate",
                max: MAX_CERTIFICATE_BYTES,
            });
        }
        let bytes: usize = certificates.iter().map(|der| 4 + der.len()).sum();
        if Self::COUNT_BYTES + bytes > MAX_CHAIN_BYTES {
            return Err(Malformed::TooMany {
                what: "bytes of a chain",
                max: MAX_CHAIN_BYTES,
            });
        }
        Ok(Self { certificates })
    }

    /// The SVID and its issuers.
    pub(crate) fn split(&self) -> Option<(&CertificateDer<'static>, &[CertificateDer<'static>])> {
        self.certificates.split_first()
    }

    /// SHA-256 over every certificate with its 32-bit length, as the signatures bind it.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let mut bytes = Vec::new();
        self.write_certificates(&mut bytes);
        Hash::of(&bytes)
    }

    fn write_certificates(&self, to: &mut Vec<u8>) {
        for der in &self.certificates {
            // `new` bounds the length far below the largest u32.
            to.extend(u32::try_from(der.len()).unwrap_or(u32::MAX).to_le_bytes());
            to.extend(der.as_ref());
        }
    }

    pub(super) fn write(&self, to: &mut Vec<u8>) {
        // `new` bounds the number below the largest u8.
        to.push(u8::try_from(self.certificates.len()).unwrap_or(u8::MAX));
        self.write_certificates(to);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let count = usize::from(from.u8("chain.count")?);
        if count > MAX_CHAIN_CERTIFICATES {
            return Err(Malformed::TooMany {
                what: "certificates",
                max: MAX_CHAIN_CERTIFICATES,
            });
        }
        let certificates = (0..count).map(|_| {
            let length = from.u32("chain.length")?;
            let length =
                usize::try_from(length).map_err(|_| Malformed::BadValue("chain.length"))?;
            let der = from.bytes(length, "chain.certificate")?;
            Ok(CertificateDer::from(der.to_vec()))
        });
        Self::new(certificates.collect::<Result<_, _>>()?)
    }
}

/// A signature by the key of an SVID: ECDSA, in DER, 1 to [`MAX_SIGNATURE_BYTES`] bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signature(Vec<u8>);

impl Signature {
    /// Bytes of the longest signature with its length.
    pub(super) const MAX_BYTES: usize = 1 + MAX_SIGNATURE_BYTES;

    /// Makes a signature.
    ///
    /// # Errors
    /// No byte, or too many.
    pub fn new(bytes: Vec<u8>) -> Result<Self, Malformed> {
        if (1..=MAX_SIGNATURE_BYTES).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(Malformed::BadValue("signature"))
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn write(&self, to: &mut Vec<u8>) {
        // `new` bounds the length below the largest u8.
        to.push(u8::try_from(self.0.len()).unwrap_or(u8::MAX));
        to.extend(&self.0);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let length = from.u8("signature")?.into();
        Self::new(from.bytes(length, "signature")?.to_vec())
    }
}
