//! SIVSHM's certificate authority: SPIFFE X509-SVIDs for device processes and services
//! (DESIGN section 12).
//!
//! A CA is a directory. [`Authority::init`] makes one, [`Authority::open`] checks one before it is
//! used, and [`Authority::issue`] signs a leaf with a fresh key and records it in the ledger before
//! anybody gets it. [`Authority::revoke`] puts leaves on the revocation list. The profile is normative in `docs/identity.md`; it lives in
//! [`profile`] and nowhere else.
#![forbid(unsafe_code)]

pub mod authority;
pub mod files;
pub mod key;
pub mod ledger;
pub mod profile;

pub use authority::{Authority, Crl, Issued, Revoked, Target};
