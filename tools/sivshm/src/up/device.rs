//! One VM as its supervisor sees it: a device process that is kept running, and a VMM that must
//! not outlive it.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sivshm_abi::name::VmName;
use sivshm_device::admin_wire::AdminEvent;
use sivshm_device::paths::SocketDir;

use super::backoff::Backoff;
use super::watch::Watch;
use crate::failure::{Failure, Outcome};
use crate::layout::Layout;
use crate::process::{Process, ProcessId};
use crate::state::VmState;

/// How long a process may take to end after SIGTERM: QEMU flushes its disks' caches, a device
/// process its audit log.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Pause between two tries to watch a device process that was started again: it listens after tens
/// of milliseconds.
const WATCH_PAUSE: Duration = Duration::from_millis(50);

/// How device processes are started.
#[derive(Debug)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// Where everything is.
    pub layout: Layout,
}

/// One VM.
#[derive(Debug)]
pub struct Device {
    /// Its name.
    pub vm: VmName,
    phase: Phase,
    backoff: Backoff,
    restarts: u32,
    vmm: Option<Vmm>,
    needs_restart: bool,
    watch: Watching,
}

/// Whether the device process tells what happens.
#[derive(Debug)]
enum Watching {
    /// From this moment on it can be asked to.
    From(Instant),
    Established(Watch),
}

#[derive(Debug)]
enum Phase {
    Running {
        child: Child,
        process: Process,
        since: Instant,
    },
    Waiting {
        until: Instant,
    },
}

#[derive(Debug)]
struct Vmm {
    process: Process,
    /// When it will be killed, once it was asked to end.
    kill_at: Option<Instant>,
}

impl Launcher {
    /// Starts the device process of `vm`, with its log appended to its file.
    fn spawn(&self, vm: VmName) -> Outcome<(Child, Process)> {
        let paths = &self.layout.paths;
        for of in SocketDir::ALL {
            // Left by a run that was killed; absent as a rule.
            let _ = std::fs::remove_file(paths.socket(of, vm));
        }
        let log_path = paths.log(vm);
        let log = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&log_path)
            .map_err(Failure::on("open", &log_path))?;
        let narrowed = self.layout.narrowed();
        let narrowed = narrowed.exists().then_some(narrowed);
        let narrowed = narrowed.map(|path| ["--narrowed".into(), path.into_os_string()]);
        let child = Command::new(&self.program)
            .args(["--vm", vm.as_str()])
            .args(narrowed.into_iter().flatten())
            .arg("--policy")
            .arg(self.layout.policy_in_use())
            .arg("--root")
            .arg(&self.layout.root)
            .arg("--ids")
            .arg(self.layout.ids_in_use())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A group of its own, so that Ctrl-C reaches the supervisor only.
            .process_group(0)
            .spawn()
            .map_err(Failure::on("start", &self.program))?;
        let process = Process::open(child.id().cast_signed())
            .map_err(Failure::to("take hold of a device process"))?;
        Ok((child, process))
    }
}

impl Device {
    /// Starts the device process of a VM.
    ///
    /// # Errors
    /// The program can't be executed or its log not be opened.
    pub fn start(vm: VmName, launcher: &Launcher, now: Instant) -> Outcome<Self> {
        let (child, process) = launcher.spawn(vm)?;
        Ok(Self {
            vm,
            phase: Phase::Running {
                child,
                process,
                since: now,
            },
            backoff: Backoff::default(),
            restarts: 0,
            vmm: None,
            needs_restart: false,
            watch: Watching::From(now),
        })
    }

    /// The running device process.
    pub fn process(&self) -> Option<&Process> {
        match &self.phase {
            Phase::Running { process, .. } => Some(process),
            Phase::Waiting { .. } => None,
        }
    }

    /// The running VMM.
    pub fn vmm(&self) -> Option<&Process> {
        self.vmm.as_ref().map(|vmm| &vmm.process)
    }

