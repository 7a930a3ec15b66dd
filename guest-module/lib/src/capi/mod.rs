//! The C interface (`include/sivshm.h`, which is generated from this file).
//!
//! Every function that can fail gives [`SIVSHM_OK`] or a negative number; [`sivshm_last_error`]
//! then has the words. A handle belongs to one thread at a time, and is freed by its `_close`.
#![expect(
    unsafe_code,
    reason = "a C caller's pointers are taken at its word; each function says which"
)]
#![expect(
    non_camel_case_types,
    reason = "these are the names that a C program sees"
)]

pub mod channel;
pub mod identity;
pub mod region;
pub mod ring;

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::time::Duration;

use crate::{Error, Party, Session};
use identity::sivshm_identity;

/// Success.
pub const SIVSHM_OK: c_int = 0;
/// The session could not be opened.
pub const SIVSHM_OPEN: c_int = -1;
/// The session has ended; open a new one.
pub const SIVSHM_ENDED: c_int = -2;
/// The channel was revoked; renew the end, or close it.
pub const SIVSHM_REVOKED: c_int = -3;
/// Time is up.
pub const SIVSHM_TIMEOUT: c_int = -4;
/// The peer broke the channel's protocol; close the channel.
pub const SIVSHM_PEER: c_int = -5;
/// The peer overwrites slots faster than they are read; try again.
pub const SIVSHM_OUTRUN: c_int = -6;
/// Bytes do not fit the channel, or the buffer.
pub const SIVSHM_TOO_LONG: c_int = -7;
/// The host failed.
pub const SIVSHM_HOST: c_int = -8;
/// An argument is null, no text, no name, or not of this end of the channel.
pub const SIVSHM_ARGUMENT: c_int = -9;
/// The identity can't be used.
pub const SIVSHM_IDENTITY: c_int = -10;
/// The handshake with this VM's device process failed.
pub const SIVSHM_HANDSHAKE: c_int = -11;
/// This VM's device process refuses the channel.
pub const SIVSHM_REFUSED_BY_OWN_DEVICE: c_int = -12;
/// The device process of the VM at the other end refuses the channel.
pub const SIVSHM_REFUSED_BY_PEER_DEVICE: c_int = -13;
/// The service at the other end refuses the channel.
pub const SIVSHM_REFUSED_BY_PEER: c_int = -14;
/// The library refuses the channel: the others do not offer what was asked for.
pub const SIVSHM_REFUSED_HERE: c_int = -15;
/// The opening was cancelled.
pub const SIVSHM_CANCELLED: c_int = -16;
/// A slot is not the next one of the producer's; the following call goes on behind it.
pub const SIVSHM_BROKEN: c_int = -17;
/// The channel's key can't be used; open the channel again.
pub const SIVSHM_KEY: c_int = -18;

/// As `timeout_ms`: wait for ever.
pub const SIVSHM_FOREVER: u32 = u32::MAX;

/// A session.
#[derive(Debug)]
pub struct sivshm_session(Session);

