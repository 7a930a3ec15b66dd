//! A host's clock that is set: back, it brings nothing to life; ahead, it ends what is over. The test
//! that sets it runs on a host of its own, which the other one here boots.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, SerialNumber};
use rustls::pki_types::PrivatePkcs8KeyDer;
use sivshm_ca::authority::{INTERMEDIATE, INTERMEDIATE_KEY, ROOT_CRL};
use sivshm_tests::artifacts::Artifacts;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::host::{self, OwnHost};
use sivshm_tests::service::{AuditLog, SERVICE_LIMIT};
use time::OffsetDateTime;

use crate::lifetime_ends::{EXPIRED, HOUR, backdate, issue};
use crate::lifetime_service::{OTHER_END, Service, policy};

/// What a device process writes down of an SVID that has ended, and of one that no list in time is about.
const OVER: &str = "has expired; issue a new one";
const NO_LIST: &str = "the revocation lists don't cover its SVID";

/// Longest time for a host to start and to run its test, emulated, on a loaded machine.
const HOST_LIMIT: Duration = Duration::from_secs(600);

const VMS: [&str; 4] = ["alpha", "beta", "gamma", "delta"];

/// How far SVIDs and lists reach back: they are good at every time that the clock is set back to.
const REACH: Duration = Duration::from_secs(20 * 60 * 60);

/// How far the clock is set back.
const BACK: Duration = Duration::from_secs(12 * 60 * 60);

/// What beta's SVID has left when the clock is set back.
const LEFT: Duration = Duration::from_secs(8);

/// A channel from alpha to another VM.
fn channel(name: &str, to: &str) -> String {
    format!(
        "[[channel]]\nname = \"{name}\"\nfrom = \"alpha/app\"\nto = [\"{to}/app\"]\n\
         kind = \"region\"\nsize = \"8KiB\"\n"
    )
}

/// The clock of this host, and the time that nobody has set back.
struct HostClock {
    began: SystemTime,
    since: Instant,
}

impl HostClock {
    fn start() -> Self {
        Self {
            began: SystemTime::now(),
            since: Instant::now(),
        }
    }

    /// What it would show, had it only been set ahead.
    fn foremost(&self) -> SystemTime {
        self.began + self.since.elapsed()
    }

    fn set(to: SystemTime) -> Result<()> {
        let to = TimeSpec::from_duration(to.duration_since(UNIX_EPOCH)?);
        clock_settime(ClockId::CLOCK_REALTIME, to).context("can't set the clock")
    }

    fn set_back(&self) -> Result<()> {
        Self::set(self.foremost() - BACK)
    }

    /// All device processes have seen it when this returns: each has answered twice, so it has come
    /// to the end of its loop at least once since.
    fn set_ahead(&mut self, to: SystemTime, deployment: &Deployment) -> Result<()> {
        *self = Self {
            began: to,
            since: Instant::now(),
        };
        Self::set(to)?;
        deployment.status()?;
        deployment.status().map(drop)
    }
}