    /// The next moment at which [`Self::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let restart = match self.phase {
            Phase::Waiting { until } => Some(until),
            Phase::Running { .. } => None,
        };
        let kill = self.vmm.as_ref().and_then(|vmm| vmm.kill_at);
        let watch = match self.watch {
            Watching::From(at) => self.process().map(|_| at),
            Watching::Established(_) => None,
        };
        restart.into_iter().chain(kill).chain(watch).min()
    }

    /// The connection on which the device process tells what happens.
    pub fn watch(&self) -> Option<&Watch> {
        match &self.watch {
            Watching::Established(watch) => Some(watch),
            Watching::From(_) => None,
        }
    }

    /// What the device process tells. One that breaks off is asked again.
    pub fn events(&mut self, now: Instant) -> Vec<AdminEvent> {
        let Watching::Established(watch) = &mut self.watch else {
            return Vec::new();
        };
        match watch.events() {
            Ok(events) => events,
            Err(error) => {
                tracing::debug!(vm = %self.vm, "not watched any more: {error}");
                self.watch = Watching::From(now + WATCH_PAUSE);
                Vec::new()
            }
        }
    }

    /// Ends the VMM of a guest that does not let go of what was taken from it, at once: as long as
    /// it lives, it can look at that. False if there is none that could be ended.
    pub fn end_uncontained(&mut self) -> bool {
        let Some(vmm) = &self.vmm else {
            return false;
        };
        vmm.process.signal(Signal::SIGKILL);
        self.needs_restart = true;
        true
    }

    /// Takes the process that `sivshm run` said will become the VMM.
    ///
    /// # Errors
    /// Why not, for whoever registers.
    pub fn register(&mut self, pid: i32) -> Result<(), String> {
        // One that has just ended may be noticed only after whoever runs the VM again.
        if let Some(vmm) = self.vmm().filter(|vmm| !vmm.has_ended()) {
            return Err(format!(
                "a VMM of {} runs already (pid {})",
                self.vm, vmm.id.pid
            ));
        }
        if self.process().is_none() {
            return Err(format!(
                "the device process of {} is down; see its log",
                self.vm
            ));
        }
        let process = Process::open(pid).map_err(|error| format!("no process {pid}: {error}"))?;
        self.vmm = Some(Vmm {
            process,
            kill_at: None,
        });
        self.needs_restart = false;
        Ok(())
    }

    /// Looks after a device process that has ended: its VMM is asked to end, because nothing can be
    /// resent into a running one, and a restart is planned. Says how it ended.
    pub fn device_ended(&mut self, now: Instant) -> Option<String> {
        let Phase::Running { child, since, .. } = &mut self.phase else {
            return None;
        };
        let how = match child.wait() {
            Ok(status) => describe(status),
            Err(error) => error.to_string(),
        };
        let wait = self.backoff.after(now.saturating_duration_since(*since));
        self.phase = Phase::Waiting { until: now + wait };
        self.watch = Watching::From(now + wait);
        if let Some(vmm) = &mut self.vmm {
            vmm.process.signal(Signal::SIGTERM);
            vmm.kill_at = Some(now + PATIENCE);
            self.needs_restart = true;
        }
        Some(format!(
            "{how}; starting it again in {} ms",
            wait.as_millis()
        ))
    }

    /// How a device process ended that never answered.
    pub fn first_end(&mut self) -> Option<ExitStatus> {
        match &mut self.phase {
            Phase::Running { child, .. } => child.wait().ok(),
            Phase::Waiting { .. } => None,
        }
    }

    /// Forgets a VMM that has ended.
    pub fn vmm_ended(&mut self) {
        self.vmm = None;
    }

    /// Does what is due: kills a VMM that did not end when asked, starts the device process again.
    ///
    /// # Errors
    /// The program can't be executed any more; the next try is planned.
    pub fn tick(&mut self, launcher: &Launcher, now: Instant) -> Outcome {
        if let Some(vmm) = &mut self.vmm
            && vmm.kill_at.is_some_and(|at| at <= now)
        {
            vmm.process.signal(Signal::SIGKILL);
            vmm.kill_at = None;
        }
        if let Watching::From(at) = self.watch
            && at <= now
            && self.process().is_some()
        {
            let path = launcher.layout.paths.socket(SocketDir::Admin, self.vm);
            self.watch = match Watch::start(&path) {
                Ok(watch) => Watching::Established(watch),
                Err(_) => Watching::From(now + WATCH_PAUSE),
            };
        }
        if let Phase::Waiting { until } = self.phase
            && until <= now
        {
            let (child, process) = launcher.spawn(self.vm).inspect_err(|_| {
                let until = now + self.backoff.after(Duration::ZERO);
                self.phase = Phase::Waiting { until };
            })?;
            self.restarts = self.restarts.saturating_add(1);
            self.phase = Phase::Running {
                child,
                process,
                since: now,
            };
        }
        Ok(())
    }

    /// Waits for the device process of a stopping supervisor and reaps it.
    pub fn finish(self) {
        if let Phase::Running {
            mut child, process, ..
        } = self.phase
        {
            process.end(PATIENCE);
            let _ = child.wait();
        }
    }

    /// The line of the state file.
    pub fn state(&self) -> VmState {
        let id = |process: Option<&Process>| -> Option<ProcessId> { process.map(|p| p.id) };
        VmState {
            name: self.vm.to_string(),
            device: id(self.process()),
            restarts: self.restarts,
            vmm: id(self.vmm()),
            needs_restart: self.needs_restart,
        }
    }
}

