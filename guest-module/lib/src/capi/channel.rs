//! Opening channels.
#![expect(
    unsafe_code,
    reason = "a C caller's pointers are taken at its word; each function says which"
)]
#![expect(
    non_camel_case_types,
    reason = "these are the names that a C program sees"
)]

use std::ffi::{c_char, c_int};

use super::region::{sivshm_region_reader, sivshm_region_writer};
use super::ring::{sivshm_consumer, sivshm_producer};
use super::{Failed, close, handle, run, shared, sivshm_session, text, timeout};
use crate::{Cancel, Channel, Error, Integrity, Open, Session, Wait};

/// As `wait`: sleep until the peer rings.
pub const SIVSHM_WAIT_INTERRUPT: c_int = 0;
/// As `wait`: look again and again.
pub const SIVSHM_WAIT_POLL: c_int = 1;

/// As `integrity`: what the policy says.
pub const SIVSHM_INTEGRITY_ANY: c_int = 0;
/// As `integrity`: none.
pub const SIVSHM_INTEGRITY_NONE: c_int = 1;
/// As `integrity`: CRC-32C.
pub const SIVSHM_INTEGRITY_CRC32C: c_int = 2;
/// As `integrity`: AES-128-GCM.
pub const SIVSHM_INTEGRITY_AEAD: c_int = 3;

/// An end of a channel, of any kind.
#[derive(Debug)]
pub struct sivshm_channel(Channel);

/// What gives up openings, from any thread.
#[derive(Debug)]
pub struct sivshm_cancel(Cancel);

/// How to open a channel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sivshm_open_options {
    /// Longest wait for everybody who has to agree, in milliseconds.
    pub timeout_ms: u32,
    /// How the end waits for its peer once it is open.
    pub wait: c_int,
    /// How the channel must be protected.
    pub integrity: c_int,
    /// What can give up the opening; may be null.
    pub cancel: *const sivshm_cancel,
}

/// What a C caller says about an opening.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) session: *const sivshm_session,
    pub(super) channel: *const c_char,
    pub(super) peers: *const *const c_char,
    pub(super) count: usize,
    pub(super) options: *const sivshm_open_options,
}

/// Opens an end of a channel.
///
/// # Safety
/// The request's `session` is a live session; `channel` is a string; `peers` are `count` strings;
/// `options` is null, or readable with a `cancel` that is null or live; `*end` is writable.
pub(super) unsafe fn open_end<T>(
    request: Request,
    end: *mut *mut T,
    take: impl FnOnce(&Session, &str, &Open) -> Result<T, Error>,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let (session, channel, out) = unsafe {
            let session = shared(request.session)?;
            (session, text(request.channel)?, handle(end)?)
        };
        // SAFETY: the caller's promise, word for word.
        let options = unsafe { options(request) }?;
        *out = Box::into_raw(Box::new(take(&session.0, channel, &options)?));
        Ok(())
    })
}

/// # Safety
/// As [`open_end`].
unsafe fn options(request: Request) -> Result<Open, Failed> {
    let mut options = Open::new();
    // SAFETY: the caller's promise, word for word.
    if let Some(given) = unsafe { request.options.as_ref() } {
        options = options.timeout(timeout(given.timeout_ms));
        options = options.wait(match given.wait {
            SIVSHM_WAIT_INTERRUPT => Wait::Interrupt,
            SIVSHM_WAIT_POLL => Wait::Poll,
            _ => return Err(Failed::Argument("wait is neither interrupt nor poll")),
        });
        let integrity = match given.integrity {
            SIVSHM_INTEGRITY_ANY => None,
            SIVSHM_INTEGRITY_NONE => Some(Integrity::None),
            SIVSHM_INTEGRITY_CRC32C => Some(Integrity::Crc32c),
            SIVSHM_INTEGRITY_AEAD => Some(Integrity::Aead),
            _ => return Err(Failed::Argument("there is no such integrity")),
        };
        if let Some(integrity) = integrity {
            options = options.integrity(integrity);
        }
        // SAFETY: the caller's promise, word for word.
        if let Some(cancel) = unsafe { given.cancel.as_ref() } {
            options = options.cancel(&cancel.0);
        }
    }
    if request.peers.is_null() && request.count > 0 {
        return Err(Failed::Argument("the peers are null"));
    }
    for place in 0..request.count {
        // SAFETY: not null, and for the rest as the caller promises: `place` is below `count`.
        let peer = unsafe { text(*request.peers.add(place)) }?;
        options = options.peer(peer);
    }
    Ok(options)
}

