//! A CA as a directory: making one, opening one, issuing leaves from it.
//!
//! ```text
//! DIR/                 0700
//!   bundle.pem         the root certificate: the trust bundle of the domain
//!   intermediate.pem   the certificate that signs leaves
//!   intermediate.key   its key, PKCS#8 DER, 0600
//!   root.key           the root's key, PKCS#8 DER, 0600; issuing never reads it
//!   ledger.jsonl       every certificate issued, append-only, 0600
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{Issuer, PublicKeyData};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sivshm_abi::identity::{SCHEME, SpiffeId};
use sivshm_abi::name::TrustDomain;
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::prelude::X509Certificate;
use zeroize::Zeroizing;

use crate::files::{self, Context, FileError, NewFile, PRIVATE, PUBLIC, Staging};
use crate::key::{Key, KeyError};
use crate::ledger::{Ledger, Record};
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
/// The ledger, JSON Lines.
pub const LEDGER: &str = "ledger.jsonl";

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
        "this CA's intermediate is valid from {} to {}, and a leaf has to end within that time: \
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

/// A certificate authority, ready to issue leaves.
pub struct Authority {
    domain: TrustDomain,
    serial: Serial,
    validity: Validity,
    issuer: Issuer<'static, Key>,
    chain: String,
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
        let intermediate =
            profile::intermediate(*domain, serial, life)?.signed_by(&key, &root_issuer)?;

        let of_domain = profile::domain_id(*domain);
        let ledger = [
            record(&of_domain, root_serial, root_life, &root_key, root_serial),
            record(&of_domain, serial, life, &key, root_serial),
        ]
        .iter()
        .map(Record::to_line)
        .collect::<Result<String, _>>()
        .map_err(|_| AuthorityError::Clock)?;

        let staging = Staging::beside(dir)?;
        for (name, bytes, mode) in [
            (ROOT_KEY, root_key.pkcs8(), PRIVATE),
            (INTERMEDIATE_KEY, key.pkcs8(), PRIVATE),
            (LEDGER, ledger.as_bytes(), PRIVATE),
            (INTERMEDIATE, intermediate.pem().as_bytes(), PUBLIC),
            (BUNDLE, root.pem().as_bytes(), PUBLIC),
        ] {
            files::create(staging.path(), &NewFile { name, bytes, mode })?;
        }
        staging.publish(dir)?;
        Self::open(dir)
    }

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
        signed_by(&intermediate, &root).ok_or_else(|| damaged("is not signed by the root"))?;
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
        Ok(Self {
            domain,
            serial,
            validity,
            issuer: Issuer::from_ca_cert_der(&der, key)?,
            chain: pem,
            ledger: Ledger::open(&dir.join(LEDGER))?,
        })
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
        self.ledger.append(&record)?;
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

/// `certificate`'s signature is valid under `signer`'s key.
fn signed_by(certificate: &X509Certificate<'_>, signer: &X509Certificate<'_>) -> Option<()> {
    UnparsedPublicKey::new(
        &ECDSA_P256_SHA256_ASN1,
        &signer.public_key().subject_public_key.data,
    )
    .verify(
        certificate.tbs_certificate.as_ref(),
        &certificate.signature_value.data,
    )
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
