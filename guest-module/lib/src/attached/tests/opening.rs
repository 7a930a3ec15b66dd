//! How channels open, and how they don't.

use std::time::Duration;

use sivshm_abi::frame::{Payload, Reason};
use sivshm_abi::grant::{Integrity, Kind};
use sivshm_abi::name::ChannelName;
use sivshm_handshake::service::ClientEvent;
use sivshm_handshake::service::wire::{RefusalReason, Role};

use super::host::{Host, LIMIT, job, mapper, reducer, result, start, start_as};
use crate::integrity::{Keys, Receiver, Suite};
use crate::tests::service;
use crate::{BadPeers, Cancel, Channel, Error, Open, Party, Received, Session};

/// For openings that can't come to anything, in sessions that are authenticated: enough to learn why,
/// which takes some milliseconds.
const SHORT: Duration = Duration::from_secs(2);

fn options() -> Open {
    Open::new().peer("worker-1/reducer").timeout(LIMIT)
}

/// A session that has been used, so that nothing but an opening takes time.
fn start_used() -> (Host, Session) {
    let (mut host, session) = start(Kind::Region);
    drop(host.during(|| session.region_reader("result", &options()).unwrap()));
    (host, session)
}

#[test]
fn a_channel_turns_into_the_end_that_the_policy_gives() {
    let (mut host, session) = start(Kind::Region);
    let end = host.during(|| Channel::open(&session, "job", &options()).unwrap());
    assert!(end.into_region_writer().is_ok());
    let end = host.during(|| Channel::open(&session, "result", &options()).unwrap());
    let other = end.into_consumer().unwrap_err();
    assert!(matches!(other, Error::Kind(_)), "{other}");
}

#[test]
fn wrong_names_are_found_before_anything_is_said() {
    let (_host, session) = start(Kind::Region);
    let open = |name: &str, options: &Open| session.region_writer(name, options).unwrap_err();
    assert!(matches!(open("No Name", &options()), Error::Name(_)));
    let none = open("job", &Open::new());
    assert!(matches!(none, Error::Peers(BadPeers::None)), "{none}");
    let device = open(
        "job",
        &Open::new().peer("spiffe://car.example/vm/worker-1/device"),
    );
    assert!(
        matches!(device, Error::Peers(BadPeers::NoService(_))),
        "{device}"
    );
}

#[test]
fn a_refusal_says_who_and_why() {
    let (mut host, session) = start(Kind::Region);
    let refused = |error: Error| match error {
        Error::Refused { by, refusal } => (by, refusal.reason),
        error => panic!("{error}"),
    };
    // The own device process, by its policy.
    for (name, peer, why) in [
        ("other", "worker-1/reducer", RefusalReason::Policy),
        ("result", "worker-1/reducer", RefusalReason::Policy),
        ("job", "worker-2/reducer", RefusalReason::Policy),
    ] {
        let options = Open::new().peer(peer).timeout(LIMIT);
        let error = host.during(|| session.region_writer(name, &options).unwrap_err());
        assert!(
            error.to_string().contains("device process of VM `manager`"),
            "{error}"
        );
        assert_eq!(refused(error), (Party::OwnDevice, why), "{name} {peer}");
    }
    let aead = options().integrity(Integrity::Aead);
    let error = host.during(|| session.region_writer("job", &aead).unwrap_err());
    assert_eq!(refused(error), (Party::OwnDevice, RefusalReason::Integrity));
    // Of an end of unknown role, too: the other role's refusal would say less.
    let error = host.during(|| Channel::open(&session, "job", &aead).unwrap_err());
    assert_eq!(refused(error), (Party::OwnDevice, RefusalReason::Integrity));
}

