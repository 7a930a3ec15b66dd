//! The supervisor: one loop over handles of processes, sockets and three signals.

use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sivshm_abi::name::VmName;
use sivshm_device::admin_wire::{
    AdminAnswer, AdminEvent, AdminRequest, MAX_ANSWER_BYTES, Uncontained,
};
use sivshm_device::paths::SocketDir;

use super::device::{Device, Launcher, PATIENCE, describe};
use super::register::{Applicant, Registrar};
use crate::ask::ask;
use crate::failure::{Failure, Outcome};
use crate::log::last_lines;
use crate::process::Process;
use crate::reload::reload;
use crate::state::State;

/// How long all device processes together may take to answer for the first time. One takes tens of
/// milliseconds of CPU; 256 of them on one slow core take seconds.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between two looks at an admin socket that does not answer yet.
const READY_PAUSE: Duration = Duration::from_millis(10);

/// The number of SIGHUP, as the kernel tells it.
const HANG_UP: u32 = Signal::SIGHUP as u32;

/// Everything that runs for one trust domain.
#[derive(Debug)]
pub struct Supervisor {
    launcher: Launcher,
    devices: Vec<Device>,
    registrar: Registrar,
    signals: SignalFd,
    state: State,
    state_path: PathBuf,
}

/// What the loop woke up for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Event {
    Signal,
    Registration,
    DeviceEnded(usize),
    DeviceTells(usize),
    VmmEnded(usize),
}

impl Supervisor {
    /// Starts a device process for each VM. From now on SIGTERM, SIGINT and SIGHUP wait for
    /// [`Self::serve`], also in threads and children started later.
    ///
    /// # Errors
    /// Something could not be started; what was started is ended again.
    pub fn start(launcher: Launcher, vms: &[VmName], mut state: State) -> Outcome<Self> {
        let signals = signals().map_err(Failure::to("take over signals"))?;
        let layout = &launcher.layout;
        let registrar = Registrar::listen(&layout.registrations())?;
        let state_path = layout.paths.supervisor_state();
        state.vms.clear();
        let mut supervisor = Self {
            launcher,
            devices: Vec::new(),
            registrar,
            signals,
            state,
            state_path,
        };
        for vm in vms {
            match Device::start(*vm, &supervisor.launcher, Instant::now()) {
                Ok(device) => supervisor.devices.push(device),
                Err(error) => return Err(supervisor.give_up(error)),
            }
        }
        match supervisor
            .await_ready()
            .and_then(|()| supervisor.write_state())
        {
            Ok(()) => Ok(supervisor),
            Err(error) => Err(supervisor.give_up(error)),
        }
    }

    /// What `status` and the others read.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Keeps device processes running until SIGTERM or SIGINT, then ends everything.
    ///
    /// # Errors
    /// The state can't be written, or the host fails in another way; everything is ended then too.
    pub fn serve(mut self) -> Outcome {
        let served = self.serve_until_stopped();
        self.stop();
        served
    }

    fn serve_until_stopped(&mut self) -> Outcome {
        loop {
            let timeout = self.timeout();
            for event in self.wait(timeout)? {
                match event {
                    Event::Signal => match self.signals.read_signal() {
                        Ok(Some(signal)) if signal.ssi_signo == HANG_UP => self.reload(),
                        Ok(Some(_)) => return Ok(()),
                        Ok(None) | Err(_) => {}
                    },
                    Event::Registration => self.registration(),
                    Event::DeviceEnded(at) => self.device_ended(at),
                    Event::DeviceTells(at) => self.device_tells(at),
                    Event::VmmEnded(at) => {
                        if let Some(device) = self.devices.get_mut(at) {
                            tracing::info!(vm = %device.vm, "VMM has ended");
                            device.vmm_ended();
                        }
                    }
                }
            }
            let now = Instant::now();
            for device in &mut self.devices {
                if let Err(error) = device.tick(&self.launcher, now) {
                    tracing::error!(vm = %device.vm, "{error}");
                }
            }
            self.write_state()?;
        }
    }

