//! Names of VMs, services, channels and trust domains, in fixed space.
//!
//! A name that exists is valid: parsing is the only way to make one.

use core::fmt;

use crate::limits::{MAX_NAME_BYTES, MAX_TRUST_DOMAIN_BYTES};

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BadName {
    /// The text is empty.
    Empty,
    /// The text has more bytes than a name may have.
    TooLong {
        /// Bytes found.
        got: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A byte outside the alphabet of names.
    BadByte {
        /// Position of the byte, from 0.
        at: usize,
        /// The byte itself.
        byte: u8,
    },
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => f.write_str("a name can't be empty"),
            Self::TooLong { got, max } => {
                write!(f, "{got} bytes are too long for a name: at most {max}")
            }
            Self::BadByte { at, byte } => write!(
                f,
                "byte {at} ({:?}) can't be in a name: use a-z, 0-9 and `-`, starting with a letter",
                char::from(byte)
            ),
        }
    }
}

impl core::error::Error for BadName {}

/// Text of at most `N` bytes, checked when it was made.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
struct Text<const N: usize> {
    // Unused bytes are zero, so that derived equality and ordering by bytes are those of the text.
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Text<N> {
    fn new(text: &str, allowed: fn(usize, u8) -> bool) -> Result<Self, BadName> {
        let len = u8::try_from(text.len())
            .ok()
            .filter(|len| usize::from(*len) <= N)
            .ok_or(BadName::TooLong {
                got: text.len(),
                max: N,
            })?;
        if len == 0 {
            return Err(BadName::Empty);
        }
        let mut bytes = [0; N];
        for (at, (slot, byte)) in bytes.iter_mut().zip(text.bytes()).enumerate() {
            if !allowed(at, byte) {
                return Err(BadName::BadByte { at, byte });
            }
            *slot = byte;
        }
        Ok(Self { bytes, len })
    }

    fn as_str(&self) -> &str {
        // Both fallbacks are unreachable: `new` admits only ASCII and bounds `len`.
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

fn label_byte(at: usize, byte: u8) -> bool {
    byte.is_ascii_lowercase() || (at > 0 && (byte.is_ascii_digit() || byte == b'-'))
}

fn domain_byte(at: usize, byte: u8) -> bool {
    byte.is_ascii_lowercase()
        || byte.is_ascii_digit()
        || (at > 0 && matches!(byte, b'-' | b'.' | b'_'))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr, $allowed:path) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Eq, Hash, PartialEq)]
        pub struct $name(Text<{ $max }>);

        impl $name {
            /// Bytes of the fixed field that carries this name on the wire, zero padded.
            pub const FIELD_BYTES: usize = $max;

            /// Parses a name.
            ///
            /// # Errors
            /// Says which byte is wrong, or that the text is empty or too long.
            pub fn new(text: &str) -> Result<Self, BadName> {
                Text::new(text, $allowed).map(Self)
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// The fixed, zero-padded field that carries this name on the wire.
            #[must_use]
            pub fn to_field(self) -> [u8; $max] {
                self.0.bytes
            }

            /// Parses a fixed, zero-padded field.
            ///
            /// # Errors
            /// As [`Self::new`]; a byte after the padding has begun is a bad byte.
            pub fn from_field(field: &[u8; $max]) -> Result<Self, BadName> {
                let len = field.iter().position(|byte| *byte == 0).unwrap_or($max);
                let (text, padding) = field.split_at_checked(len).unwrap_or((field, &[]));
                if let Some(at) = padding.iter().position(|byte| *byte != 0) {
                    return Err(BadName::BadByte { at: len + at, byte: 0 });
                }
                let text = core::str::from_utf8(text).map_err(|error| BadName::BadByte {
                    at: error.valid_up_to(),
                    byte: text.get(error.valid_up_to()).copied().unwrap_or_default(),
                })?;
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> core::cmp::Ordering {
                self.as_str().cmp(other.as_str())
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl core::str::FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::new(text)
            }
        }
    };
}

name!(
    /// Name of a VM: `a-z`, `0-9`, `-`, starting with a letter.
    VmName, MAX_NAME_BYTES, label_byte
);
name!(
    /// Name of a service within its VM: same alphabet as [`VmName`].
    ServiceName, MAX_NAME_BYTES, label_byte
);
name!(
    /// Name of a channel: same alphabet as [`VmName`].
    ChannelName, MAX_NAME_BYTES, label_byte
);
name!(
    /// A SPIFFE trust domain (SPIFFE-ID section 2.1): `a-z`, `0-9`, `.`, `-`, `_`.
    TrustDomain, MAX_TRUST_DOMAIN_BYTES, domain_byte
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_name_survives_its_field() {
        let name = VmName::new("worker-31").unwrap();
        assert_eq!(VmName::from_field(&name.to_field()).unwrap(), name);
        assert_eq!(name.to_string(), "worker-31");
    }

    #[test]
    fn bad_names_are_refused_with_the_place() {
        assert_eq!(VmName::new(""), Err(BadName::Empty));
        assert_eq!(
            VmName::new("a/b"),
            Err(BadName::BadByte { at: 1, byte: b'/' })
        );
        assert_eq!(
            VmName::new("1a"),
            Err(BadName::BadByte { at: 0, byte: b'1' })
        );
        assert_eq!(
            VmName::new(&"a".repeat(33)),
            Err(BadName::TooLong { got: 33, max: 32 })
        );
        assert!(TrustDomain::new("car.example").is_ok());
        assert!(TrustDomain::new(".car").is_err());
    }

    #[test]
    fn bytes_behind_the_padding_are_refused() {
        let mut field = VmName::new("ivi").unwrap().to_field();
        field[10] = b'x';
        assert!(VmName::from_field(&field).is_err());
    }

    #[test]
    fn order_is_that_of_the_text() {
        let mut names = ["b", "a-1", "a", "ab"].map(|n| VmName::new(n).unwrap());
        names.sort();
        assert_eq!(names.map(|n| n.to_string()), ["a", "a-1", "ab", "b"]);
    }
}