#[test]
fn an_opening_without_its_other_end_runs_out_of_time() {
    let (mut host, session) = start_used();
    host.mediator.peer("worker-1").close(job(), mapper());
    let short = options().timeout(SHORT);
    let late = host.during(|| session.region_writer("job", &short).unwrap_err());
    assert!(
        late.to_string().contains("has to open the channel too"),
        "{late}"
    );
    host.mediator.linked = false;
    let late = host.during(|| session.region_writer("job", &short).unwrap_err());
    assert!(
        late.to_string().contains("the other end's device process"),
        "{late}"
    );
    host.mediator.linked = true;
    // The wish went with it: the other end finds nobody.
    host.mediator
        .peer("worker-1")
        .want(job(), Role::Reader, mapper());
    let opened = |host: &mut Host| host.epochs.contains_key(&job());
    let late = host.during(|| session.region_reader("none", &options()).unwrap_err());
    assert!(matches!(late, Error::Refused { .. }), "{late}");
    assert!(!opened(&mut host));
    drop(host.during(|| session.region_writer("job", &options()).unwrap()));
}

/// The writer's end is tried first: that the policy does not give it is no news of the reader's.
#[test]
fn an_end_of_unknown_role_runs_out_of_time_like_any() {
    let (mut host, session) = start_used();
    host.mediator.peer("worker-1").close(result(), mapper());
    let short = options().timeout(SHORT);
    let late = host.during(|| Channel::open(&session, "result", &short).unwrap_err());
    assert!(matches!(late, Error::Timeout(_)), "{late}");
}

#[test]
fn a_session_that_is_ended_says_why_and_not_how() {
    let end = |reason: Option<Reason>| {
        let (mut host, session) = start_used();
        let last_words = host.mediator.session.farewell();
        host.send(&Payload::Data(&last_words));
        if let Some(reason) = reason {
            host.send(&Payload::Close(reason));
        }
        host.during(|| session.region_writer("job", &options()).unwrap_err())
    };
    let ended = end(Some(Reason::Expired));
    assert!(
        matches!(ended, Error::Ended(Some(Reason::Expired))),
        "{ended}"
    );
    // A device process that hangs up and says no more.
    let ended = end(None);
    assert!(matches!(ended, Error::Handshake(_)), "{ended}");
}

#[test]
fn a_cancelled_opening_ends_at_once_and_for_good() {
    let (mut host, session) = start(Kind::Region);
    host.mediator.peer("worker-1").close(job(), mapper());
    let cancel = Cancel::new();
    let forever = options().timeout(Duration::MAX).cancel(&cancel);
    let outcome = host.during(|| {
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| session.region_writer("job", &forever).unwrap_err());
            cancel.clone().cancel();
            opening.join().unwrap()
        })
    });
    assert!(matches!(outcome, Error::Cancelled), "{outcome}");
    let again = session.region_writer("result", &forever).unwrap_err();
    assert!(matches!(again, Error::Cancelled), "{again}");
}

#[test]
fn a_grant_that_no_handshake_covers_is_not_believed() {
    let (mut host, session) = start_used();
    host.mediator.peer("worker-1").close(job(), mapper());
    host.grant(job(), reducer("worker-1"), 7);
    let short = options().timeout(SHORT);
    let late = host.during(|| session.region_writer("job", &short).unwrap_err());
    assert!(matches!(late, Error::Timeout(_)), "{late}");
}

#[test]
fn grants_that_differ_from_what_was_signed_are_refused() {
    for (n, forge) in [
        (|grant| grant.kind = RING) as fn(&mut sivshm_abi::grant::Grant),
        |grant| {
            if let Some(peer) = &mut grant.peer {
                peer.vm = "worker-2".parse().unwrap();
            }
        },
    ]
    .into_iter()
    .enumerate()
    {
        let (mut host, session) = start(Kind::Region);
        host.forge = forge;
        let wrong = host.during(|| session.region_writer("job", &options()).unwrap_err());
        assert!(matches!(wrong, Error::Host { .. }), "{n}: {wrong}");
    }
    // Another epoch's are another end's.
    let (mut host, session) = start_used();
    host.forge = |grant| grant.epoch += 1;
    let short = options().timeout(SHORT);
    let late = host.during(|| session.region_writer("job", &short).unwrap_err());
    assert!(late.to_string().contains("grants"), "{late}");
}

