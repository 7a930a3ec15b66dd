//! Regions.
#![expect(
    unsafe_code,
    reason = "a C caller's pointers are taken at its word; each function says which"
)]
#![expect(
    non_camel_case_types,
    reason = "these are the names that a C program sees"
)]

use std::ffi::{c_char, c_int, c_void};

use super::channel::{Request, open_end, sivshm_open_options};
use super::{close, handle, input, output, run, sivshm_session, timeout};
use crate::{Message, RegionReader, RegionWriter};

/// The writing end of a region.
#[derive(Debug)]
pub struct sivshm_region_writer(pub(super) RegionWriter);

/// The reading end of a region.
#[derive(Debug)]
pub struct sivshm_region_reader(pub(super) RegionReader);

/// A message found in a region.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sivshm_message {
    /// Its number, from 1.
    pub sequence: u64,
    /// Its bytes.
    pub length: usize,
}

impl From<sivshm_message> for Message {
    fn from(message: sivshm_message) -> Self {
        Self {
            sequence: message.sequence,
            length: message.length,
        }
    }
}

/// Opens the writing end of a region, as `sivshm_channel_open`.
///
/// # Safety
/// As `sivshm_channel_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_writer_open(
    session: *const sivshm_session,
    channel: *const c_char,
    peers: *const *const c_char,
    count: usize,
    options: *const sivshm_open_options,
    writer: *mut *mut sivshm_region_writer,
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
        open_end(request, writer, |s, c, o| {
            s.region_writer(c, o).map(sivshm_region_writer)
        })
    }
}

/// Lets go of a writing end.
///
/// # Safety
/// `writer` is null or live, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_writer_close(writer: *mut sivshm_region_writer) {
    // SAFETY: the caller's promise, word for word.
    unsafe { close(writer) };
}

/// Waits for the channel's next epoch, if this end was revoked; else does nothing.
///
/// # Safety
/// `writer` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_writer_renew(
    writer: *mut sivshm_region_writer,
    timeout_ms: u32,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let writer = unsafe { handle(writer) }?;
        Ok(writer.0.renew(timeout(timeout_ms))?)
    })
}

/// Bytes that a message can have; 0 for null.
///
/// # Safety
/// `writer` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_writer_capacity(
    writer: *const sivshm_region_writer,
) -> usize {
    // SAFETY: the caller's promise, word for word.
    unsafe { writer.as_ref() }.map_or(0, |writer| writer.0.capacity())
}

/// Waits until every reader has acknowledged the last message.
///
/// # Safety
/// `writer` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_writer_wait_seen(
    writer: *mut sivshm_region_writer,
    timeout_ms: u32,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let writer = unsafe { handle(writer) }?;
        Ok(writer.0.wait_seen(timeout(timeout_ms))?)
    })
}

/// Stores bytes of the next message. Readers that have not acknowledged the last one see them
/// change.
///
/// # Safety
/// `writer` is live; `bytes` are `length` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_writer_prepare(
    writer: *mut sivshm_region_writer,
    offset: usize,
    bytes: *const c_void,
    length: usize,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let (writer, bytes) = unsafe { (handle(writer)?, input(bytes, length)?) };
        Ok(writer.0.prepare(offset, bytes)?)
    })
}

/// Publishes the region's first `length` bytes and rings the readers that sleep.
///
/// # Safety
/// `writer` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_writer_publish(
    writer: *mut sivshm_region_writer,
    length: usize,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let writer = unsafe { handle(writer) }?;
        Ok(writer.0.publish(length).map(drop)?)
    })
}

/// Sends a message whole: waits until the last one is acknowledged, stores and publishes.
///
/// # Safety
/// `writer` is live; `bytes` are `length` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_writer_write(
    writer: *mut sivshm_region_writer,
    bytes: *const c_void,
    length: usize,
    timeout_ms: u32,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let (writer, bytes) = unsafe { (handle(writer)?, input(bytes, length)?) };
        Ok(writer.0.write(bytes, timeout(timeout_ms)).map(drop)?)
    })
}

/// Opens a reading end of a region, as `sivshm_channel_open`.
///
/// # Safety
/// As `sivshm_channel_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_reader_open(
    session: *const sivshm_session,
    channel: *const c_char,
    peers: *const *const c_char,
    count: usize,
    options: *const sivshm_open_options,
    reader: *mut *mut sivshm_region_reader,
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
        open_end(request, reader, |s, c, o| {
            s.region_reader(c, o).map(sivshm_region_reader)
        })
    }
}

/// Lets go of a reading end.
///
/// # Safety
/// `reader` is null or live, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_reader_close(reader: *mut sivshm_region_reader) {
    // SAFETY: the caller's promise, word for word.
    unsafe { close(reader) };
}

/// Waits for the channel's next epoch, if this end was revoked; else does nothing.
///
/// # Safety
/// `reader` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_reader_renew(
    reader: *mut sivshm_region_reader,
    timeout_ms: u32,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let reader = unsafe { handle(reader) }?;
        Ok(reader.0.renew(timeout(timeout_ms))?)
    })
}

/// Waits for a message that was not acknowledged yet.
///
/// # Safety
/// `reader` is live; `*message` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_reader_wait(
    reader: *mut sivshm_region_reader,
    timeout_ms: u32,
    message: *mut sivshm_message,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let (reader, out) = unsafe { (handle(reader)?, handle(message)?) };
        let found = reader.0.wait(timeout(timeout_ms))?;
        *out = sivshm_message {
            sequence: found.sequence,
            length: found.length,
        };
        Ok(())
    })
}

/// Copies bytes of a message out. They stay the writer's: judge what was copied, and don't copy
/// the same bytes twice.
///
/// # Safety
/// `reader` is live; `to` are `length` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_reader_copy_out(
    reader: *mut sivshm_region_reader,
    message: sivshm_message,
    offset: usize,
    to: *mut c_void,
    length: usize,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let (reader, to) = unsafe { (handle(reader)?, output(to, length)?) };
        Ok(reader.0.copy_out(message.into(), offset, to)?)
    })
}

/// Tells the writer that this reader is done with a message.
///
/// # Safety
/// `reader` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_reader_acknowledge(
    reader: *mut sivshm_region_reader,
    message: sivshm_message,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let reader = unsafe { handle(reader) }?;
        Ok(reader.0.acknowledge(message.into())?)
    })
}

/// Receives a message whole: waits, copies, acknowledges. A message longer than `capacity` stays.
///
/// # Safety
/// `reader` is live; `to` are `capacity` writable bytes; `*length` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_region_reader_read(
    reader: *mut sivshm_region_reader,
    to: *mut c_void,
    capacity: usize,
    timeout_ms: u32,
    length: *mut usize,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let (reader, to, out) =
            unsafe { (handle(reader)?, output(to, capacity)?, handle(length)?) };
        *out = reader.0.read(to, timeout(timeout_ms))?;
        Ok(())
    })
}
