//! The one URI of a stranger's certificate.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sivshm_abi::identity::SpiffeId;

// A SPIFFE ID that is read has one form only: no two URIs name the same party.
fuzz_target!(|uri: &str| {
    if let Ok(id) = SpiffeId::parse(uri) {
        assert_eq!(id.to_string(), uri);
    }
});