/// Opens this service's end of a channel, once every service at the other end has opened its own:
/// `peers` are `count` names of them, `VM/SERVICE` or whole SPIFFE IDs. Null `options` wait 30
/// seconds, by interrupt, with any integrity.
///
/// # Safety
/// `session` is a live session; `channel` is a string; `peers` are `count` strings; `options` is
/// null, or readable with a `cancel` that is null or live; `*end` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_channel_open(
    session: *const sivshm_session,
    channel: *const c_char,
    peers: *const *const c_char,
    count: usize,
    options: *const sivshm_open_options,
    end: *mut *mut sivshm_channel,
) -> c_int {
    let request = Request {
        session,
        channel,
        peers,
        count,
        options,
    };
    // SAFETY: the caller's promise, word for word.
    unsafe {
        open_end(request, end, |s, c, o| {
            Channel::open(s, c, o).map(sivshm_channel)
        })
    }
}

/// Lets go of an end.
///
/// # Safety
/// `channel` is null or live, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_channel_close(channel: *mut sivshm_channel) {
    // SAFETY: the caller's promise, word for word.
    unsafe { close(channel) };
}

/// Turns an end into one of a kind. It is gone afterwards, also if it is of another kind.
///
/// # Safety
/// `channel` is live and not used again; `*end` is writable.
unsafe fn into_end<T>(
    channel: *mut sivshm_channel,
    end: *mut *mut T,
    cast: impl FnOnce(Channel) -> Result<T, Error>,
) -> c_int {
    run(|| {
        if channel.is_null() {
            return Err(Failed::Argument("the channel is null"));
        }
        // SAFETY: not null, and a live channel came from `Box::into_raw` in `open_end`.
        let channel = unsafe { Box::from_raw(channel) };
        // SAFETY: the caller's promise, word for word.
        let out = unsafe { handle(end) }?;
        *out = Box::into_raw(Box::new(cast(channel.0)?));
        Ok(())
    })
}

/// The writing end of a region. `channel` is gone afterwards, also on failure.
///
/// # Safety
/// `channel` is live and not used again; `*writer` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_channel_into_region_writer(
    channel: *mut sivshm_channel,
    writer: *mut *mut sivshm_region_writer,
) -> c_int {
    // SAFETY: the caller's promise, word for word.
    unsafe {
        into_end(channel, writer, |c| {
            c.into_region_writer().map(sivshm_region_writer)
        })
    }
}

/// A reading end of a region. `channel` is gone afterwards, also on failure.
///
/// # Safety
/// `channel` is live and not used again; `*reader` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_channel_into_region_reader(
    channel: *mut sivshm_channel,
    reader: *mut *mut sivshm_region_reader,
) -> c_int {
    // SAFETY: the caller's promise, word for word.
    unsafe {
        into_end(channel, reader, |c| {
            c.into_region_reader().map(sivshm_region_reader)
        })
    }
}

/// The writing end of a ring. `channel` is gone afterwards, also on failure.
///
/// # Safety
/// `channel` is live and not used again; `*producer` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_channel_into_producer(
    channel: *mut sivshm_channel,
    producer: *mut *mut sivshm_producer,
) -> c_int {
    // SAFETY: the caller's promise, word for word.
    unsafe {
        into_end(channel, producer, |c| {
            c.into_producer().map(sivshm_producer)
        })
    }
}

/// A reading end of a ring. `channel` is gone afterwards, also on failure.
///
/// # Safety
/// `channel` is live and not used again; `*consumer` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_channel_into_consumer(
    channel: *mut sivshm_channel,
    consumer: *mut *mut sivshm_consumer,
) -> c_int {
    // SAFETY: the caller's promise, word for word.
    unsafe {
        into_end(channel, consumer, |c| {
            c.into_consumer().map(sivshm_consumer)
        })
    }
}

/// Makes what gives up openings; `sivshm_cancel_free` frees it.
#[unsafe(no_mangle)]
pub extern "C" fn sivshm_cancel_new() -> *mut sivshm_cancel {
    Box::into_raw(Box::new(sivshm_cancel(Cancel::new())))
}

/// Ends every opening and renewal that was given `cancel`, now and later. May be called while other
/// threads open with it.
///
/// # Safety
/// `cancel` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_cancel_now(cancel: *const sivshm_cancel) {
    // SAFETY: the caller's promise, word for word.
    if let Some(cancel) = unsafe { cancel.as_ref() } {
        cancel.0.cancel();
    }
}

/// Frees what gives up openings; those under way go on.
///
/// # Safety
/// `cancel` is null or live, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_cancel_free(cancel: *mut sivshm_cancel) {
    // SAFETY: the caller's promise, word for word.
    unsafe { close(cancel) };
}
