//! What goes through open channels, and how they end.

use std::time::Duration;

use sivshm_abi::channel::head;
use sivshm_abi::frame::Reason;
use sivshm_abi::grant::{Integrity, Kind};
use sivshm_ring::line::ReaderLine;
use sivshm_ring::slots::{self, Geometry};
use sivshm_sys::eventfd;

use super::host::{Host, LIMIT, RANGE, job, result, rung, start};
use crate::{Error, Open, RegionReader, RegionWriter, Session, Wait};

fn options() -> Open {
    Open::new().peer("worker-1/reducer").timeout(LIMIT)
}

fn job_writer(host: &mut Host, session: &Session) -> RegionWriter {
    host.during(|| session.region_writer("job", &options()).unwrap())
}

fn result_reader(host: &mut Host, session: &Session, wait: Wait) -> RegionReader {
    host.during(|| {
        session
            .region_reader("result", &options().wait(wait))
            .unwrap()
    })
}

#[test]
fn a_message_goes_out_and_its_acknowledgement_comes_back() {
    let (mut host, session) = start(Kind::Region);
    let mut writer = job_writer(&mut host, &session);
    assert_eq!(writer.capacity() as u64, RANGE - 4096);
    let mut reader = host.job_reader();
    writer.write(b"hello", LIMIT).unwrap();
    assert_eq!(eventfd::drain(&host.peer).unwrap(), 0, "nobody slept");
    let message = reader.poll().unwrap().unwrap();
    let mut bytes = [0; 5];
    reader.copy_out(message, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");

    // The writer sleeps for the acknowledgement; the peer rings because it does.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| writer.wait_seen(LIMIT).unwrap());
        while host.windows[0].load_u64(head::WAITING).unwrap() == 0 {
            std::thread::yield_now();
        }
        assert!(reader.acknowledge(message));
        eventfd::ring(&host.vectors[1]).unwrap();
        waiting.join().unwrap();
    });

    // The peer sleeps; the writer rings it.
    let slept = reader.sleeper().wait(
        0,
        || reader.poll().map_err(|fault| fault.to_string()),
        || {
            writer.write(b"again", LIMIT).unwrap();
            rung(&host.peer).then_some(()).ok_or("not rung".to_owned())
        },
    );
    assert_eq!(slept.unwrap().sequence, 2);
}

#[test]
fn a_reader_that_sleeps_is_woken_in_either_mode() {
    for wait in [Wait::Interrupt, Wait::Poll] {
        let (mut host, session) = start(Kind::Region);
        let mut reader = result_reader(&mut host, &session, wait);
        let mut writer = host.result_writer();
        let bytes = std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut bytes = [0; 8];
                let length = reader.read(&mut bytes, LIMIT).unwrap();
                bytes[..length].to_vec()
            });
            writer.write(0, b"42").unwrap();
            writer.publish(2).unwrap();
            if writer.readers()[0].must_ring() {
                eventfd::ring(&host.vectors[1]).unwrap();
            }
            reading.join().unwrap()
        });
        assert_eq!(bytes, b"42");
        assert_eq!(writer.lagging(), Ok(None));
        let nothing = reader.wait(Duration::from_millis(20));
        assert!(matches!(nothing, Err(Error::Timeout(_))), "{nothing:?}");
    }
}

#[test]
fn a_peer_that_lies_is_named() {
    let (mut host, session) = start(Kind::Region);
    let mut reader = result_reader(&mut host, &session, Wait::Interrupt);
    let mut writer = host.result_writer();
    host.windows[1].store_u64(head::LENGTH, 1).unwrap();
    writer.publish(9).unwrap();
    let message = reader.wait(LIMIT).unwrap();
    reader.acknowledge(message).unwrap();
    host.windows[1].store_u64(head::SEQUENCE, 0).unwrap();
    let lied = reader.wait(LIMIT);
    assert!(matches!(lied, Err(Error::Peer(_))), "{lied:?}");
}

#[test]
fn a_channel_that_ends_says_so_in_every_call_until_it_is_renewed() {
    let (mut host, session) = start(Kind::Region);
    let mut writer = job_writer(&mut host, &session);
    let first = writer.epoch();
    writer.publish(0).unwrap();
    let ended = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| writer.wait_seen(LIMIT));
        host.end(job(), Reason::PeerGone);
        waiting.join().unwrap()
    });
    let gone = |error: &Error| matches!(error, Error::Revoked(Some(Reason::PeerGone)));
    assert!(ended.as_ref().is_err_and(gone), "{ended:?}");
    host.serve_until(|host| host.revoked.len() == 2);
    // The two services shake hands again by themselves; this end does not change under its owner.
    host.serve_until(|host| host.epochs[&job()] != first);
    assert!(gone(&writer.prepare(0, b"x").unwrap_err()));
    assert!(gone(&writer.publish(1).unwrap_err()));

    host.during(|| writer.renew(LIMIT).unwrap());
    assert_eq!(writer.epoch(), host.epochs[&job()]);
    let mut reader = host.job_reader();
    assert_eq!(writer.write(b"x", LIMIT).unwrap(), 1);
    assert_eq!(reader.poll().unwrap().unwrap().sequence, 1);
    // An end that stands stays as it is.
    writer.renew(LIMIT).unwrap();
    assert_eq!(writer.publish(0).unwrap(), 2);
}

