//! Opens that are not what they should be: signed by the wrong party, over the wrong terms, at the
//! wrong time, or changed on their way.

use std::time::Duration;

use sivshm_abi::grant::{Generation, Integrity, Kind};
use sivshm_abi::identity::Subject;
use sivshm_abi::name::{ChannelName, ServiceName, TrustDomain};

use super::change::{everybody_refuses_open, sign_open};
use super::world::{Cast, Hop, World, aead};
use crate::identity::{IdentityFault, Party, other};
use crate::service::limits::{MAX_CLOCK_SKEW, OPEN_LIFETIME};
use crate::service::wire::{Content, OpenBody, RefusalReason};
use crate::service::{Proof, ServiceFault, Term, check_open};
use crate::tests::certificates::{Leaf, device, now, service, uri, vm};
use crate::wire::Contract;

/// The writer itself signs what the policy does not say.
fn signed(cast: &Cast, change: impl Fn(&mut OpenBody)) -> ServiceFault {
    everybody_refuses_open(cast, |open| {
        change(&mut open.body);
        sign_open(&cast.writer, open);
    })
}

#[test]
fn terms_that_are_not_the_policys() {
    let cast = Cast::new();
    let ring = |slot_bytes, overwrite, integrity| Kind::Ring {
        slot_bytes,
        overwrite,
        integrity,
    };
    type Change = Box<dyn Fn(&mut OpenBody)>;
    let changes: [(Term, Change); 11] = [
        (
            Term::TrustDomain,
            Box::new(|open| open.trust_domain = TrustDomain::new("other.example").unwrap()),
        ),
        (
            Term::Contract,
            Box::new(|open| open.contract = Contract([5; 32])),
        ),
        (Term::Serial, Box::new(|open| open.serial = 6)),
        (Term::Serial, Box::new(|open| open.serial = 8)),
        (
            Term::Channel,
            Box::new(|open| open.channel = ChannelName::new("other").unwrap()),
        ),
        (Term::Integrity, Box::new(|open| open.kind = Kind::Region)),
        (
            Term::Integrity,
            Box::new(move |open| open.kind = ring(4096, false, Integrity::None)),
        ),
        (
            Term::Kind,
            Box::new(move |open| open.kind = ring(64, false, Integrity::Aead)),
        ),
        (
            Term::Kind,
            Box::new(move |open| open.kind = ring(4096, true, Integrity::Aead)),
        ),
        (
            Term::SliceGeneration,
            Box::new(|open| open.slice_generation = Generation(10)),
        ),
        (Term::HostBoot, Box::new(|open| open.host_boot = [8; 16])),
    ];
    for (term, change) in changes {
        assert_eq!(signed(&cast, change), ServiceFault::Differs(term));
    }
}

#[test]
fn another_reader_or_writer() {
    let cast = Cast::new();
    let stranger = cast.ca.service("b", "printer").id();
    let fault = signed(&cast, |open| open.reader = stranger);
    assert_eq!(fault, ServiceFault::Differs(Term::Reader));
    assert_eq!(fault.reason(), RefusalReason::Peer);
    let fault = signed(&cast, |open| open.writer = stranger);
    assert_eq!(fault, ServiceFault::Differs(Term::Writer));
}

/// The own device process names a peer that the reader did not ask for: the reader looks at its own
/// wish only.
#[test]
fn a_wrong_peer_that_the_own_device_process_vouches_for() {
    let cast = Cast::new();
    World::new(&cast).run().assert_opened();
    let stranger = cast.ca.service("a", "microphone");
    let mut world = World::new(&cast).lying();
    world.run_with(|hop, message| {
        if let (Hop::DownB, Content::Open(open)) = (hop, &mut message.content) {
            open.body.writer = stranger.id();
            sign_open(&stranger, open);
        }
    });
    world.assert_nothing_opened();
    let fault = world.b.fault().unwrap();
    assert_eq!(fault, ServiceFault::Differs(Term::Writer));
    assert!(!fault.reason().heals());
}

#[test]
fn somebody_elses_svid() {
    let cast = Cast::new();
    let camera = Party::Service(vm("a"), ServiceName::new("camera").unwrap());
    for (leaf, got) in [
        (
            service("a", "microphone"),
            Subject::Service(vm("a"), ServiceName::new("microphone").unwrap()),
        ),
        (
            service("b", "camera"),
            Subject::Service(vm("b"), ServiceName::new("camera").unwrap()),
        ),
        (device("a"), Subject::Device(vm("a"))),
    ] {
        let thief = cast.ca.forge(&cast.ca.issue(Leaf::new(leaf)));
        let fault = everybody_refuses_open(&cast, |open| sign_open(&thief, open));
        assert_eq!(fault, ServiceFault::Identity(other(got, camera)));
    }
}

