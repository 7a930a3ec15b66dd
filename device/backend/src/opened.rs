//! `Config -> Opened`: everything that needs privilege or a path (DESIGN section 5).

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{getegid, geteuid};
use sivshm_abi::control::CONTROL_BYTES;
use sivshm_abi::grant::Generation;
use sivshm_handshake::{CredentialError, Credentials};
use sivshm_policy::LoadError;
use sivshm_policy::narrow::{NarrowError, Narrowing};
use sivshm_policy::plan::{Plan, Vm};
use sivshm_sys::clock::since_boot;
use sivshm_sys::eventfd;
use sivshm_sys::facts::FdInfo;
use sivshm_sys::features::{self, Lacking};
use sivshm_sys::map::Mapping;
use sivshm_sys::memfd::{self, Ownership};
use sivshm_sys::sandbox::Limits;
use sivshm_sys::tick::Tick;
use zeroize::Zeroizing;

use crate::args::{Config, Mode};
use crate::clock::Clock;
use crate::held::{ControlMemory, Held, InForce};
use crate::ids::{DomainIds, IdMap, IdsError};
use crate::listeners::{self, ListenError};
use crate::paths::{Paths, SocketDir};
use crate::{boot, limits, slices};

/// Why a device process can't start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel is too old, or built without something.
    #[error("host: {0}")]
    Kernel(#[from] Lacking),
    /// The policy can't be read or is wrong.
    #[error(transparent)]
    Policy(#[from] LoadError),
    /// The policy is fine and knows no such VM.
    #[error("policy: it has no VM `{0}`")]
    NoSuchVm(sivshm_abi::name::VmName),
    /// The newer policy can't follow the first one.
    #[error("policy: {path} can't be in force here: {source}")]
    Narrowed {
        /// The newer policy.
        path: PathBuf,
        /// Why.
        source: NarrowError,
    },
    /// Users and groups are not known.
    #[error(transparent)]
    Ids(#[from] IdsError),
    /// The VM or one of the plan's other VMs has no user.
    #[error("host: {path} has no user ids for every VM of the policy; `sivshm up` gives them")]
    NoIds {
        /// The file of users and groups.
        path: PathBuf,
    },
    /// The key can be read by others.
    #[error("host: the key {path} must belong to the user who starts us, with mode 0600")]
    ExposedKey {
        /// The key's file.
        path: PathBuf,
    },
    /// There are no revocation lists.
    #[error(
        "host: there is no revocation list {path}; copy crl.pem of the CA's directory there, where \
         `sivshm-ca init` and `sivshm-ca crl` make it"
    )]
    NoCrl {
        /// Where it has to be.
        path: PathBuf,
    },
    /// The SVID, its key, the trust bundle or the revocation list is wrong.
    #[error("host: the credentials in {path} are not usable")]
    Credentials {
        /// The directory of the VM.
        path: PathBuf,
        /// Why.
        #[source]
        source: CredentialError,
    },
    /// A socket could not be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A file can't be opened.
    #[error("host: can't open {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host refuses an object.
    #[error("host: can't make {what}")]
    Object {
        /// What was to be made.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Everything is open and nothing is confined yet.
#[derive(Debug)]
pub struct Opened {
    pub(crate) held: Held,
    /// The directory of peers' sockets, as the host sees it.
    pub(crate) peer_sockets: PathBuf,
    pub(crate) limits: Limits,
}

impl Opened {
    /// Opens everything.
    ///
    /// # Errors
    /// The first thing that is wrong or that the host refuses. Sockets are bound last, so that a
    /// process that can't start leaves another one's alone.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        features::check()?;
        let plan = sivshm_policy::load(&config.policy)?;
        let narrowing = narrowing(&plan, config.narrowed.as_deref())?;
        let (me, vm) = plan.vm(config.vm).ok_or(OpenError::NoSuchVm(config.vm))?;
        let ids = all_ids(&config, &plan)?;
        let my_ids = ids.vm(config.vm).ok_or_else(|| OpenError::NoIds {
            path: config.ids.clone(),
        })?;
        let limits = limits::of(&plan, me, vm);
        make_room(limits.files).map_err(object("room for its descriptors"))?;

        let paths = Paths::new(&config.root, plan.trust_domain);
        let clock = Clock::start().map_err(object("a view of the clocks"))?;
        let credentials = credentials(&paths, &plan, vm, &clock)?;
        let audit = audit_file(&paths.audit(config.vm))?;
        let host_boot = boot::host_boot().map_err(object("the identifier of the boot"))?;
        let instance = boot::instance().map_err(object("a random identifier"))?;
        let generation = since_boot().map_err(object("a generation"))?;
        let ownership = slices::ownership(config.mode, my_ids);
        let slices = slices::create(&plan, me, ownership, Generation(generation))
            .map_err(object("a slice"))?;
        let control = control_memory().map_err(object("the control memory"))?;
        let vectors = std::iter::repeat_with(eventfd::create)
            .take(vm.peers.len().saturating_add(1))
            .collect::<io::Result<_>>()
            .map_err(object("the vectors"))?;
        let kick = eventfd::create().map_err(object("the kick"))?;
        let fdinfo = FdInfo::open().map_err(object("a view of its own descriptors"))?;
        let signals = signals().map_err(object("a descriptor of signals"))?;
        let tick = Tick::install().map_err(object("a tick"))?;
        let listeners = listeners::bind_all(&paths, config.vm, my_ids, ids.device_gid)?;

        Ok(Self {
            peer_sockets: paths.socket_dir(SocketDir::Peer),
            limits,
            held: Held {
                config,
                me,
                ids,
                my_ids,
                in_force: RefCell::new(InForce {
                    credentials,
                    narrowing,
                }),
                slices,
                control,
                vectors,
                kick,
                listeners,
                fdinfo,
                clock,
                audit,
                signals,
                tick,
                instance,
                host_boot,
                peer_dir: PathBuf::from("/"),
                plan,
            },
        })
    }
}

/// Allows at least `files` descriptors; confinement then allows exactly so many.
fn make_room(files: u64) -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < files {
        setrlimit(Resource::RLIMIT_NOFILE, files, hard.max(files))?;
    }
    Ok(())
}

