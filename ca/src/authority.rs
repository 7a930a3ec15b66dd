//! A CA as a directory: making one, opening one, issuing leaves from it, revoking them.
//!
//! ```text
//! DIR/                 0700
//!   bundle.pem         the root certificate: the trust bundle of the domain
//!   intermediate.pem   the certificate that signs leaves
//!   intermediate.key   its key, PKCS#8 DER, 0600
//!   root.key           the root's key, PKCS#8 DER, 0600; issuing and revoking never read it
//!   root-crl.pem       the root's CRL, made with the root
//!   crl.pem            the root's CRL and the intermediate's current one
//!   ledger.jsonl       all that was issued and revoked, append-only, 0600
//! ```

mod opening;
mod revocation;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::Issuer;
use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::TrustDomain;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

pub use self::revocation::{Crl, RevokeError, Revoked, Target};

use crate::files::{self, Context, FileError, NewFile, PRIVATE, PUBLIC, Staging};
use crate::key::{Key, KeyError};
use crate::ledger::{CrlRecord, Entry, Ledger, Record};
use crate::profile::{
    self, INTERMEDIATE_LIFE, MAX_LEAF_LIFE, MIN_LEAF_LIFE, ROOT_LIFE, Serial, Validity,
};

/// The trust bundle within a CA directory: the root certificate, PEM.
pub const BUNDLE: &str = "bundle.pem";
/// The certificate that signs leaves, PEM.
pub const INTERMEDIATE: &str = "intermediate.pem";
/// Its private key, PKCS#8 DER.
pub const INTERMEDIATE_KEY: &str = "intermediate.key";
/// The root's private key, PKCS#8 DER. To be kept off line.
pub const ROOT_KEY: &str = "root.key";
/// The root's revocation list, PEM.
pub const ROOT_CRL: &str = "root-crl.pem";
/// The revocation lists of the root and the intermediate, PEM: what verifiers get.
pub const CRL: &str = "crl.pem";
/// The ledger, JSON Lines.
pub const LEDGER: &str = "ledger.jsonl";

/// Number of a signer's first revocation list.
const FIRST_CRL: u64 = 1;