/// Hands out revocation lists, of which the intermediate's ends at `end`: the CA's tool makes none that
/// ends before the intermediate itself.
fn hand_out_list(deployment: &Deployment, end: SystemTime) -> Result<()> {
    let ca = deployment.etc().join("ca");
    let key = fs::read(ca.join(INTERMEDIATE_KEY))?;
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key))?;
    let issuer = Issuer::from_ca_cert_pem(&fs::read_to_string(ca.join(INTERMEDIATE))?, key)?;
    let list = CertificateRevocationListParams {
        this_update: OffsetDateTime::from(end - REACH),
        next_update: OffsetDateTime::from(end),
        crl_number: SerialNumber::from(2_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let lists = fs::read_to_string(ca.join(ROOT_CRL))? + &list.signed_by(&issuer)?.pem()?;
    Ok(fs::write(deployment.etc().join("crl.pem"), lists)?)
}

/// The service asks for its channel, and its VM's device process does not believe it.
fn is_refused(deployment: &Deployment, vm: &str, channel: &str, reason: &str) -> Result<()> {
    let audit = AuditLog::of(deployment, vm);
    let reads = format!("--reads={channel}=alpha/app");
    let mut service = Service::start(deployment, vm, &[&reads])?;
    let failed = service.next("failed", channel)?;
    assert_eq!(failed["kind"], "handshake", "{failed}");
    service.process.finish(SERVICE_LIMIT)?;
    audit.wait_blame("session", "guest", reason)?;
    Ok(())
}

#[test]
#[ignore = "it sets the host's clock: the test below runs it on a host of its own"]
fn a_clock_that_is_set_brings_nothing_back_and_ends_what_is_over() {
    assert!(host::is_own(), "this host's clock is not to be set");
    let run = || -> Result<()> {
        let artifacts = Artifacts::from_env()?;
        let channels = [("ab", "beta"), ("ag", "gamma"), ("ad", "delta")];
        let texts = channels.map(|(name, to)| channel(name, to));
        let texts = texts.each_ref().map(String::as_str);
        let mut deployment = Deployment::new(&artifacts, &policy(1, &VMS, &texts), None)?;
        let mut clock = HostClock::start();
        let mut ca = backdate(&deployment, REACH)?;
        // Beta's SVID ends after an hour, gamma's after two, the list after three, all else after four.
        let [beta_end, gamma_end, list_end] = [1, 2, 3].map(|hours| clock.began + hours * HOUR);
        for (vm, end) in [("beta", beta_end), ("gamma", gamma_end)] {
            issue(&deployment, &mut ca, vm, REACH, end - REACH)?;
        }
        hand_out_list(&deployment, list_end)?;
        deployment.up()?;
        let writes = channels.map(|(name, to)| format!("--writes={name}={to}/app"));
        let writes = writes.each_ref().map(String::as_str);
        let mut alpha = Service::start(&deployment, "alpha", &writes)?;
        let mut beta = Service::start(&deployment, "beta", &["--reads=ab=alpha/app"])?;
        let mut gamma = Service::start(&deployment, "gamma", &["--reads=ag=alpha/app"])?;
        let mut delta = Service::start(&deployment, "delta", &["--reads=ad=alpha/app"])?;
        for (name, _) in channels {
            alpha.opened(name)?;
        }

        // Set back, it disturbs nobody, and an SVID ends as if nobody had set it.
        clock.set_ahead(beta_end - LEFT, &deployment)?;
        clock.set_back()?;
        gamma.undisturbed("ag")?;
        beta.session_ended("ab", EXPIRED)?;
        let early = beta_end
            .duration_since(clock.foremost())
            .unwrap_or_default();
        // A certificate's times are whole seconds.
        assert!(early < Duration::from_secs(1), "{early:?} early");
        alpha.ended("ab", EXPIRED)?;
        // By the clock, and so by the service's own judgement, it is good for hours.
        is_refused(&deployment, "beta", "ab", OVER)?;
        gamma.undisturbed("ag")?;

        // Set ahead, it ends what is over at once, and set back it brings nothing to life.
        clock.set_ahead(gamma_end + HOUR / 2, &deployment)?;
        gamma.session_ended("ag", EXPIRED)?;
        alpha.ended("ag", EXPIRED)?;
        clock.set_back()?;
        is_refused(&deployment, "gamma", "ag", OVER)?;

        // The same with a revocation list, which ends new trust and not what lives.
        clock.set_ahead(list_end + HOUR / 2, &deployment)?;
        clock.set_back()?;
        delta.undisturbed("ad")?;
        drop(delta);
        alpha.ended("ad", OTHER_END)?;
        is_refused(&deployment, "delta", "ad", NO_LIST)?;
        deployment.down()
    };
    run().unwrap();
}

#[test]
fn a_host_of_its_own_has_its_clock_set() {
    let name = "a_clock_that_is_set_brings_nothing_back_and_ends_what_is_over";
    let run = || -> Result<()> {
        let artifacts = Artifacts::from_env()?;
        let Some(kernel) = artifacts.vm.as_ref().and_then(|vm| vm.host_kernel.as_ref()) else {
            eprintln!("skipped: built without QEMU and a kernel for hosts of their own");
            return Ok(());
        };
        let name = format!("lifetime_clock::{name}");
        let arguments = ["--ignored", "--exact", &name, "--nocapture"];
        let host = OwnHost::new(&artifacts, &["probe"])?;
        let printed = host
            .test(&std::env::current_exe()?, &arguments)?
            .run(kernel, HOST_LIMIT)?;
        assert!(printed.contains("test result: ok. 1 passed"), "{printed}");
        Ok(())
    };
    run().unwrap();
}
