//! Identities.
#![expect(
    unsafe_code,
    reason = "a C caller's pointers are taken at its word; each function says which"
)]
#![expect(
    non_camel_case_types,
    reason = "these are the names that a C program sees"
)]

use std::ffi::{c_char, c_int};
use std::path::Path;

use super::{close, handle, run, text};
use crate::Identity;

/// The identity of a service.
#[derive(Debug)]
pub struct sivshm_identity(pub(super) Identity);

/// Loads an identity from PEM files: the SVID with its intermediates, its key, the trust bundle
/// and, unless `crl` is null, a revocation list.
///
/// # Safety
/// `svid`, `key` and `bundle` are strings; `crl` is null or a string; `*identity` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_identity_load(
    svid: *const c_char,
    key: *const c_char,
    bundle: *const c_char,
    crl: *const c_char,
    identity: *mut *mut sivshm_identity,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let (svid, key, bundle, out) =
            unsafe { (text(svid)?, text(key)?, text(bundle)?, handle(identity)?) };
        let mut loaded = Identity::load(Path::new(svid), Path::new(key), Path::new(bundle))?;
        if !crl.is_null() {
            // SAFETY: the caller's promise, word for word.
            loaded = loaded.with_crl(Path::new(unsafe { text(crl) }?))?;
        }
        *out = Box::into_raw(Box::new(sivshm_identity(loaded)));
        Ok(())
    })
}

/// Loads the identity of a service where the system keeps it.
///
/// # Safety
/// `service` is a string; `*identity` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_identity_named(
    service: *const c_char,
    identity: *mut *mut sivshm_identity,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let (service, out) = unsafe { (text(service)?, handle(identity)?) };
        *out = Box::into_raw(Box::new(sivshm_identity(Identity::named(service)?)));
        Ok(())
    })
}

/// Frees an identity; sessions that were opened with it stay.
///
/// # Safety
/// `identity` is null or live, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_identity_free(identity: *mut sivshm_identity) {
    // SAFETY: the caller's promise, word for word.
    unsafe { close(identity) };
}