/// Why a call failed.
enum Failed {
    /// The library says so.
    Error(Error),
    /// The C caller broke the interface; what it should have done.
    Argument(&'static str),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failed {
    const fn code(&self) -> c_int {
        match self {
            Self::Error(error) => match error {
                Error::Open { .. } => SIVSHM_OPEN,
                Error::Ended(_) => SIVSHM_ENDED,
                Error::Revoked(_) => SIVSHM_REVOKED,
                Error::Timeout(_) => SIVSHM_TIMEOUT,
                Error::Peer(_) => SIVSHM_PEER,
                Error::Outrun => SIVSHM_OUTRUN,
                Error::TooLong { .. } => SIVSHM_TOO_LONG,
                Error::Host { .. } => SIVSHM_HOST,
                Error::Identity { .. } => SIVSHM_IDENTITY,
                Error::Handshake(_) => SIVSHM_HANDSHAKE,
                Error::Refused { by, .. } => match by {
                    Party::Own => SIVSHM_REFUSED_HERE,
                    Party::OwnDevice => SIVSHM_REFUSED_BY_OWN_DEVICE,
                    Party::PeerDevice => SIVSHM_REFUSED_BY_PEER_DEVICE,
                    Party::Peer => SIVSHM_REFUSED_BY_PEER,
                },
                Error::Integrity(_) => SIVSHM_BROKEN,
                Error::Key(_) => SIVSHM_KEY,
                Error::Cancelled => SIVSHM_CANCELLED,
                Error::Name(_) | Error::Peers(_) | Error::Kind(_) => SIVSHM_ARGUMENT,
            },
            Self::Argument(_) => SIVSHM_ARGUMENT,
        }
    }

    /// The words, with all causes.
    fn words(&self) -> String {
        match self {
            Self::Argument(what) => (*what).to_owned(),
            Self::Error(error) => {
                let mut words = error.to_string();
                let mut cause = std::error::Error::source(error);
                while let Some(error) = cause {
                    words.push_str(": ");
                    words.push_str(&error.to_string());
                    cause = error.source();
                }
                words
            }
        }
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::new(CString::default());
}

/// Runs a call and keeps the words of its failure.
fn run(call: impl FnOnce() -> Result<(), Failed>) -> c_int {
    let Err(failed) = call() else {
        return SIVSHM_OK;
    };
    // No message holds a zero byte; one that did would be lost, and its code would remain.
    let words = CString::new(failed.words()).unwrap_or_default();
    LAST_ERROR.replace(words);
    failed.code()
}

/// The words of the last failure in this thread; empty if there was none. Valid until the next
/// call in this thread.
#[unsafe(no_mangle)]
pub extern "C" fn sivshm_last_error() -> *const c_char {
    LAST_ERROR.with_borrow(|words| words.as_ptr())
}

/// # Safety
/// Null, or a pointer to a live `T` that nobody else uses for `'a`.
unsafe fn handle<'a, T>(pointer: *mut T) -> Result<&'a mut T, Failed> {
    // SAFETY: as the caller promises; null is answered by `None`.
    unsafe { pointer.as_mut() }.ok_or(Failed::Argument("a handle or an output is null"))
}

/// # Safety
/// Null, or a pointer to a live `T` that nobody changes for `'a`.
unsafe fn shared<'a, T>(pointer: *const T) -> Result<&'a T, Failed> {
    // SAFETY: as the caller promises; null is answered by `None`.
    unsafe { pointer.as_ref() }.ok_or(Failed::Argument("a handle or an input is null"))
}

/// # Safety
/// Null, or a pointer to a string that ends with a zero byte and does not change for `'a`.
unsafe fn text<'a>(pointer: *const c_char) -> Result<&'a str, Failed> {
    if pointer.is_null() {
        return Err(Failed::Argument("a name is null"));
    }
    // SAFETY: not null, and for the rest as the caller promises.
    let text = unsafe { CStr::from_ptr(pointer) };
    (text.to_str()).map_err(|_| Failed::Argument("a name is not UTF-8"))
}

/// # Safety
/// `length` readable bytes that do not change for `'a`; may be null if `length` is 0.
unsafe fn input<'a>(pointer: *const c_void, length: usize) -> Result<&'a [u8], Failed> {
    match (pointer.is_null(), length) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Failed::Argument("the bytes are null")),
        // SAFETY: not null, and for the rest as the caller promises.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(pointer.cast(), length) }),
    }
}

/// # Safety
/// `length` writable, initialised bytes that nobody else uses for `'a`; may be null if `length` is
/// 0.
unsafe fn output<'a>(pointer: *mut c_void, length: usize) -> Result<&'a mut [u8], Failed> {
    match (pointer.is_null(), length) {
        (_, 0) => Ok(&mut []),
        (true, _) => Err(Failed::Argument("the buffer is null")),
        // SAFETY: not null, and for the rest as the caller promises.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts_mut(pointer.cast(), length) }),
    }
}

fn timeout(timeout_ms: u32) -> Duration {
    match timeout_ms {
        SIVSHM_FOREVER => Duration::MAX,
        timeout_ms => Duration::from_millis(timeout_ms.into()),
    }
}

