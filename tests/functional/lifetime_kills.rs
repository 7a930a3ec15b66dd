//! `kill -9` of each of the four parties at every step at which a channel opens: just before each
//! system call by which it does what others can see, until the channel is open and in use.
//!
//! The service at the other end waits when the victim begins. After the kill nothing of the victim is
//! left, the service waits again with nothing mapped, and a new victim opens the channel with it.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::process::Process;
use sivshm_tests::service::{Attached, SERVICE_LIMIT, grants, pairing, vm, wait_status};
use sivshm_tests::tracer::{Death, Since, once_told};

use crate::lifetime_service::{AB, CLEAN_WITHIN, READER, Service, TWO, WRITER, start, up};

/// Kills of a device process before the deployment starts anew: its supervisor waits longer each time.
const DEVICE_KILLS: usize = 2;

/// Deployments that share the steps of a device process: most of the time they wait for supervisors.
const DEVICE_LANES: usize = 2;

/// A service's session begins with its connection to the port. The programs before it are
/// `sivshm run` and its own; a shell waits before both.
const SESSION: Since = Since::Call("connect", 2);

/// Fewest steps at which a channel opens: the port's set-up, TLS's flights, and what comes and goes
/// from `want` to `installed`, each with a wake-up, are more.
const LEAST_STEPS: usize = 24;

/// Who is killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Party {
    Service,
    DeviceProcess,
}

/// An end of a channel: the VM and what its program does.
type End = (&'static str, &'static str);

/// Both ends, and who is killed at the first.
struct Kills {
    deployment: Deployment,
    party: Party,
    victim: End,
    other: End,
    epochs: BTreeSet<String>,
    /// The calls before which it was killed.
    before: Vec<&'static str>,
    /// Longest time from a kill until nothing was left.
    clean: Duration,
    /// And until the channel was open again.
    open: Duration,
}

impl Kills {
    /// Kills before steps `first`, `first + every`, ..
    fn at_steps(
        party: Party,
        [victim, other]: [End; 2],
        first: usize,
        every: usize,
    ) -> Result<Self> {
        let mut kills = Self {
            deployment: up(&TWO, &[AB.1])?,
            party,
            victim,
            other,
            epochs: BTreeSet::new(),
            before: Vec::new(),
            clean: Duration::ZERO,
            open: Duration::ZERO,
        };
        for step in (first..).step_by(every) {
            let done = kills.before.len();
            if party == Party::DeviceProcess && done > 0 && done.is_multiple_of(DEVICE_KILLS) {
                kills.deployment.down()?;
                kills.deployment.up()?;
            }
            let killed = kills.round(step);
            let who = || format!("{party:?} of {} at step {step}", victim.0);
            match killed.with_context(who)? {
                Some(call) => kills.before.push(call),
                None => break,
            }
        }
        kills.deployment.down()?;
        Ok(kills)
    }