/// How a process ended, with the meaning of the device process's exit codes.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "it was asked to end".into(),
        (Some(2), _) => "it refused its arguments or the policy (exit code 2)".into(),
        (Some(3), _) => "its confinement failed (exit code 3)".into(),
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => match signal.and_then(|number| Signal::try_from(number).ok()) {
            Some(signal) => format!("killed by {signal}"),
            None => "killed".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sivshm_abi::name::TrustDomain;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    /// A stand-in for the device process, which only waits.
    fn launcher(root: &Path) -> Launcher {
        let layout = Layout::new(root, TrustDomain::new("car.example").unwrap()).unwrap();
        fs::create_dir_all(layout.paths.log_dir()).unwrap();
        let program = root.join("device");
        fs::write(&program, "#!/bin/sh\nexec sleep 60\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        Launcher { program, layout }
    }

    #[test]
    fn the_vmm_of_a_guest_that_is_not_contained_is_killed_and_no_other() {
        let root = tempfile::tempdir().unwrap();
        let vm = VmName::new("ivi").unwrap();
        let mut device = Device::start(vm, &launcher(root.path()), Instant::now()).unwrap();
        assert!(!device.end_uncontained(), "none is registered");
        // It ignores what asks it to end.
        let mut vmm = Command::new("sh")
            .args(["-c", "trap '' TERM; while :; do sleep 1; done"])
            .spawn()
            .unwrap();
        device.register(vmm.id().cast_signed()).unwrap();
        assert!(device.end_uncontained());
        assert_eq!(vmm.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
        assert!(device.state().needs_restart);
        device.finish();
    }

    #[test]
    fn a_device_process_is_watched_as_soon_as_it_listens() {
        let root = tempfile::tempdir().unwrap();
        let launcher = launcher(root.path());
        let vm = VmName::new("ivi").unwrap();
        let mut now = Instant::now();
        let mut device = Device::start(vm, &launcher, now).unwrap();
        device.tick(&launcher, now).unwrap();
        assert!(device.watch().is_none());
        assert_eq!(device.deadline(), Some(now + WATCH_PAUSE));
        let socket = launcher.layout.paths.socket(SocketDir::Admin, vm);
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        now += WATCH_PAUSE;
        device.tick(&launcher, now).unwrap();
        assert!(device.watch().is_some() && device.deadline().is_none());
        drop(listener);
        assert!(device.events(now).is_empty());
        assert!(device.watch().is_none(), "it is asked again");
        device.finish();
    }
}