/// Opens a session for a service: at `path`, or where this program runs if `path` is null. The
/// identity may be freed afterwards.
///
/// In a guest, the first channel that is opened makes the library take `SIGBUS`, so that an access
/// survives that the other end closes. Signals that are not of its own memory go to whoever had them
/// before. A program that installs a handler later keeps the action that `sigaction` gives back, and
/// calls its handler, with all three arguments, for every address that it does not know. No thread
/// that uses a channel may block the signal. The library can't be unloaded from then on.
///
/// # Safety
/// `identity` is a live identity; `path` is null or a string; `*session` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_session_open(
    identity: *const sivshm_identity,
    path: *const c_char,
    session: *mut *mut sivshm_session,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let (identity, out) = unsafe { (shared(identity)?, handle(session)?) };
        let opened = if path.is_null() {
            Session::open(&identity.0)?
        } else {
            // SAFETY: the caller's promise, word for word.
            Session::open_device(&identity.0, Path::new(unsafe { text(path) }?))?
        };
        *out = Box::into_raw(Box::new(sivshm_session(opened)));
        Ok(())
    })
}

/// Ends a session that no end of a channel uses any more; else it ends with the last of them.
///
/// # Safety
/// `session` is null or a live session, which is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_session_close(session: *mut sivshm_session) {
    // SAFETY: the caller's promise, word for word.
    unsafe { close(session) };
}

/// Frees what a handle stands for.
///
/// # Safety
/// `handle` is null or came from `Box::into_raw` of this module, and is not used again.
unsafe fn close<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: not null, and for the rest as the caller promises.
        drop(unsafe { Box::from_raw(handle) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Ca, service};

    /// The words of the last failure.
    fn words() -> String {
        // SAFETY: the pointer is that of this thread's words, which end with a zero byte.
        let words = unsafe { CStr::from_ptr(sivshm_last_error()) };
        words.to_str().unwrap().to_owned()
    }

    #[test]
    fn nulls_and_bad_paths_are_refused_in_words() {
        let (mut identity, mut session) = (std::ptr::null_mut(), std::ptr::null_mut());
        assert_eq!(words(), "");
        let (nobody, path) = (std::ptr::null(), std::ptr::null());
        // SAFETY: null is allowed to be passed, and is refused.
        let code = unsafe { sivshm_session_open(nobody, path, &raw mut session) };
        assert_eq!(code, SIVSHM_ARGUMENT);

        let nowhere = c"/nonexistent/svid.pem".as_ptr();
        let crl = std::ptr::null();
        // SAFETY: the paths are strings, `identity` is writable.
        let code = unsafe {
            identity::sivshm_identity_load(nowhere, nowhere, nowhere, crl, &raw mut identity)
        };
        assert_eq!(code, SIVSHM_IDENTITY);
        assert!(words().contains("/nonexistent/svid.pem"), "{}", words());
        assert!(identity.is_null());

        let folder = tempfile::tempdir().unwrap();
        let leaf = Ca::new().issue(service("manager", "mapper"));
        let files = leaf.write(folder.path(), "mapper");
        let [svid, key, bundle] =
            files.map(|path| CString::new(path.into_os_string().into_encoded_bytes()).unwrap());
        // SAFETY: as before.
        let code = unsafe {
            let [svid, key, bundle] = [&svid, &key, &bundle].map(|path| path.as_ptr());
            identity::sivshm_identity_load(svid, key, bundle, crl, &raw mut identity)
        };
        assert_eq!(code, SIVSHM_OK, "{}", words());
        let path = c"/nonexistent/sivshm".as_ptr();
        // SAFETY: `identity` is live, `path` is a string, `session` is writable.
        let code = unsafe { sivshm_session_open(identity, path, &raw mut session) };
        assert_eq!(code, SIVSHM_OPEN);
        assert!(words().contains("load the sivshm module"), "{}", words());
        assert!(session.is_null());
        // SAFETY: null is allowed, and the identity is not used again.
        unsafe {
            sivshm_session_close(session);
            identity::sivshm_identity_free(identity);
        }
    }
}
