//! Whom a party believes: the roots of the trust bundle, less what the revocation lists withdraw.

use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
    anchor_from_trusted_cert,
};

use crate::limits::{MAX_CRLS, MAX_TRUST_ANCHORS};
use crate::tls::SIGNATURES;

/// Roots and, if there are any, revocation lists.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    roots: Arc<[TrustAnchor<'static>]>,
    /// Empty: revocation is not looked at.
    crls: Arc<[CertRevocationList<'static>]>,
}

impl Trust {
    /// Reads the roots of a trust bundle; none if there is no certificate, or too many, or one
    /// can't be read.
    pub(crate) fn from_bundle(pem: &[u8]) -> Option<Self> {
        let roots = CertificateDer::pem_slice_iter(pem)
            .map(|root| Some(anchor_from_trusted_cert(&root.ok()?).ok()?.to_owned()))
            .collect::<Option<Arc<[_]>>>()?;
        (1..=MAX_TRUST_ANCHORS)
            .contains(&roots.len())
            .then(|| Self {
                roots,
                crls: Arc::default(),
            })
    }

    /// The same roots with these revocation lists; none under the conditions of
    /// [`Self::from_bundle`].
    pub(crate) fn with_crls(&self, pem: &[u8]) -> Option<Self> {
        let crls = CertificateRevocationListDer::pem_slice_iter(pem)
            .map(|crl| {
                let crl = crl.ok()?;
                let crl = BorrowedCertRevocationList::from_der(&crl).ok()?;
                Some(CertRevocationList::Owned(crl.to_owned().ok()?))
            })
            .collect::<Option<Arc<[_]>>>()?;
        (1..=MAX_CRLS).contains(&crls.len()).then(|| Self {
            roots: Arc::clone(&self.roots),
            crls,
        })
    }

    /// Finds a path from a leaf to a root. With revocation lists, every certificate of the path but
    /// the root is looked up in the list of its issuer, which has to be there, signed by that
    /// issuer, and not past its next update.
    pub(crate) fn path<'p>(
        &'p self,
        leaf: &'p EndEntityCert<'p>,
        issuers: &'p [CertificateDer<'p>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<VerifiedPath<'p>, webpki::Error> {
        let crls: Vec<_> = self.crls.iter().collect();
        // The builder refuses an empty list, which is the case of no revocation lists.
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|builder| {
            builder
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        leaf.verify_for_usage(
            SIGNATURES.all,
            &self.roots,
            issuers,
            now,
            usage,
            revocation,
            None,
        )
    }
}