#[test]
fn dropping_an_end_closes_it_for_the_other_side() {
    let (mut host, session) = start(Kind::Region);
    let reader = host.during(|| session.region_reader("result", &options()).unwrap());
    drop(reader);
    host.serve_until(|host| {
        (host.mediator.peer("worker-1").events.iter()).any(|event| {
            matches!(event, ClientEvent::Ended { channel, reason: Reason::OtherEnd, .. }
                if *channel == result())
        })
    });
    host.serve_until(|host| host.revoked.len() == 2);
    // An end that is opened again replaces the one before.
    let mut first = host.during(|| session.region_reader("result", &options()).unwrap());
    let second = host.during(|| session.region_reader("result", &options()).unwrap());
    assert_ne!(first.epoch(), second.epoch());
    let ended = first.wait(LIMIT);
    assert!(
        matches!(ended, Err(Error::Revoked(Some(Reason::Closed)))),
        "{ended:?}"
    );
    drop(first);
    drop((second, session));
    host.serve_until(|host| host.closed == Some(Reason::Closed));
}

#[test]
fn a_writer_goes_on_in_its_epoch_when_one_of_its_readers_comes_back() {
    let (mut host, session) = start_as(mapper());
    let fan = ChannelName::new("fan").unwrap();
    host.plan(fan, Kind::Region, mapper(), &["worker-1", "worker-2"]);
    for vm in ["worker-1", "worker-2"] {
        host.mediator.peer(vm).want(fan, Role::Reader, mapper());
    }
    let few = host.during(|| session.region_writer("fan", &options()).unwrap_err());
    let number = BadPeers::Number {
        named: 1,
        wanted: 2,
    };
    assert!(
        matches!(few, Error::Peers(ref bad) if *bad == number),
        "{few}"
    );

    let both = options().peer("worker-2/reducer");
    let mut writer = host.during(|| session.region_writer("fan", &both).unwrap());
    let epoch = writer.epoch();
    assert_eq!(writer.publish(1).unwrap(), 1);
    let peer = host.mediator.peer("worker-2");
    peer.close(fan, mapper());
    host.serve_until(|host| host.revoked.len() == 3);
    let ended = writer.publish(1);
    assert!(matches!(ended, Err(Error::Revoked(_))), "{ended:?}");
    host.mediator
        .peer("worker-2")
        .want(fan, Role::Reader, mapper());
    host.during(|| writer.renew(LIMIT).unwrap());
    assert_eq!((writer.epoch(), writer.publish(1).unwrap()), (epoch, 2));
}

#[test]
fn another_services_session_is_refused() {
    let (mut host, session) = start_as(service("manager", "other"));
    let refused = host.during(|| session.region_writer("job", &options()).unwrap_err());
    assert!(matches!(refused, Error::Handshake(_)), "{refused}");
}

const RING: Kind = Kind::Ring {
    slot_bytes: 1000,
    overwrite: false,
    integrity: Integrity::Aead,
};

#[test]
fn the_keys_of_a_sealed_ring_are_those_of_both_services() {
    let (mut host, session) = start(RING);
    let aead = options().integrity(Integrity::Aead);
    let mut producer = host.during(|| session.producer("job", &aead).unwrap());
    let (range, line) = host.views(job());
    let events = host.mediator.peer("worker-1").events.iter();
    let mut opened = events.filter_map(|event| match event {
        ClientEvent::Opened(opened) if opened.channel == job() => Some(opened),
        _ => None,
    });
    let opened = opened.next_back().unwrap();
    let keys = opened.keys.as_ref().map(|keys| Keys {
        key: keys.key(),
        iv: keys.iv(),
    });
    let suite = Suite::new(Integrity::Aead, job(), opened.epoch, keys).unwrap();
    let geometry = sivshm_ring::slots::Geometry {
        slot_bytes: 1000,
        overwrite: false,
        integrity: Integrity::Aead,
    };
    let mut receiver = Receiver::join(range, line, geometry, opened.epoch, suite).unwrap();
    producer.send(b"secret", LIMIT).unwrap();
    let mut payload = [0; 1000];
    let received: Received = receiver.receive(&mut payload).unwrap().unwrap();
    assert_eq!(&payload[..received.length], b"secret");
}
