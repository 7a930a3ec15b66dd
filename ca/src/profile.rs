//! The certificate profile of `docs/identity.md`: SPIFFE X509-SVID, and stricter where SPIFFE
//! leaves a choice.

use std::str::FromStr;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CidrSubnet,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyIdMethod,
    KeyUsagePurpose, NameConstraints, RevocationReason, RevokedCertParams, SanType,
};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Deserializer, Serialize};
use sivshm_abi::identity::{SCHEME, SpiffeId};
use sivshm_abi::name::TrustDomain;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::key::{KeyError, hex};

/// How long a root lives: longer than the vehicles and machines whose trust bundles it is in take
/// to be serviced, as replacing it means touching every bundle.
pub const ROOT_LIFE: Duration = Duration::days(3650);

/// How long an intermediate lives: its key is on line, so its theft must heal within weeks.
pub const INTERMEDIATE_LIFE: Duration = Duration::days(30);

/// The shortest life of a leaf. Links are authenticated when they are made, and a start in any
/// order, retries included, is over in minutes; a leaf shorter than this only breaks restarts.
pub const MIN_LEAF_LIFE: Duration = Duration::hours(1);

/// The longest life of a leaf, and the default: a device process reads its SVID once, when it
/// starts, so a leaf has to last a working day between two issues, and a stolen key is worth no
/// more than a day.
pub const MAX_LEAF_LIFE: Duration = Duration::hours(24);

/// How far `notBefore` lies in the past, for hosts whose clocks disagree.
pub const CLOCK_SKEW: Duration = Duration::minutes(1);

/// Serial number of a certificate: positive, 16 octets in DER, 126 of the bits random (RFC 5280
/// section 4.1.2.2 allows 20 octets; CA/Browser Forum asks for 64 random bits).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Serial([u8; Self::BYTES]);

impl Serial {
    /// Octets of a serial number.
    pub const BYTES: usize = 16;

    /// A fresh serial number.
    ///
    /// # Errors
    /// The host's random source failed.
    pub fn random() -> Result<Self, KeyError> {
        let mut bytes = [0; Self::BYTES];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|ring::error::Unspecified| KeyError::Random)?;
        let [first, ..] = &mut bytes;
        // Sign bit clear: positive. Next bit set: DER drops no leading zero octet.
        *first = *first & 0x3f | 0x40;
        Ok(Self(bytes))
    }

    /// Takes the serial number of a certificate of this CA.
    #[must_use]
    pub fn from_der(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl std::fmt::Display for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// A text that is not the serial number of a certificate of this CA.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a serial number has {} hexadecimal digits, with or without colons", 2 * Serial::BYTES)]
pub struct BadSerial;

impl FromStr for Serial {
    type Err = BadSerial;

    /// Reads the ledger's form and both that `openssl` prints: upper case, and with colons.
    fn from_str(text: &str) -> Result<Self, BadSerial> {
        let digits: Option<Vec<u32>> = text
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16))
            .collect();
        let digits = digits.ok_or(BadSerial)?;
        let (pairs, []) = digits.as_chunks::<2>() else {
            return Err(BadSerial);
        };
        let bytes = pairs
            .iter()
            .map(|[high, low]| u8::try_from(high << 4 | low));
        let bytes: Result<Vec<u8>, _> = bytes.collect();
        Self::from_der(&bytes.map_err(|_| BadSerial)?).ok_or(BadSerial)
    }
}

impl Serialize for Serial {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Serial {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a certificate is revoked: those reasons of RFC 5280 section 5.3.1 that a leaf can have.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Nothing is said.
    #[default]
    Unspecified,
    /// Somebody else has, or may have, the key.
    KeyCompromise,
    /// Another certificate has taken its place.
    Superseded,
    /// Its party does not exist any more.
    CessationOfOperation,
    /// Its party may not take part any more.
    PrivilegeWithdrawn,
}

impl Reason {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Unspecified,
        Self::KeyCompromise,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// The word of the command line and the ledger.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
            Self::PrivilegeWithdrawn => "privilege-withdrawn",
        }
    }

    /// The code in a CRL; RFC 5280 wants none for what says nothing.
    const fn code(self) -> Option<RevocationReason> {
        match self {
            Self::Unspecified => None,
            Self::KeyCompromise => Some(RevocationReason::KeyCompromise),
            Self::Superseded => Some(RevocationReason::Superseded),
            Self::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
            Self::PrivilegeWithdrawn => Some(RevocationReason::PrivilegeWithdrawn),
        }
    }
}