#[test]
fn an_svid_of_another_domain_or_ca_or_time() {
    let cast = Cast::new();
    let leaf = Leaf::new(uri("spiffe://other.example/vm/a/svc/camera"));
    let stranger = cast.ca.forge(&cast.ca.issue(leaf));
    let fault = everybody_refuses_open(&cast, |open| sign_open(&stranger, open));
    let domain = TrustDomain::new("other.example").unwrap();
    assert_eq!(fault, ServiceFault::Identity(IdentityFault::Domain(domain)));

    let stranger = crate::tests::certificates::Ca::new("other").service("a", "camera");
    let fault = everybody_refuses_open(&cast, |open| sign_open(&stranger, open));
    let unknown = IdentityFault::Untrusted(webpki::Error::UnknownIssuer);
    assert_eq!(fault, ServiceFault::Identity(unknown));

    let old = Leaf {
        days: (-3, -2),
        ..Leaf::new(service("a", "camera"))
    };
    let expired = cast.ca.forge(&cast.ca.issue(old));
    let fault = everybody_refuses_open(&cast, |open| sign_open(&expired, open));
    assert_eq!(fault, ServiceFault::Identity(IdentityFault::Expired));
    assert_eq!(fault.reason(), RefusalReason::Expired);
}

#[test]
fn the_right_chain_and_another_key() {
    let cast = Cast::new();
    let stranger = cast.ca.service("a", "microphone");
    let fault = everybody_refuses_open(&cast, |open| {
        open.signature = super::change::signature(&stranger, &open.body.to_bytes());
    });
    assert_eq!(fault, ServiceFault::Proof(Proof::Signature));
    // The right key of the right service, in another certificate.
    let again = cast.ca.service("a", "camera");
    let fault = everybody_refuses_open(&cast, |open| {
        let mut other = open.clone();
        sign_open(&again, &mut other);
        open.chain = other.chain;
    });
    assert_eq!(fault, ServiceFault::Proof(Proof::Chain));
}

#[test]
fn fields_that_a_device_process_changes() {
    let cast = Cast::new();
    let changes: [fn(&mut OpenBody); 4] = [
        |open| open.nonce[0] ^= 1,
        |open| open.key[31] ^= 1,
        |open| open.epoch ^= 2,
        |open| open.expiry -= 1,
    ];
    for change in changes {
        let fault = everybody_refuses_open(&cast, |open| change(&mut open.body));
        assert_eq!(fault, ServiceFault::Proof(Proof::Signature));
    }
}

#[test]
fn an_open_is_good_for_its_time_only() {
    let cast = Cast::new();
    let open = cast.record().open;
    let checked_at = |wall| {
        let (terms, credentials) = (cast.terms(), &cast.device_b);
        check_open(&open, &terms, credentials, wall).map(|checked| checked.expires())
    };
    let expires = now() + OPEN_LIFETIME;
    let second = Duration::from_secs(1);
    for wall in [
        now() - MAX_CLOCK_SKEW,
        now(),
        expires,
        expires + MAX_CLOCK_SKEW,
    ] {
        assert_eq!(checked_at(wall), Ok(expires));
    }
    for wall in [
        now() - MAX_CLOCK_SKEW - second,
        expires + MAX_CLOCK_SKEW + second,
    ] {
        assert_eq!(checked_at(wall), Err(ServiceFault::Late));
    }
    // A writer that would like it longer.
    for expiry in [0, u64::MAX] {
        let fault = signed(&cast, |open| open.expiry = expiry);
        assert_eq!(fault, ServiceFault::Late);
        assert!(fault.reason().heals());
    }
}

#[test]
fn aead_has_one_reader() {
    let cast = Cast::new();
    let mut world = World::new(&cast);
    world.terms.kind = aead();
    world.terms.readers = 2;
    world.run().assert_nothing_opened();
    let fault = Some(ServiceFault::Differs(Term::Integrity));
    assert_eq!((world.a.fault(), world.b.fault()), (fault.clone(), fault));
}

#[test]
fn terms_that_are_not_the_services_wish() {
    use crate::service::wire::{Role, Terms};
    let cast = Cast::new();
    for (role, hop) in [(Role::Reader, Hop::DownA), (Role::Writer, Hop::DownB)] {
        let mut world = World::new(&cast);
        world.run_with(|at, message| {
            if let (true, Content::Terms(terms)) = (at == hop, &mut message.content) {
                *terms = Terms { role, ..*terms };
            }
        });
        world.assert_nothing_opened();
        let end = if hop == Hop::DownA {
            &world.a
        } else {
            &world.b
        };
        assert_eq!(end.fault(), Some(ServiceFault::Differs(Term::Role)));
    }
    World::new(&cast).run().assert_opened();
}
