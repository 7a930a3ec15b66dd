//! Rings.
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
use crate::{Consumer, Producer};

/// The writing end of a ring.
#[derive(Debug)]
pub struct sivshm_producer(pub(super) Producer);

/// A reading end of a ring.
#[derive(Debug)]
pub struct sivshm_consumer(pub(super) Consumer);

/// A payload that was received.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sivshm_received {
    /// Number of its slot, from 1.
    pub number: u64,
    /// Bytes of the payload.
    pub length: usize,
    /// Slots lost just before this one, because the producer overwrote them.
    pub lost: u64,
}

/// Opens the writing end of a ring, as `sivshm_channel_open`.
///
/// # Safety
/// As `sivshm_channel_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_producer_open(
    session: *const sivshm_session,
    channel: *const c_char,
    peers: *const *const c_char,
    count: usize,
    options: *const sivshm_open_options,
    producer: *mut *mut sivshm_producer,
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
        open_end(request, producer, |s, c, o| {
            s.producer(c, o).map(sivshm_producer)
        })
    }
}

/// Lets go of a writing end.
///
/// # Safety
/// `producer` is null or live, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_producer_close(producer: *mut sivshm_producer) {
    // SAFETY: the caller's promise, word for word.
    unsafe { close(producer) };
}

/// Waits for the channel's next epoch, if this end was revoked; else does nothing.
///
/// # Safety
/// `producer` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_producer_renew(
    producer: *mut sivshm_producer,
    timeout_ms: u32,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let producer = unsafe { handle(producer) }?;
        Ok(producer.0.renew(timeout(timeout_ms))?)
    })
}

/// Bytes that a payload can have; 0 for null.
///
/// # Safety
/// `producer` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_producer_slot_bytes(producer: *const sivshm_producer) -> u32 {
    // SAFETY: the caller's promise, word for word.
    unsafe { producer.as_ref() }.map_or(0, |producer| producer.0.slot_bytes())
}

/// Stages a payload for the next publication; `*staged` says whether there was a free slot.
///
/// # Safety
/// `producer` is live; `bytes` are `length` readable bytes; `*staged` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_producer_stage(
    producer: *mut sivshm_producer,
    bytes: *const c_void,
    length: usize,
    staged: *mut bool,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let (producer, bytes, out) =
            unsafe { (handle(producer)?, input(bytes, length)?, handle(staged)?) };
        *out = producer.0.stage(bytes)?;
        Ok(())
    })
}

/// Publishes every staged payload and rings the consumers that sleep.
///
/// # Safety
/// `producer` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_producer_publish(producer: *mut sivshm_producer) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let producer = unsafe { handle(producer) }?;
        Ok(producer.0.publish()?)
    })
}

/// Sends one payload: waits for a free slot if there is none, stages and publishes.
///
/// # Safety
/// `producer` is live; `bytes` are `length` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_producer_send(
    producer: *mut sivshm_producer,
    bytes: *const c_void,
    length: usize,
    timeout_ms: u32,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let (producer, bytes) = unsafe { (handle(producer)?, input(bytes, length)?) };
        Ok(producer.0.send(bytes, timeout(timeout_ms))?)
    })
}

/// Opens a reading end of a ring, as `sivshm_channel_open`.
///
/// # Safety
/// As `sivshm_channel_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_consumer_open(
    session: *const sivshm_session,
    channel: *const c_char,
    peers: *const *const c_char,
    count: usize,
    options: *const sivshm_open_options,
    consumer: *mut *mut sivshm_consumer,
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
        open_end(request, consumer, |s, c, o| {
            s.consumer(c, o).map(sivshm_consumer)
        })
    }
}

/// Lets go of a reading end.
///
/// # Safety
/// `consumer` is null or live, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_consumer_close(consumer: *mut sivshm_consumer) {
    // SAFETY: the caller's promise, word for word.
    unsafe { close(consumer) };
}

/// Waits for the channel's next epoch, if this end was revoked; else does nothing.
///
/// # Safety
/// `consumer` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_consumer_renew(
    consumer: *mut sivshm_consumer,
    timeout_ms: u32,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let consumer = unsafe { handle(consumer) }?;
        Ok(consumer.0.renew(timeout(timeout_ms))?)
    })
}

/// Receives one payload, waiting for it if there is none. Its slot is given back by
/// `sivshm_consumer_acknowledge`, or when a later call waits.
///
/// # Safety
/// `consumer` is live; `to` are `capacity` writable bytes; `*received` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_consumer_receive(
    consumer: *mut sivshm_consumer,
    to: *mut c_void,
    capacity: usize,
    timeout_ms: u32,
    received: *mut sivshm_received,
) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let (consumer, to, out) =
            unsafe { (handle(consumer)?, output(to, capacity)?, handle(received)?) };
        let found = consumer.0.receive(to, timeout(timeout_ms))?;
        *out = sivshm_received {
            number: found.number,
            length: found.length,
            lost: found.lost,
        };
        Ok(())
    })
}

/// Gives every slot received so far back to the producer.
///
/// # Safety
/// `consumer` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sivshm_consumer_acknowledge(consumer: *mut sivshm_consumer) -> c_int {
    run(|| {
        // SAFETY: the caller's promise, word for word.
        let consumer = unsafe { handle(consumer) }?;
        Ok(consumer.0.acknowledge()?)
    })
}