/// The numbers of every VM of the plan; in development mode those of the current user.
fn all_ids(config: &Config, plan: &Plan) -> Result<DomainIds, OpenError> {
    let names = plan.vms.iter().map(|vm| vm.name);
    let map = match config.mode {
        Mode::Production => IdMap::load(&config.ids)?,
        Mode::Development => IdMap::development(plan.trust_domain, names.clone()),
    };
    map.domain(plan.trust_domain)
        .filter(|ids| names.clone().all(|name| ids.vm(name).is_some()))
        .cloned()
        .ok_or_else(|| OpenError::NoIds {
            path: config.ids.clone(),
        })
}

/// What a newer policy takes from the plan, if there is a newer one.
fn narrowing(plan: &Plan, newer: Option<&Path>) -> Result<Option<Narrowing>, OpenError> {
    let Some(path) = newer else {
        return Ok(None);
    };
    let narrowing = plan.narrowed_by(&sivshm_policy::load(path)?);
    narrowing.map(Some).map_err(|source| OpenError::Narrowed {
        path: path.to_owned(),
        source,
    })
}

fn credentials(
    paths: &Paths,
    plan: &Plan,
    vm: &Vm,
    clock: &Clock,
) -> Result<Credentials, OpenError> {
    let read = |path: PathBuf| fs::read(&path).map_err(file(&path));
    let chain = read(paths.device_chain(vm.name))?;
    let bundle = read(paths.bundle())?;
    let crl = read(paths.crl()).map_err(|error| match error {
        OpenError::File { path, source } if source.kind() == io::ErrorKind::NotFound => {
            OpenError::NoCrl { path }
        }
        error => error,
    })?;
    let key_path = paths.device_key(vm.name);
    let owner = fs::metadata(&key_path).map_err(file(&key_path))?;
    if owner.uid() != geteuid().as_raw() || owner.mode() & 0o077 != 0 {
        return Err(OpenError::ExposedKey { path: key_path });
    }
    let key = Zeroizing::new(read(key_path)?);
    let wall = clock.wall();
    Credentials::load(plan.trust_domain, vm.name, &chain, &key, &bundle, wall)
        .and_then(|credentials| credentials.with_crl(&crl, wall))
        .map_err(|source| OpenError::Credentials {
            path: paths.vm_dir(vm.name),
            source,
        })
}

fn audit_file(path: &Path) -> Result<File, OpenError> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .map_err(file(path))
}

/// The VMM gets this very descriptor, so nobody needs a right to open it again.
fn control_memory() -> io::Result<ControlMemory> {
    let own = Ownership {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        mode: 0o600,
    };
    let file = memfd::create(c"sivshm-control", CONTROL_BYTES, own)?;
    let mapping = Mapping::new(&file)?;
    Ok(ControlMemory { file, mapping })
}

/// From here on SIGTERM and SIGINT do nothing but make this descriptor readable.
fn signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGINT);
    mask.thread_block()?;
    Ok(SignalFd::with_flags(
        &mask,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

fn object(what: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Object { what, source }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::File { path, source }
}
