//! A policy file of any content: it compiles or is refused, the same each time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sivshm_policy::compile;

fuzz_target!(|text: &str| {
    assert_eq!(compile("policy.toml", text), compile("policy.toml", text));
});
