//! Being taken for a service without being it: the proof by an SVID, and the facts about the process.

use std::fs;

use nix::errno::Errno;
use nix::unistd::Pid;
use sivshm_abi::frame::Reason;
use sivshm_handshake::service::wire::{RefusalReason, Role};

use crate::attempt::{attempt_as, ended, errno_of, probe_as, spawn_probe_as};
use crate::claim::{self, claim, say};
use crate::report::{Got, attack};
use crate::service::{PARTNER, wish};
use sivshm_hostile::papers::Papers;

use super::executables;
use super::{NEIGHBOUR, PINNED, SERVICE, STRANGER};

/// The keys of the services of this guest.
const KEYS: &str = "/etc/sivshm/svc";

/// Papers that a careless administrator has left in this guest: of a service of another VM, of this
/// VM's service by another authority, and of this VM's device process.
const FOREIGN: [(&str, &str); 3] = [
    ("svid-of-another-vm", "/etc/sivshm/another-vm"),
    ("svid-of-another-authority", "/etc/sivshm/another-authority"),
    ("svid-of-the-device-process", "/etc/sivshm/device"),
];

/// Bytes that are no TLS record.
const GARBAGE: &[u8] = &[0x55; 64];

/// Tries everything. Starts as root, which can read every key of this guest.
pub fn run() {
    let unproved = Got::Closed(Reason::Unproved);
    let no_service = Got::Closed(Reason::NoService);
    let with = |uid, path: &str| match claim::read(path) {
        Ok(papers) => probe_as(uid, || claim(Some(&papers))),
        Err(errno) => Got::Errno(errno),
    };
    let own = format!("{KEYS}/reducer");
    let other = format!("{KEYS}/neighbour");
    let granted = with(SERVICE, &own);

    attack(
        "no-svid",
        unproved,
        probe_as(SERVICE, || claim(None)),
        granted,
    );
    attack(
        "no-tls",
        unproved,
        probe_as(SERVICE, || say(GARBAGE)),
        granted,
    );

    let read = |name: &str| {
        let key = format!("{KEYS}/{name}.key");
        attempt_as(SERVICE, || fs::read(key).map(drop).map_err(errno_of))
    };
    let denied = Got::Errno(Errno::EACCES);
    attack(
        "key-of-another-service",
        denied,
        read("neighbour"),
        read("reducer"),
    );

    attack(
        "svid-of-another-service",
        unproved,
        with(SERVICE, &other),
        granted,
    );
    attack(
        "svid-of-another-user",
        unproved,
        with(NEIGHBOUR, &own),
        granted,
    );
    attack(
        "svid-as-a-stranger",
        no_service,
        with(STRANGER, &own),
        granted,
    );
    for (name, path) in FOREIGN {
        attack(name, unproved, with(SERVICE, path), granted);
    }

    // The key is the service's: nothing of another service opens with it.
    let (reads, writes) = (Role::Reader, Role::Writer);
    let wish = |channel, role, peer| probe_as(SERVICE, || wish(channel, role, peer));
    let opened = wish("there", reads, PARTNER);
    let (policy, peer) = (RefusalReason::Policy, RefusalReason::Peer);
    let mapper = ("manager", "mapper");
    for (name, got, reason) in [
        (
            "read-another-vms-channel",
            wish("job-1", reads, mapper),
            policy,
        ),
        (
            "write-another-vms-channel",
            wish("result-1", writes, mapper),
            policy,
        ),
        (
            "write-a-neighbours-channel",
            wish("beside", writes, PARTNER),
            policy,
        ),
        ("write-what-is-read", wish("there", writes, PARTNER), policy),
        ("open-with-another-peer", wish("there", reads, mapper), peer),
    ] {
        attack(name, Got::Refused(reason), got, opened);
    }

    let pinned = format!("{KEYS}/pinned");
    let script = executables::script(executables::NAMED);
    attack(
        "svid-in-another-executable",
        no_service,
        with(PINNED, &pinned),
        script,
    );
    executables::run();
}

/// Tries to become what another VM's service is, as whoever owns a guest, and with it the guest's
/// kernel and the keys of its services. Its VM is a worker of a job.
pub fn become_another() {
    let mapper = ("manager", "mapper");
    let own = claim::read(&format!("{KEYS}/reducer"));
    let forged = claim::read("/etc/sivshm/forged");
    let claim = |papers: &nix::Result<Papers>| match papers {
        Ok(papers) => probe_as(SERVICE, || claim(Some(papers))),
        Err(errno) => Got::Errno(*errno),
    };
    let granted = claim(&own);
    let wish = |channel, role, peer| probe_as(SERVICE, || wish(channel, role, peer));
    for (name, got, wanted) in [
        (
            "own-key-to-read-for-another-vm",
            wish("job-1", Role::Reader, mapper),
            Got::Refused(RefusalReason::Policy),
        ),
        (
            "own-key-to-write-for-another-vm",
            wish("result-1", Role::Writer, mapper),
            Got::Refused(RefusalReason::Policy),
        ),
        (
            "own-key-with-another-worker",
            wish("job-3", Role::Reader, ("worker-1", "reducer")),
            Got::Refused(RefusalReason::Peer),
        ),
        (
            "forged-svid-of-another-vm",
            claim(&forged),
            Got::Closed(Reason::Unproved),
        ),
    ] {
        attack(name, wanted, got, granted);
    }
}

/// Begins to say nothing in a session of the service.
pub fn begin_silence() -> nix::Result<Pid> {
    spawn_probe_as(SERVICE, || say(&[]))
}

/// What comes of it, as late as a session may prove who it is.
pub fn end_silence(silent: nix::Result<Pid>, granted: Got) {
    let got = silent.map_or_else(Got::Errno, ended);
    attack("no-word", Got::Closed(Reason::Unproved), got, granted);
}
