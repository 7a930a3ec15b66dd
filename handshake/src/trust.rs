//! Whom a party believes: the roots of the trust bundle, less what the revocation lists withdraw.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
    anchor_from_trusted_cert,
};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::credentials::CredentialError;
use crate::edition::{EditionFault, Editions};
use crate::limits::{MAX_CRLS, MAX_TRUST_ANCHORS};
use crate::tls::SIGNATURES;

/// Roots and, if there are any, revocation lists.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    roots: Arc<[TrustAnchor<'static>]>,
    /// Empty: revocation is not looked at.
    crls: Arc<[CertRevocationList<'static>]>,
    /// What tells these lists from older ones.
    editions: Editions,
    /// The first moment at which one of them is too old.
    next_update: Option<SystemTime>,
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
                editions: Editions::default(),
                next_update: None,
            })
    }

    /// The same roots with these revocation lists, at most one of each issuer.
    pub(crate) fn with_crls(&self, pem: &[u8]) -> Result<Self, CredentialError> {
        let lists =
            CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let lists = lists.map_err(|_| CredentialError::Crl)?;
        if !(1..=MAX_CRLS).contains(&lists.len()) {
            return Err(CredentialError::Crl);
        }
        let (mut crls, mut editions, mut next_update) = (Vec::new(), Editions::default(), None);
        for list in &lists {
            let (crl, parsed, end) = read(list).ok_or(CredentialError::Crl)?;
            crls.push(crl);
            editions.add(&parsed)?;
            next_update = next_update.into_iter().chain([end]).min();
        }
        Ok(Self {
            roots: Arc::clone(&self.roots),
            crls: crls.into(),
            editions,
            next_update,
        })
    }

    /// These roots and lists, if none of the lists is older than one that was there before.
    pub(crate) fn after(self, before: &Self) -> Result<Self, EditionFault> {
        let editions = before.editions.followed_by(self.editions)?;
        Ok(Self { editions, ..self })
    }

    /// The first moment at which a revocation list is too old; none if there are no lists.
    pub(crate) const fn next_update(&self) -> Option<SystemTime> {
        self.next_update
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

/// A revocation list as it is verified by, what else it says, and when there must be a newer one.
fn read(
    der: &[u8],
) -> Option<(
    CertRevocationList<'static>,
    CertificateRevocationList<'_>,
    SystemTime,
)> {
    let crl = BorrowedCertRevocationList::from_der(der).ok()?;
    let (_, parsed) = CertificateRevocationList::from_der(der).ok()?;
    let end = u64::try_from(parsed.next_update()?.timestamp()).ok()?;
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(end))?;
    Some((CertRevocationList::Owned(crl.to_owned().ok()?), parsed, end))
}
