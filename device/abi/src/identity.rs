//! SPIFFE identities of SIVSHM's parties (DESIGN section 12, `docs/identity.md`).

use core::fmt;

use crate::name::{BadName, ServiceName, TrustDomain, VmName};

/// The URI scheme of a SPIFFE ID, with its separator.
pub const SCHEME: &str = "spiffe://";

/// Who a certificate speaks for, within its trust domain.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Subject {
    /// The device process of a VM: `/vm/NAME/device`.
    Device(VmName),
    /// A service in a VM: `/vm/NAME/svc/NAME`.
    Service(VmName, ServiceName),
}

/// A SPIFFE ID: trust domain and subject. Displays as the URI that a certificate carries.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpiffeId {
    /// The trust domain.
    pub domain: TrustDomain,
    /// Who, within the domain.
    pub subject: Subject,
}

/// Why a URI is not the SPIFFE ID of one of SIVSHM's parties.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BadSpiffeId {
    /// It does not start with `spiffe://`.
    Scheme,
    /// The path is none of the forms that [`Subject`] lists.
    Path,
    /// A part of it is not a valid name.
    Name(BadName),
}

impl fmt::Display for BadSpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str("the URI does not start with `spiffe://`"),
            Self::Path => f.write_str("the path is neither /vm/NAME/device nor /vm/NAME/svc/NAME"),
            Self::Name(bad) => write!(f, "a part of the SPIFFE ID is no name: {bad}"),
        }
    }
}

impl core::error::Error for BadSpiffeId {}

impl From<BadName> for BadSpiffeId {
    fn from(bad: BadName) -> Self {
        Self::Name(bad)
    }
}

impl SpiffeId {
    /// Parses the URI of a certificate's subject alternative name.
    ///
    /// # Errors
    /// Anything that [`fmt::Display`] of a `SpiffeId` would not have written, byte for byte.
    pub fn parse(uri: &str) -> Result<Self, BadSpiffeId> {
        let rest = uri.strip_prefix(SCHEME).ok_or(BadSpiffeId::Scheme)?;
        let mut parts = rest.split('/');
        let mut next = || parts.next();
        let domain = TrustDomain::new(next().unwrap_or_default())?;
        let subject = match (next(), next(), next(), next(), next()) {
            (Some("vm"), Some(vm), Some("device"), None, None) => Subject::Device(VmName::new(vm)?),
            (Some("vm"), Some(vm), Some("svc"), Some(service), None) => {
                Subject::Service(VmName::new(vm)?, ServiceName::new(service)?)
            }
            _ => return Err(BadSpiffeId::Path),
        };
        Ok(Self { domain, subject })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject {
            Subject::Device(vm) => write!(f, "{SCHEME}{}/vm/{vm}/device", self.domain),
            Subject::Service(vm, name) => write!(f, "{SCHEME}{}/vm/{vm}/svc/{name}", self.domain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn every_form_survives_a_round_trip() {
        for uri in [
            "spiffe://car.example/vm/ivi/device",
            "spiffe://car.example/vm/ivi/svc/camera",
        ] {
            assert_eq!(SpiffeId::parse(uri).unwrap().to_string(), uri);
        }
    }

    #[test]
    fn other_uris_are_refused() {
        for uri in [
            "",
            "https://car.example/vm/ivi/device",
            "spiffe://car.example",
            "spiffe://car.example/",
            "spiffe://car.example/vm/ivi/device/",
            "spiffe://car.example/vm/ivi",
            "spiffe://car.example/vm//device",
            "spiffe://car.example/vm/ivi/svc/",
            "spiffe://car.example/vm/IVI/device",
            "spiffe:///vm/ivi/device",
            "spiffe://car.example/vm/ivi/device?x",
            "spiffe://car.example:1/vm/ivi/device",
        ] {
            assert!(SpiffeId::parse(uri).is_err(), "{uri} was accepted");
        }
    }
}
