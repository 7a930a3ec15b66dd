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

pub mod region;
pub mod ring;

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::time::Duration;

use crate::{Error, Session, Wait};

/// Success.
pub const SIVSHM_OK: c_int = 0;
/// The session could not be opened.
pub const SIVSHM_OPEN: c_int = -1;
/// The session has ended; open a new one.
pub const SIVSHM_ENDED: c_int = -2;
/// The channel was revoked; open it again, or end.
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
/// An argument is null, no text, no channel name, or not of this kind of channel.
pub const SIVSHM_ARGUMENT: c_int = -9;

/// As `wait`: sleep until the peer rings.
pub const SIVSHM_WAIT_INTERRUPT: c_int = 0;
/// As `wait`: look again and again.
pub const SIVSHM_WAIT_POLL: c_int = 1;

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
                Error::Name(_) | Error::Kind(_) => SIVSHM_ARGUMENT,
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

fn wait(wait: c_int) -> Result<Wait, Failed> {
    match wait {
        SIVSHM_WAIT_INTERRUPT => Ok(Wait::Interrupt),
        SIVSHM_WAIT_POLL => Ok(Wait::Poll),
        _ => Err(Failed::Argument("wait is neither interrupt nor poll")),
    }
}

fn timeout(timeout_ms: u32) -> Duration {
    match timeout_ms {
        SIVSHM_FOREVER => Duration::MAX,
        timeout_ms => Duration::from_millis(timeout_ms.into()),
    }
}

/// Opens a session: at `path`, or where this program runs if `path` is null.
///
/// # Safety
/// `path` is null or a string. `*session` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_session_open(
    path: *const c_char,
    session: *mut *mut sivshm_session,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let out = unsafe { handle(session) }?;
        let opened = if path.is_null() {
            Session::open()?
        } else {
            // SAFETY: the caller's promise, word for word.
            Session::open_device(Path::new(unsafe { text(path) }?))?
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

/// Takes an end of a channel.
///
/// # Safety
/// `session` is a live session; `channel` is a string; `*end` is writable.
unsafe fn open_end<T>(
    session: *mut sivshm_session,
    channel: *const c_char,
    wait: c_int,
    timeout_ms: u32,
    end: *mut *mut T,
    take: impl FnOnce(&Session, &str, Wait, Duration) -> Result<T, Error>,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let (session, channel, out) = unsafe { (handle(session)?, text(channel)?, handle(end)?) };
        let taken = take(&session.0, channel, self::wait(wait)?, timeout(timeout_ms))?;
        *out = Box::into_raw(Box::new(taken));
        Ok(())
    })
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

    /// The words of the last failure.
    fn words() -> String {
        // SAFETY: the pointer is that of this thread's words, which end with a zero byte.
        let words = unsafe { CStr::from_ptr(sivshm_last_error()) };
        words.to_str().unwrap().to_owned()
    }

    #[test]
    fn nulls_and_bad_paths_are_refused_in_words() {
        let mut session = std::ptr::null_mut();
        assert_eq!(words(), "");
        // SAFETY: null is allowed to be passed, and is refused.
        let code = unsafe { sivshm_session_open(std::ptr::null(), std::ptr::null_mut()) };
        assert_eq!(code, SIVSHM_ARGUMENT);
        let path = c"/nonexistent/sivshm".as_ptr();
        // SAFETY: `path` is a string, `session` is writable.
        let code = unsafe { sivshm_session_open(path, &raw mut session) };
        assert_eq!(code, SIVSHM_OPEN);
        assert!(words().contains("load the sivshm module"), "{}", words());
        assert!(session.is_null());
        // SAFETY: null is allowed.
        unsafe { sivshm_session_close(session) };
    }
}