    /// Waits until each device process answers on its admin socket.
    fn await_ready(&mut self) -> Outcome {
        let deadline = Instant::now() + READY_TIMEOUT;
        let vms: Vec<VmName> = self.devices.iter().map(|device| device.vm).collect();
        for vm in vms {
            while !self.answers(vm, deadline)? {
                match self
                    .wait(PollTimeout::try_from(READY_PAUSE).unwrap_or(PollTimeout::ZERO))?
                    .first()
                {
                    None if Instant::now() < deadline => {}
                    None => {
                        return Err(Failure::NoAnswer {
                            who: format!("the device process of {vm}"),
                            reason: format!(
                                "silent for {} s{}",
                                READY_TIMEOUT.as_secs(),
                                self.log_of(vm)
                            ),
                        });
                    }
                    Some(Event::DeviceEnded(at)) => return Err(self.failed_start(*at)),
                    Some(Event::Registration) => self.registration(),
                    Some(Event::DeviceTells(at)) => self.device_tells(*at),
                    Some(Event::Signal | Event::VmmEnded(_)) => {
                        return Err(Failure::Host("stopped before everything was ready".into()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the admin socket of `vm` gives a status.
    fn answers(&self, vm: VmName, deadline: Instant) -> Outcome<bool> {
        let path = self.launcher.layout.paths.socket(SocketDir::Admin, vm);
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = left.max(READY_PAUSE);
        match ask(&path, &AdminRequest::Status {}, MAX_ANSWER_BYTES, patience) {
            Ok(AdminAnswer::Status(_)) => Ok(true),
            Ok(AdminAnswer::Refused { reason }) => Err(Failure::Refused {
                who: format!("the device process of {vm}"),
                reason,
            }),
            Ok(_) => Err(Failure::NoAnswer {
                who: format!("the device process of {vm}"),
                reason: "it answered another question".into(),
            }),
            // Not bound yet, not listening yet, or just gone, which `wait` reports.
            Err(_) => Ok(false),
        }
    }

    fn failed_start(&mut self, at: usize) -> Failure {
        let Some(device) = self.devices.get_mut(at) else {
            return Failure::Host("a device process ended".into());
        };
        let vm = device.vm;
        let end = device.first_end();
        let how = end.map_or_else(|| "it is gone".into(), describe);
        let report = format!(
            "the device process of {vm} did not start: {how}{}",
            self.log_of(vm)
        );
        match end.and_then(|status| status.code()) {
            Some(2) => Failure::Policy(report),
            Some(3) => Failure::Refused {
                who: "confinement".into(),
                reason: report,
            },
            _ => Failure::Host(report),
        }
    }

    /// The last line of a device process's log, and where to find the rest.
    fn log_of(&self, vm: VmName) -> String {
        let path = self.launcher.layout.paths.log(vm);
        let last = last_lines(&path, 0, 1);
        format!("\n  {}: {}", path.display(), last.trim_end())
    }

    fn registration(&mut self) {
        let Some(applicant) = self.registrar.accept() else {
            return;
        };
        let Applicant { pid, ref vm, .. } = applicant;
        let device = self.devices.iter_mut().find(|d| d.vm.as_str() == vm);
        let result = match device {
            Some(device) => device.register(pid),
            None => Err(format!("the policy has no VM `{vm}`")),
        };
        match &result {
            Ok(()) => tracing::info!(vm, pid, "VMM registered"),
            Err(reason) => tracing::warn!(vm, pid, "VMM refused: {reason}"),
        }
        applicant.answer(result);
    }

    fn device_ended(&mut self, at: usize) {
        if let Some(device) = self.devices.get_mut(at)
            && let Some(how) = device.device_ended(Instant::now())
        {
            tracing::error!(vm = %device.vm, "device process has ended: {how}");
        }
    }

    fn device_tells(&mut self, at: usize) {
        let Some(device) = self.devices.get_mut(at) else {
            return;
        };
        let vm = device.vm;
        for event in device.events(Instant::now()) {
            // Whatever VM it names: a device process speaks for its own.
            let AdminEvent::Uncontained(Uncontained { end_vmm, .. }) = event;
            match end_vmm && device.end_uncontained() {
                true => tracing::error!(%vm, "VMM killed: its guest keeps what was taken from it"),
                false => {
                    tracing::error!(%vm, "NOT CONTAINED: its guest keeps what was taken from it")
                }
            }
        }
    }

    /// Does what `sivshm reload` does, beside the loop: a device process may take its time.
    fn reload(&self) {
        let (layout, state) = (self.launcher.layout.clone(), self.state.clone());
        std::thread::spawn(move || match reload(&layout, &state, &state.policy) {
            Ok(report) => tracing::info!("reload:\n{}", report.as_text()),
            Err(error) => tracing::error!("reload: {error}"),
        });
    }

    /// Time until the next thing that is due by itself.
    fn timeout(&self) -> PollTimeout {
        let Some(deadline) = self.devices.iter().filter_map(Device::deadline).min() else {
            return PollTimeout::NONE;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: a poll that returns a moment early would spin.
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    }

    /// Waits for events.
    fn wait(&self, timeout: PollTimeout) -> Outcome<Vec<Event>> {
        let mut watched = vec![
            (self.signals.as_fd(), Event::Signal),
            (self.registrar.as_fd(), Event::Registration),
        ];
        for (at, device) in self.devices.iter().enumerate() {
            let process = device
                .process()
                .map(|p| (p.as_fd(), Event::DeviceEnded(at)));
            let vmm = device.vmm().map(|p| (p.as_fd(), Event::VmmEnded(at)));
            let watch = device.watch().map(|w| (w.as_fd(), Event::DeviceTells(at)));
            // What a device process told before it ended comes first.
            watched.extend(watch.into_iter().chain(process).chain(vmm));
        }
        let mut fds: Vec<_> = watched
            .iter()
            .map(|(fd, _)| PollFd::new(*fd, PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Failure::to("wait for events")(error)),
        }
        let ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        Ok(ready
            .zip(watched)
            .filter_map(|(ready, (_, event))| ready.then_some(event))
            .collect())
    }

    fn write_state(&mut self) -> Outcome {
        let vms: Vec<_> = self.devices.iter().map(Device::state).collect();
        if vms != self.state.vms {
            self.state.vms = vms;
            self.state.write(&self.state_path)?;
        }
        Ok(())
    }

    /// Ends VMMs first, while their device processes still serve them, then device processes, all
    /// of a kind at the same time; then removes the run directory.
    fn stop(mut self) {
        let vmms = self.devices.iter().filter_map(Device::vmm);
        end_all(&vmms.collect::<Vec<_>>());
        let processes = self.devices.iter().filter_map(Device::process);
        end_all(&processes.collect::<Vec<_>>());
        for device in self.devices.drain(..) {
            device.finish();
        }
        let run = self.launcher.layout.paths.run_dir();
        if let Err(error) = std::fs::remove_dir_all(run) {
            tracing::error!("can't remove {}: {error}", run.display());
        }
    }

    fn give_up(self, error: Failure) -> Failure {
        self.stop();
        error
    }
}

/// Asks all processes to end, waits for all within one bound, kills those that remain.
fn end_all(processes: &[&Process]) {
    let deadline = Instant::now() + PATIENCE;
    for process in processes {
        process.signal(Signal::SIGTERM);
    }
    for process in processes {
        process.wait(deadline.saturating_duration_since(Instant::now()));
    }
    for process in processes.iter().filter(|process| !process.has_ended()) {
        tracing::warn!(pid = process.id.pid, "did not end when asked; killed");
        process.signal(Signal::SIGKILL);
        process.wait(PATIENCE);
    }
}

/// SIGTERM and SIGINT, which stop, and SIGHUP, which reloads, as a descriptor.
fn signals() -> io::Result<SignalFd> {
    let mut all = SigSet::empty();
    all.add(Signal::SIGTERM);
    all.add(Signal::SIGINT);
    all.add(Signal::SIGHUP);
    all.thread_block()?;
    Ok(SignalFd::with_flags(
        &all,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}
