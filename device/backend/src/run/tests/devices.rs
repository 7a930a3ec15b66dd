//! Links, launches and ports.

use std::io::Write as _;

use sivshm_sys::scm;

use super::guest::Guest;
use super::world::{Host, pair, run_until};
use crate::paths::SocketDir;

#[test]
fn two_device_processes_find_and_authenticate_each_other_in_any_order() {
    let host = Host::new();
    let a = host.start("a");
    for _ in 0..10 {
        a.step();
    }
    assert!(!a.linked());
    let b = host.start("b");
    run_until(&[&a, &b], || a.linked() && b.linked());
    for vm in ["a", "b"] {
        let audit = host.audit(vm);
        let events: Vec<_> = audit
            .iter()
            .map(|record| record["event"].as_str().unwrap())
            .collect();
        assert!(events.ends_with(&["slices", "peer"]), "{vm}: {events:?}");
    }
}

#[test]
fn only_one_launch_and_one_port_client_at_a_time() {
    let host = Host::new();
    let (a, b) = pair(&host);
    let devices = [&a, &b];
    let guest = Guest::start(&host, "a", &devices);
    let request = r#"{"version":1,"vmm":"qemu","program":"test"}"#;
    let (_, answer) = host.ask(SocketDir::Launch, "a", request, &devices);
    assert!(answer.contains("runs this VM already"), "{answer}");

    let second = host.connect(SocketDir::Port, "a");
    let mut refused = None;
    run_until(&devices, || {
        refused = scm::receive(&second, &mut [0; 8]).ok();
        refused.is_some()
    });
    assert_eq!(refused.unwrap().bytes, 0);
    assert!(a.0.borrow().port.is_some());
    drop(guest);
}

/// I5 and I9: strangers, even of the right user, neither break nor crowd out a peer.
#[test]
fn strangers_do_not_keep_a_peer_out() {
    let host = Host::new();
    let b = host.start("b");
    let strangers: Vec<_> = (0..100)
        .map(|at| {
            let mut stranger = host.connect(SocketDir::Peer, "b");
            if at % 2 == 0 {
                // It may have been dropped already.
                let _ = stranger.write_all(b"GET / HTTP/1.1\r\n\r\n");
            }
            b.step();
            stranger
        })
        .collect();
    let a = host.start("a");
    run_until(&[&a, &b], || a.linked() && b.linked());
    let denied = host.audit("b");
    let denied = denied
        .iter()
        .filter(|record| record["decision"] == "deny")
        .count();
    assert!(
        (2..=40).contains(&denied),
        "{denied} refusals are recorded one by one"
    );
    drop(strangers);
}