/// From when to when a certificate is valid, whole seconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    /// First second.
    pub not_before: OffsetDateTime,
    /// Last second.
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// `life` from `now` on, back-dated by [`CLOCK_SKEW`].
    #[must_use]
    pub fn starting(now: OffsetDateTime, life: Duration) -> Self {
        Self {
            not_before: now.saturating_sub(CLOCK_SKEW),
            not_after: now.saturating_add(life),
        }
    }
}

/// A time as people and logs read it: RFC 3339.
#[must_use]
pub fn rfc3339(time: OffsetDateTime) -> String {
    // A year that RFC 3339 can't write has no better form than the one of the library.
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

/// The SPIFFE ID of a trust domain itself, which signing certificates carry.
#[must_use]
pub fn domain_id(domain: TrustDomain) -> String {
    format!("{SCHEME}{domain}")
}

/// The self-signed root.
///
/// # Errors
/// None for a valid trust domain: its alphabet is within that of a URI in a certificate.
pub fn root(
    domain: TrustDomain,
    serial: Serial,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base(&domain_id(domain), serial, validity)?;
    params.distinguished_name = signer_name(domain, "SIVSHM root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// The intermediate, which signs leaves and nothing else.
///
/// # Errors
/// As [`root`].
pub fn intermediate(
    domain: TrustDomain,
    serial: Serial,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base(&domain_id(domain), serial, validity)?;
    params.distinguished_name = signer_name(domain, "SIVSHM intermediate");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.name_constraints = Some(no_name_but_uri());
    Ok(params)
}

/// The SVID of a device process or a service. Its subject is empty: the SPIFFE ID is the only
/// name there is to trust.
///
/// # Errors
/// As [`root`].
pub fn leaf(
    id: &SpiffeId,
    serial: Serial,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base(&id.to_string(), serial, validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A revocation list with the serial number, time and reason of each certificate on it.
#[must_use]
pub fn crl(
    number: u64,
    validity: Validity,
    revoked: impl IntoIterator<Item = (Serial, OffsetDateTime, Reason)>,
) -> CertificateRevocationListParams {
    let revoked = revoked.into_iter();
    let revoked = revoked.map(|(serial, revocation_time, reason)| RevokedCertParams {
        serial_number: serial.0.to_vec().into(),
        revocation_time,
        reason_code: reason.code(),
        invalidity_date: None,
    });
    CertificateRevocationListParams {
        this_update: validity.not_before,
        next_update: validity.not_after,
        crl_number: number.into(),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

fn base(uri: &str, serial: Serial, validity: Validity) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial.0.to_vec().into());
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    Ok(params)
}

fn signer_name(domain: TrustDomain, role: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, domain.as_str());
    name.push(DnType::CommonName, role);
    name
}

/// Excludes every host name, mail address and IP address, so that a stolen intermediate can't
/// speak for a web site where somebody trusts the bundle too widely. A constraint on URIs would
/// say more, but WebPKI refuses every chain that has one; verifiers compare the trust domain.
fn no_name_but_uri() -> NameConstraints {
    NameConstraints {
        permitted_subtrees: Vec::new(),
        excluded_subtrees: vec![
            GeneralSubtree::DnsName(String::new()),
            GeneralSubtree::Rfc822Name(String::new()),
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_positive_and_fill_their_octets() {
        for _ in 0..64 {
            let Serial([first, ..]) = Serial::random().unwrap();
            assert_eq!(first & 0xc0, 0x40);
        }
        assert_ne!(Serial::random().unwrap(), Serial::random().unwrap());
    }

    #[test]
    fn serials_are_read_as_the_ledger_and_openssl_write_them() {
        let serial = Serial::random().unwrap();
        let text = serial.to_string();
        let pairs: Vec<_> = serial.0.iter().map(|byte| format!("{byte:02x}")).collect();
        for form in [text.clone(), text.to_uppercase(), pairs.join(":")] {
            assert_eq!(form.parse(), Ok(serial));
        }
        let short = text.get(1..).unwrap();
        for bad in ["", "4a", short, &format!("{text}00"), "4\u{e9}"] {
            assert_eq!(bad.parse::<Serial>(), Err(BadSerial), "{bad}");
        }
    }

    #[test]
    fn the_ledger_writes_reasons_as_the_command_line_does() {
        for reason in Reason::ALL {
            let json = serde_json::to_string(reason).unwrap();
            assert_eq!(json, format!("\"{}\"", reason.word()));
        }
    }
}
