//! Taking leaves back: recorded in the ledger first, then on the intermediate's revocation list.

use std::collections::BTreeMap;
use std::time::SystemTime;

use sivshm_abi::identity::SpiffeId;

use super::{Authority, AuthorityError, CRL, whole_seconds};
use crate::files::{self, PUBLIC};
use crate::ledger::{CrlRecord, Entry, LockedLedger, Record, Revocation};
use crate::profile::{self, CLOCK_SKEW, Reason, Serial, Validity};

/// Which certificates to revoke.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// The one with this serial number.
    Serial(Serial),
    /// All of a party.
    Id(SpiffeId),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Serial(serial) => write!(f, "certificate with the serial number {serial}"),
            Self::Id(id) => write!(f, "certificate of {id}"),
        }
    }
}

/// Why nothing was revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// The ledger has no such certificate.
    #[error("the ledger has no {0}: this CA has never issued one")]
    Unknown(String),
    /// It is not the intermediate's to revoke.
    #[error(
        "{0} is the serial number of a certificate that the root signed: revoking it takes the \
         root's key, so make a new CA and hand out its bundle"
    )]
    NotALeaf(Serial),
    /// The CA could not record it or make the list.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// A revocation that is in the ledger and on the list.
#[derive(Debug)]
pub struct Revoked {
    /// What was revoked now.
    pub newly: Vec<Revocation>,
    /// What had been revoked before.
    pub before: Vec<Revocation>,
    /// The list that has both.
    pub crl: Crl,
}

/// A revocation list that is in its place.
#[derive(Debug)]
pub struct Crl {
    /// What the ledger says of it.
    pub record: CrlRecord,
    /// The root's list and the intermediate's, PEM.
    pub pem: String,
}

impl Authority {
    /// Revokes certificates and puts a new list in the place of the CA's `crl.pem`. What was
    /// revoked before stays as it was recorded; the list is made anew all the same.
    ///
    /// # Errors
    /// The ledger has no such certificate, it is no leaf, the intermediate has ended, or the host
    /// refused. If only the list could not be written, the revocation is in the ledger and on the
    /// next list.
    pub fn revoke(
        &mut self,
        target: &Target,
        reason: Reason,
        now: SystemTime,
    ) -> Result<Revoked, RevokeError> {
        let time = whole_seconds(now)?;
        let ledger = self.ledger.lock().map_err(AuthorityError::from)?;
        let mut past = Past::read(&ledger, self.serial, Some(target))?;
        if past.meant.is_empty() {
            return Err(RevokeError::Unknown(target.to_string()));
        }
        if let Some(other) = past.meant.iter().find(|leaf| leaf.issuer != self.serial) {
            return Err(RevokeError::NotALeaf(other.serial));
        }
        let (mut newly, mut before) = (Vec::new(), Vec::new());
        for leaf in std::mem::take(&mut past.meant) {
            match past.revoked.get(&leaf.serial) {
                Some(known) => before.push(known.clone()),
                None => newly.push(Revocation {
                    serial: leaf.serial,
                    spiffe_id: leaf.spiffe_id,
                    revoked: time,
                    reason,
                    issuer: leaf.issuer,
                }),
            }
        }
        let entries: Vec<_> = newly.iter().cloned().map(Entry::Revoked).collect();
        ledger.append(&entries).map_err(AuthorityError::from)?;
        past.revoked
            .extend(newly.iter().map(|now| (now.serial, now.clone())));
        Ok(Revoked {
            crl: self.list(&ledger, &past, now)?,
            newly,
            before,
        })
    }

    /// Makes a new list of all that is revoked and puts it in the place of the CA's `crl.pem`.
    ///
    /// # Errors
    /// The intermediate has ended, or the host refused.
    pub fn crl(&mut self, now: SystemTime) -> Result<Crl, AuthorityError> {
        let ledger = self.ledger.lock()?;
        let past = Past::read(&ledger, self.serial, None)?;
        self.list(&ledger, &past, now)
    }

    fn list(
        &self,
        ledger: &LockedLedger<'_>,
        past: &Past,
        now: SystemTime,
    ) -> Result<Crl, AuthorityError> {
        let life = Validity {
            not_before: whole_seconds(now)?.saturating_sub(CLOCK_SKEW),
            not_after: self.validity.not_after,
        };
        if life.not_before < self.validity.not_before || life.not_before >= life.not_after {
            return Err(AuthorityError::IntermediateEnds(self.validity));
        }
        let number = past.last_number.saturating_add(1);
        let revoked = past.revoked.values();
        let revoked = revoked.map(|leaf| (leaf.serial, leaf.revoked, leaf.reason));
        let own = profile::crl(number, life, revoked).signed_by(&self.issuer)?;
        let record = CrlRecord::new(self.serial, number, life, past.revoked.len());
        ledger.append(&[Entry::Crl(record.clone())])?;
        let pem = self.root_crl.clone() + &own.pem()?;
        files::replace_one(&self.dir.join(CRL), pem.as_bytes(), PUBLIC)?;
        Ok(Crl { record, pem })
    }
}

/// What the ledger says that a revocation or a list needs.
#[derive(Debug, Default)]
struct Past {
    /// The certificates that are to be revoked.
    meant: Vec<Record>,
    /// All that the signer has revoked.
    revoked: BTreeMap<Serial, Revocation>,
    /// Number of its last list.
    last_number: u64,
}

impl Past {
    fn read(
        ledger: &LockedLedger<'_>,
        signer: Serial,
        target: Option<&Target>,
    ) -> Result<Self, AuthorityError> {
        let id = match target {
            Some(Target::Id(id)) => Some(id.to_string()),
            _ => None,
        };
        let meant = |leaf: &Record| match target {
            Some(Target::Serial(serial)) => leaf.serial == *serial,
            _ => id.as_ref() == Some(&leaf.spiffe_id),
        };
        let mut past = Self::default();
        ledger.for_each(|entry| match entry {
            Entry::Issued(leaf) if meant(&leaf) => past.meant.push(leaf),
            Entry::Revoked(leaf) if leaf.issuer == signer => {
                past.revoked.insert(leaf.serial, leaf);
            }
            Entry::Crl(list) if list.issuer == signer => {
                past.last_number = past.last_number.max(list.number);
            }
            Entry::Issued(_) | Entry::Revoked(_) | Entry::Crl(_) => {}
        })?;
        Ok(past)
    }
}
