//! Which of two revocation lists of one issuer is newer: an older one that took the place of a newer
//! one would bring withdrawn certificates back to life.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use ring::digest::{SHA256, digest};
use x509_parser::extensions::ParsedExtension;
use x509_parser::num_bigint::BigUint;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;

/// Why revocation lists can't take the place of those in force.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EditionFault {
    /// It can't be said which of them counts.
    #[error(
        "host: there are two revocation lists of `{0}`; hand out one text that `sivshm-ca` made"
    )]
    Twice(String),
    /// The list in force is newer.
    #[error(
        "host: the revocation list of `{issuer}` has {found}, which is older than {in_force} in force; \
         hand out the CA's newest list"
    )]
    Older {
        /// Whose list it is.
        issuer: String,
        /// Its number, or time.
        found: Mark,
        /// That of the list in force.
        in_force: Mark,
    },
    /// Two lists claim to be the same one.
    #[error(
        "host: the revocation list of `{issuer}` has {mark}, as the one in force has, and other \
         content; find out which of them the CA made, and hand out its next one"
    )]
    Other {
        /// Whose list it is.
        issuer: String,
        /// The number, or time, of both.
        mark: Mark,
    },
}

/// What orders the lists of one issuer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mark {
    /// The CRL number (RFC 5280, section 5.2.3), in decimal digits.
    Number(String),
    /// When it was made, if one of the two lists has no number.
    ThisUpdate(String),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "number {number}"),
            Self::ThisUpdate(time) => write!(f, "this update {time}"),
        }
    }
}

/// The newest list that was in force of each issuer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Editions(BTreeMap<Issuer, Edition>);

/// Name and key identifier: lists that another key signs are numbered anew.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Issuer {
    name: Vec<u8>,
    key: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct Edition {
    issuer: String,
    number: Option<BigUint>,
    this_update: ASN1Time,
    /// Of all that is signed.
    sha256: Vec<u8>,
}

impl Editions {
    /// Adds a list. Verification takes the first list of a name, so there must be one of each.
    pub(crate) fn add(&mut self, list: &CertificateRevocationList<'_>) -> Result<(), EditionFault> {
        let issuer = Issuer::of(list);
        let edition = Edition::of(list);
        if self.0.keys().any(|known| known.name == issuer.name) {
            return Err(EditionFault::Twice(edition.issuer));
        }
        self.0.insert(issuer, edition);
        Ok(())
    }

    /// These and `newer`, of each issuer the newer one. An issuer whose list is left out stays
    /// remembered.
    pub(crate) fn followed_by(&self, newer: Self) -> Result<Self, EditionFault> {
        for (issuer, found) in &newer.0 {
            if let Some(in_force) = self.0.get(issuer) {
                in_force.followed_by(found)?;
            }
        }
        let mut all = self.0.clone();
        all.extend(newer.0);
        Ok(Self(all))
    }
}

impl Issuer {
    fn of(list: &CertificateRevocationList<'_>) -> Self {
        let extensions = list.extensions().iter();
        let key = extensions.filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref(),
            _ => None,
        });
        Self {
            name: list.issuer().as_raw().to_vec(),
            key: key.map(|key| key.0.to_vec()).next(),
        }
    }
}

impl Edition {
    fn of(list: &CertificateRevocationList<'_>) -> Self {
        Self {
            issuer: list.issuer().to_string(),
            number: list.crl_number().cloned(),
            this_update: list.last_update(),
            sha256: digest(&SHA256, list.tbs_cert_list.as_ref())
                .as_ref()
                .to_vec(),
        }
    }