    /// One kill, and what follows.
    fn round(&mut self, step: usize) -> Result<Option<&'static str>> {
        let mut left = start(&self.deployment, self.other)?;
        let device = device_pid(&self.deployment.status()?, self.victim.0)?;
        self.wait_clean(&left, None)?;
        let killed = self.kill(device, step)?;
        let began = Instant::now();
        if self.party == Party::Service {
            self.wait_clean(&left, None)?;
            self.clean = self.clean.max(began.elapsed());
        } else {
            self.wait_clean(&left, Some(device))?;
            self.clean = self.clean.max(began.elapsed());
            // Memory of the killed one's VM can't be given to a VM that runs.
            drop(left);
            left = start(&self.deployment, self.other)?;
        }
        self.open_again(&mut left)?;
        ensure!(
            began.elapsed() < CLEAN_WITHIN,
            "open after {:?}",
            began.elapsed()
        );
        self.open = self.open.max(began.elapsed());
        Ok(killed)
    }

    /// Has the channel opened, and the victim killed before its `step`-th step: before which call, or
    /// none if the channel was in use by then.
    fn kill(&self, device: Pid, step: usize) -> Result<Option<&'static str>> {
        let service = Attached::new(self.victim.0, "app");
        let command = service.command(&self.deployment, &[self.victim.1]);
        let (death, mut process) = match self.party {
            Party::Service => {
                let mut process = Process::start_listening(&service.name(), once_told(&command))?;
                let shell = Pid::from_raw(i32::try_from(process.id())?);
                let death = Death::at(shell, SESSION, step)?;
                process.tell("go")?;
                (death, process)
            }
            Party::DeviceProcess => {
                let death = Death::at(device, Since::Now, step)?;
                (death, Process::start(&service.name(), command)?)
            }
        };
        // The service of a VM ends with its device process.
        let in_use = process.wait_for_or_end("data, nor an end", SERVICE_LIMIT, |line| {
            (line.event()?["event"] == "data").then_some(())
        })?;
        if in_use.is_some() && self.party == Party::DeviceProcess {
            // It may have nothing to do any more before its step comes; or has been killed now.
            let killed = kill(device, Signal::SIGKILL);
            ensure!(matches!(killed, Ok(()) | Err(Errno::ESRCH)), "{killed:?}");
        }
        match (in_use, death.before()?) {
            (Some(()), _) => Ok(None),
            (None, Some(call)) => Ok(Some(call)),
            (None, None) => bail!("it ended by itself\n{}", process.tail()),
        }
    }

    /// Waits until nothing of the victim is left: no session, no grant at either end, and in the
    /// other end's service, which waits, no page of a slice. A device process that was killed has been
    /// replaced, and the other end's has a link with the new one.
    fn wait_clean(&self, left: &Service, killed: Option<Pid>) -> Result<()> {
        let (victim, other) = (self.victim.0, self.other.0);
        wait_status(&self.deployment, "a clean state", CLEAN_WITHIN, |status| {
            let replaced = killed.is_none_or(|killed| {
                device_pid(status, victim).is_ok_and(|now| now != killed)
                    && vm(status, other)["needs_restart"] == true
            });
            let state = |vm| pairing(status, vm, "ab", None)["state"].as_str();
            // A writer that has a link opens at once.
            let waits = match killed.is_none() && self.other == WRITER {
                true => "opening",
                false => "wanted",
            };
            replaced
                && vm(status, victim)["device"]["sessions"] == Value::Array(Vec::new())
                && TWO.map(|vm| grants(status, vm)) == [Some(0); 2]
                && state(victim) == Some("idle")
                && state(other) == Some(waits)
                && mapped_slices(left) == 0
        })?;
        Ok(())
    }

    /// The victim's service comes again: the channel opens in a new epoch, and is in use.
    fn open_again(&mut self, left: &mut Service) -> Result<()> {
        let mut again = start(&self.deployment, self.victim)?;
        let epoch = again.opened("ab")?;
        // It may have opened with the one that was killed.
        while left.opened("ab")? != epoch {}
        ensure!(self.epochs.insert(epoch), "an epoch came twice");
        again.flows("ab")?;
        left.flows("ab")?;
        ensure!(mapped_slices(left) > 0, "data flows by no slice?");
        Ok(())
    }
}

fn device_pid(status: &Value, name: &str) -> Result<Pid> {
    let pid = vm(status, name)["device_pid"].as_i64();
    Ok(Pid::from_raw(i32::try_from(pid.context("it is down")?)?))
}

/// Mappings of slices in a service's process.
fn mapped_slices(service: &Service) -> usize {
    let maps = fs::read_to_string(format!("/proc/{}/maps", service.process.id())).unwrap();
    let slices = maps
        .lines()
        .filter(|line| line.contains("/memfd:sivshm-slice-"));
    slices.count()
}

/// Kills the writer's and the reader's at every step, in so many deployments each.
fn at_every_step(party: Party, lanes: usize) {
    let ends = [[WRITER, READER], [READER, WRITER]];
    thread::scope(|scope| {
        let lane = |ends, first| scope.spawn(move || Kills::at_steps(party, ends, first, lanes));
        let all = ends.map(|ends| (1..=lanes).map(|first| lane(ends, first)).collect());
        for ([victim, _], lanes) in ends.into_iter().zip::<[Vec<_>; 2]>(all) {
            let kills = lanes.into_iter().map(|lane| lane.join().unwrap().unwrap());
            let kills: Vec<Kills> = kills.collect();
            let longest = |of: fn(&Kills) -> Duration| kills.iter().map(of).max().unwrap();
            let steps: usize = kills.iter().map(|kills| kills.before.len()).sum();
            println!(
                "{party:?} of {}: killed at {steps} steps; nothing left within {:?}, open again \
                 within {:?}",
                victim.0,
                longest(|kills| kills.clean),
                longest(|kills| kills.open),
            );
            assert!(steps >= LEAST_STEPS, "{steps} steps");
        }
    });
}

#[test]
fn a_service_killed_at_any_step_leaves_nothing() {
    at_every_step(Party::Service, 1);
}

#[test]
fn a_device_process_killed_at_any_step_leaves_nothing() {
    if !geteuid().is_root() {
        eprintln!("skipped: device processes can be traced by root only");
        return;
    }
    at_every_step(Party::DeviceProcess, DEVICE_LANES);
}