#[test]
fn what_the_operator_ends_is_not_renewed() {
    let (mut host, session) = start(Kind::Region);
    let mut writer = job_writer(&mut host, &session);
    host.end(job(), Reason::Admin);
    host.serve_until(|host| host.revoked.len() == 2);
    let ended = host.during(|| writer.renew(LIMIT));
    assert!(
        matches!(ended, Err(Error::Revoked(Some(Reason::Admin)))),
        "{ended:?}"
    );
}

/// In either mode, and although the reader has seen numbers that the emptied page does not have.
#[test]
fn a_revoked_reader_blames_nobody() {
    for wait in [Wait::Interrupt, Wait::Poll] {
        let (mut host, session) = start(Kind::Region);
        let mut reader = result_reader(&mut host, &session, wait);
        let mut writer = host.result_writer();
        writer.publish(0).unwrap();
        let message = reader.wait(LIMIT).unwrap();
        reader.acknowledge(message).unwrap();
        let ended = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| reader.wait(LIMIT));
            host.end(result(), Reason::PeerGone);
            waiting.join().unwrap()
        });
        assert!(
            matches!(ended, Err(Error::Revoked(Some(Reason::PeerGone)))),
            "{ended:?}"
        );
        // The pages are gone: what the peer stores now is not seen.
        writer.publish(0).unwrap();
        assert!(reader.wait(LIMIT).is_err());
    }
}

#[test]
fn a_device_process_that_dies_ends_the_session() {
    let (mut host, session) = start(Kind::Region);
    let mut reader = result_reader(&mut host, &session, Wait::Interrupt);
    drop(host.port);
    let ended = reader.wait(LIMIT);
    let gone = |error: &Error| matches!(error, Error::Ended(Some(Reason::PeerGone)));
    assert!(ended.as_ref().is_err_and(gone), "{ended:?}");
    assert!(gone(
        &session.region_reader("result", &options()).unwrap_err()
    ));
    assert!(gone(&reader.renew(LIMIT).unwrap_err()));
}

/// Rings of four slots.
const SLOT_BYTES: u32 = 60_000;
const GEOMETRY: Geometry = Geometry {
    slot_bytes: SLOT_BYTES,
    overwrite: false,
    integrity: Integrity::None,
};

fn ring(integrity: Integrity) -> Kind {
    Kind::Ring {
        slot_bytes: SLOT_BYTES,
        overwrite: false,
        integrity,
    }
}

#[test]
fn a_producer_waits_for_a_full_ring() {
    let (mut host, session) = start(ring(Integrity::None));
    let mut producer = host.during(|| session.producer("job", &options()).unwrap());
    let (range, line) = host.views(job());
    let mut consumer = slots::Consumer::join(range, line, GEOMETRY, host.epochs[&job()]).unwrap();
    for value in 0..4 {
        producer.send(&[value; 3], LIMIT).unwrap();
    }
    assert_eq!(producer.free().unwrap(), 0);
    assert!(!producer.stage(&[4; 3]).unwrap());
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| producer.send(&[4; 3], LIMIT).unwrap());
        while range.load_u64(head::WAITING).unwrap() == 0 {
            std::thread::yield_now();
        }
        let mut payload = [0; 3];
        assert!(consumer.receive(&mut payload).unwrap().is_some());
        assert!(consumer.acknowledge());
        eventfd::ring(&host.vectors[1]).unwrap();
        sending.join().unwrap();
    });
    let mut last = [0; 3];
    while consumer.receive(&mut last).unwrap().is_some() {}
    assert_eq!(last, [4; 3]);
}

#[test]
fn a_consumer_receives_in_order_and_gives_back() {
    let (mut host, session) = start(ring(Integrity::None));
    let mut consumer = host.during(|| session.consumer("result", &options()).unwrap());
    let (range, line) = host.views(result());
    let epoch = host.epochs[&result()];
    let line = ReaderLine::new(line, epoch).unwrap();
    let mut producer = slots::Producer::start(range, GEOMETRY, [line], epoch).unwrap();
    for value in 0..4 {
        producer.stage(&[value]).unwrap();
    }
    producer.publish();
    let mut payload = [0; 1];
    for value in 0..4 {
        let received = consumer.receive(&mut payload, LIMIT).unwrap();
        assert_eq!((received.length, payload[0], received.lost), (1, value, 0));
    }
    assert_eq!(producer.free(), Ok(0));
    // A wait gives back what was received.
    let nothing = consumer.wait(Duration::from_millis(20));
    assert!(matches!(nothing, Err(Error::Timeout(_))), "{nothing:?}");
    assert_eq!(producer.free(), Ok(4));
}