    fn followed_by(&self, newer: &Self) -> Result<(), EditionFault> {
        let (order, found, in_force) = match (&newer.number, &self.number) {
            (Some(found), Some(in_force)) => {
                let mark = |number: &BigUint| Mark::Number(number.to_string());
                (found.cmp(in_force), mark(found), mark(in_force))
            }
            _ => {
                let mark = |edition: &Self| Mark::ThisUpdate(edition.this_update.to_string());
                let order = newer.this_update.cmp(&self.this_update);
                (order, mark(newer), mark(self))
            }
        };
        let issuer = || newer.issuer.clone();
        match order {
            Ordering::Greater => Ok(()),
            Ordering::Equal if newer.sha256 == self.sha256 => Ok(()),
            Ordering::Equal => Err(EditionFault::Other {
                issuer: issuer(),
                mark: found,
            }),
            Ordering::Less => Err(EditionFault::Older {
                issuer: issuer(),
                found,
                in_force,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{CredentialError, Credentials};
    use crate::tests::certificates::{Ca, now};

    fn newer(than: &Credentials, pem: &str) -> Result<Credentials, EditionFault> {
        than.with_newer_crl(pem.as_bytes(), now())
            .map_err(|error| match error {
                CredentialError::Edition(fault) => fault,
                other => panic!("{other}"),
            })
    }

    /// The number or time of a refused list.
    fn older(fault: EditionFault) -> (Mark, Mark) {
        match fault {
            EditionFault::Older {
                issuer,
                found,
                in_force,
            } if issuer == "CN=car intermediate" => (found, in_force),
            other => panic!("{other}"),
        }
    }

    fn number(digits: &str) -> Mark {
        Mark::Number(digits.to_owned())
    }

    #[test]
    fn a_list_is_followed_by_itself_and_by_newer_ones_only() {
        let ca = Ca::new("car");
        let with = |pem: &str| ca.device("a").with_crl(pem.as_bytes(), now()).unwrap();
        let text = ca.edition(5, &[3]);
        let five = with(&text);
        newer(&five, &text).unwrap();
        let fault = newer(&five, &ca.edition(4, &[])).unwrap_err();
        let words = "host: the revocation list of `CN=car intermediate` has number 4, which is older \
                     than number 5 in force; hand out the CA's newest list";
        assert_eq!(fault.to_string(), words);
        assert_eq!(older(fault), (number("4"), number("5")));

        let other = newer(&five, &ca.edition(5, &[])).unwrap_err();
        let mark = number("5");
        assert!(matches!(&other, EditionFault::Other { mark: found, .. } if *found == mark));
        // Numbers are compared, not digits.
        let ten = newer(&five, &ca.edition(10, &[3])).unwrap();
        let fault = newer(&ten, &ca.edition(9, &[3])).unwrap_err();
        assert_eq!(older(fault), (number("9"), number("10")));
    }

    #[test]
    fn what_was_in_force_is_remembered_while_its_list_is_left_out() {
        let (ca, other) = (Ca::new("car"), Ca::new("other"));
        let trust = |pem: String| ca.device("a").trust.with_crls(pem.as_bytes()).unwrap();
        let six = trust(ca.edition(6, &[]));
        let without = trust(other.edition(1, &[])).after(&six).unwrap();
        let fault = trust(ca.edition(5, &[])).after(&without).unwrap_err();
        assert_eq!(older(fault), (number("5"), number("6")));
    }

    #[test]
    fn two_lists_of_one_issuer_are_refused() {
        let ca = Ca::new("car");
        let pem = ca.edition(2, &[3]) + &ca.edition(1, &[]);
        let error = ca.device("a").with_crl(pem.as_bytes(), now()).unwrap_err();
        let twice = EditionFault::Twice("CN=car root".into());
        assert_eq!(error, CredentialError::Edition(twice));
    }

    #[test]
    fn lists_without_numbers_are_told_apart_by_their_times() {
        let at = |second, content| Edition {
            issuer: "CN=car intermediate".into(),
            number: None,
            this_update: ASN1Time::from_timestamp(second).unwrap(),
            sha256: vec![content],
        };
        let numbered = |number: u8, second| Edition {
            number: Some(number.into()),
            ..at(second, number)
        };
        at(7, 1).followed_by(&at(7, 1)).unwrap();
        at(7, 1).followed_by(&at(8, 2)).unwrap();
        at(7, 1).followed_by(&at(7, 2)).unwrap_err();
        let (found, in_force) = older(at(7, 1).followed_by(&at(6, 2)).unwrap_err());
        assert!(matches!(found, Mark::ThisUpdate(_)) && found != in_force);
        // Both have to have one.
        numbered(2, 7).followed_by(&at(6, 1)).unwrap_err();
        at(7, 1).followed_by(&numbered(2, 6)).unwrap_err();
        // If both do, it counts alone.
        numbered(2, 7).followed_by(&numbered(3, 6)).unwrap();
        numbered(2, 7).followed_by(&numbered(1, 8)).unwrap_err();
    }
}