/// Why a CA was not made or opened, or a leaf not issued. Nothing was issued then.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is something at the place of the new CA.
    #[error("{} exists: a CA is never overwritten, choose another directory", .0.display())]
    Exists(PathBuf),
    /// Others than the owner can reach the CA's keys.
    #[error("{} has mode {mode:04o}: others may have read the CA's keys; find out who could, then make it {want:04o}", path.display())]
    Exposed {
        /// What is too open.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they may be at most.
        want: u32,
    },
    /// A file of the CA is not what `init` wrote.
    #[error("{} {what}: this CA is damaged, restore it from its backup", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A leaf was asked for a name outside the CA's trust domain.
    #[error("`{id}` is not in this CA's trust domain `{domain}`")]
    ForeignDomain {
        /// The name asked for.
        id: String,
        /// The domain of this CA.
        domain: TrustDomain,
    },
    /// A leaf was asked to live for too short or too long.
    #[error(
        "a leaf can't live {} s: between {} s and {} s",
        .0.as_secs(), MIN_LEAF_LIFE.whole_seconds(), MAX_LEAF_LIFE.whole_seconds()
    )]
    Life(std::time::Duration),
    /// The intermediate is not valid for long enough, or not yet.
    #[error(
        "this CA's intermediate is valid from {} to {}, and what it signs has to end within that time: \
         check the host's clock, else make a new CA and hand out its bundle",
        profile::rfc3339(.0.not_before), profile::rfc3339(.0.not_after)
    )]
    IntermediateEnds(Validity),
    /// The host's clock shows a year that no certificate can hold.
    #[error("the host's clock shows a time before 1970 or after 9999")]
    Clock,
    /// A key could not be made or read.
    #[error("a key could not be made or read")]
    Key(#[from] KeyError),
    /// A certificate could not be signed.
    #[error("a certificate could not be signed")]
    Sign(#[from] rcgen::Error),
    /// The host refused a file operation.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A certificate authority, ready to issue leaves and to revoke them.
pub struct Authority {
    dir: PathBuf,
    domain: TrustDomain,
    serial: Serial,
    validity: Validity,
    issuer: Issuer<'static, Key>,
    chain: String,
    root_crl: String,
    ledger: Ledger,
}

/// A leaf with its key, recorded in the ledger.
pub struct Issued {
    /// What the ledger says of it.
    pub record: Record,
    /// The leaf and the intermediate, PEM, leaf first.
    pub chain_pem: String,
    /// The leaf's private key, PKCS#8 PEM.
    pub key_pem: Zeroizing<String>,
}

impl Authority {
    /// Makes a CA for `domain` at `dir`, which must not exist or be empty.
    ///
    /// Everything is written under another name first, and `dir` appears whole, in one step:
    /// an interrupted `init` leaves nothing at `dir`.
    ///
    /// # Errors
    /// Something is at `dir`, or the host refused.
    pub fn init(dir: &Path, domain: &TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        if !is_free(dir)? {
            return Err(AuthorityError::Exists(dir.to_owned()));
        }
        let now = whole_seconds(now)?;
        let (root_key, root_serial) = (Key::generate()?, Serial::random()?);
        let (key, serial) = (Key::generate()?, Serial::random()?);

        let root_life = Validity::starting(now, ROOT_LIFE);
        let root_params = profile::root(*domain, root_serial, root_life)?;
        let root = root_params.self_signed(&root_key)?;
        let root_issuer = Issuer::from_params(&root_params, &root_key);
        let life = Validity::starting(now, INTERMEDIATE_LIFE);
        let intermediate_params = profile::intermediate(*domain, serial, life)?;
        let intermediate = intermediate_params.signed_by(&key, &root_issuer)?;

        // Nothing is revoked. Now is when the root's key is at hand.
        let root_crl = profile::crl(FIRST_CRL, life, [])
            .signed_by(&root_issuer)?
            .pem()?;
        let issuer = Issuer::from_params(&intermediate_params, &key);
        let crl = root_crl.clone()
            + &profile::crl(FIRST_CRL, life, [])
                .signed_by(&issuer)?
                .pem()?;

        let of_domain = profile::domain_id(*domain);
        let ledger = [
            Entry::Issued(record(
                &of_domain,
                root_serial,
                root_life,
                &root_key,
                root_serial,
            )),
            Entry::Issued(record(&of_domain, serial, life, &key, root_serial)),
            Entry::Crl(CrlRecord::new(root_serial, FIRST_CRL, life, 0)),
            Entry::Crl(CrlRecord::new(serial, FIRST_CRL, life, 0)),
        ]
        .iter()
        .map(Entry::to_line)
        .collect::<Result<String, _>>()
        .map_err(|_| AuthorityError::Clock)?;

        let staging = Staging::beside(dir)?;
        for (name, bytes, mode) in [
            (ROOT_KEY, root_key.pkcs8(), PRIVATE),
            (INTERMEDIATE_KEY, key.pkcs8(), PRIVATE),
            (LEDGER, ledger.as_bytes(), PRIVATE),
            (INTERMEDIATE, intermediate.pem().as_bytes(), PUBLIC),
            (ROOT_CRL, root_crl.as_bytes(), PUBLIC),
            (CRL, crl.as_bytes(), PUBLIC),
            (BUNDLE, root.pem().as_bytes(), PUBLIC),
        ] {
            files::create(staging.path(), &NewFile { name, bytes, mode })?;
        }
        staging.publish(dir)?;
        Self::open(dir)
    }

    /// The trust domain of this CA.
    #[must_use]
    pub fn domain(&self) -> TrustDomain {
        self.domain
    }

    /// Until when this CA can issue: the life of its intermediate.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Makes a key and a leaf for `id` that is valid from `now` for `life`, or until the
    /// intermediate ends if that is sooner. It is in the ledger, on the disk, when this returns.
    ///
    /// # Errors
    /// `id` is of another trust domain, `life` is out of bounds, the intermediate does not live
    /// for at least [`MIN_LEAF_LIFE`] from `now` on, or the host refused.
    pub fn issue(
        &mut self,
        id: &SpiffeId,
        life: std::time::Duration,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        if id.domain != self.domain {
            return Err(AuthorityError::ForeignDomain {
                id: id.to_string(),
                domain: self.domain,
            });
        }
        let bounds = MIN_LEAF_LIFE..=MAX_LEAF_LIFE;
        let life = Duration::try_from(life)
            .ok()
            .filter(|life| bounds.contains(life))
            .ok_or(AuthorityError::Life(life))?;
        let validity = self.leaf_validity(whole_seconds(now)?, life)?;
        let (key, serial) = (Key::generate()?, Serial::random()?);
        let leaf = profile::leaf(id, serial, validity)?.signed_by(&key, &self.issuer)?;
        let record = record(&id.to_string(), serial, validity, &key, self.serial);
        self.ledger
            .lock()?
            .append(&[Entry::Issued(record.clone())])?;
        Ok(Issued {
            record,
            chain_pem: leaf.pem() + &self.chain,
            key_pem: key.to_pem(),
        })
    }

    fn leaf_validity(
        &self,
        now: OffsetDateTime,
        life: Duration,
    ) -> Result<Validity, AuthorityError> {
        let own = self.validity;
        let mut validity = Validity::starting(now, life);
        validity.not_after = validity.not_after.min(own.not_after);
        let began = own.not_before <= validity.not_before;
        let lasts = now.saturating_add(MIN_LEAF_LIFE) <= validity.not_after;
        if began && lasts {
            Ok(validity)
        } else {
            Err(AuthorityError::IntermediateEnds(own))
        }
    }
}

/// Nothing is at `dir`, or an empty directory.
fn is_free(dir: &Path) -> Result<bool, FileError> {
    match fs::symlink_metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(fs::read_dir(dir).context("read", dir)?.next().is_none()),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).context("look at", dir),
    }
}

fn record(id: &str, serial: Serial, validity: Validity, key: &Key, issuer: Serial) -> Record {
    Record {
        serial,
        spiffe_id: id.to_owned(),
        not_before: validity.not_before,
        not_after: validity.not_after,
        key_sha256: key.fingerprint(),
        issuer,
    }
}

/// The time as certificates hold it.
fn whole_seconds(now: SystemTime) -> Result<OffsetDateTime, AuthorityError> {
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| AuthorityError::Clock)?;
    let seconds = i64::try_from(since.as_secs()).map_err(|_| AuthorityError::Clock)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| AuthorityError::Clock)
}
