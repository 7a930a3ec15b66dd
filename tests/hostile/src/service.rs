//! What a service has to say before anything is granted to it. The hostile party is the service: it
//! has its SVID and its key, and shakes hands over the device file by itself.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Instant, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::geteuid;
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::limits::SESSION_CREDIT_BYTES;
use sivshm_abi::name::{ChannelName, ServiceName, VmName};
use sivshm_abi::uapi;
use sivshm_handshake::Credentials;
use sivshm_handshake::service::wire::Role;
use sivshm_handshake::service::{ClientEvent, Opened, ServiceClient, ServiceFault, Want};
use zeroize::Zeroizing;

use crate::attempt::errno_of;
use crate::device::{GRANTS_LIMIT, Granted, Session};
use crate::guest_user::{NEIGHBOUR, SERVICE};
use crate::report::Got;

/// Where a guest keeps what its services authenticate with.
const FOLDER: &str = "/etc/sivshm";

/// Who is at the other end of channels that are no job's: VM and service.
pub const PARTNER: (&str, &str) = ("partner", "partner");

/// The service that the tests' policies make of a user, if they do.
fn name_of(user: u32) -> Option<&'static str> {
    match user {
        SERVICE => Some("reducer"),
        NEIGHBOUR => Some("neighbour"),
        _ => None,
    }
}

/// What the policies give a service: worker `N`'s reducer reads `job-N` and writes `result-N` with the
/// mapper at the other end; of another VM it reads `there` and writes `back` with a partner, and a
/// neighbour of it writes `beside`.
fn wants_of(own: SpiffeId) -> nix::Result<Vec<Want>> {
    let Subject::Service(vm, service) = own.subject else {
        return Err(Errno::EINVAL);
    };
    let number = vm.as_str().strip_prefix("worker-");
    let (peer, channels) = match (number, service.as_str()) {
        (Some(number), _) => (
            ("manager", "mapper"),
            vec![
                (format!("job-{number}"), Role::Reader),
                (format!("result-{number}"), Role::Writer),
            ],
        ),
        (None, "neighbour") => (PARTNER, vec![("beside".to_owned(), Role::Writer)]),
        (None, _) => (
            PARTNER,
            vec![
                ("there".to_owned(), Role::Reader),
                ("back".to_owned(), Role::Writer),
            ],
        ),
    };
    let peer = self::service(own, peer)?;
    let want = |(name, role): (String, Role)| {
        Ok(Want {
            channel: ChannelName::new(&name).map_err(|_| Errno::EINVAL)?,
            peer,
            role,
            integrity: None,
        })
    };
    channels.into_iter().map(want).collect()
}

/// A service of the same trust domain.
fn service(own: SpiffeId, (vm, service): (&str, &str)) -> nix::Result<SpiffeId> {
    let no_name = |_| Errno::EINVAL;
    let vm = VmName::new(vm).map_err(no_name)?;
    let service = ServiceName::new(service).map_err(no_name)?;
    Ok(SpiffeId {
        domain: own.domain,
        subject: Subject::Service(vm, service),
    })
}

fn credentials(name: &str) -> nix::Result<Credentials> {
    let read = |file: String| fs::read(format!("{FOLDER}/{file}")).map_err(errno_of);
    let key = Zeroizing::new(read(format!("svc/{name}.key"))?);
    let svid = read(format!("svc/{name}.pem"))?;
    let bundle = read("bundle.pem".to_owned())?;
    Credentials::load_service(&svid, &key, &bundle, SystemTime::now())
        .map_err(|_| Errno::EKEYREJECTED)
}

/// Shakes hands as the service of the current user until the session holds `count` grants, has
/// ended, or nothing more will be granted. Another user's session just waits.
pub fn obtain(session: &Session, count: usize) -> nix::Result<Vec<Granted>> {
    let Some(name) = name_of(geteuid().as_raw()) else {
        return session.wait_grants(count);
    };
    let credentials = credentials(name)?;
    let wants = wants_of(credentials.id())?;
    let mut talk = Talk::new(session, &credentials, &wants)?;
    let mut awaited: BTreeSet<_> = wants.iter().map(|want| want.channel).collect();
    loop {
        let (state, granted) = session.list()?;
        if granted.len() >= count
            || awaited.is_empty()
            || state == uapi::SessionState::Closed.code()
        {
            return Ok(granted);
        }
        for event in talk.turn()? {
            match event {
                // Its grants came before.
                ClientEvent::Opened(Opened { channel, .. })
                | ClientEvent::Refused {
                    channel,
                    again: false,
                    ..
                }
                | ClientEvent::Ended {
                    channel,
                    again: false,
                    ..
                } => {
                    awaited.remove(&channel);
                }
                ClientEvent::Ended { channel, .. } => {
                    awaited.insert(channel);
                }
                ClientEvent::Authenticated | ClientEvent::Refused { .. } => {}
            }
        }
    }
}

/// What the service of the current user gets that wants one end of a channel with a peer,
/// `VM/SERVICE`.
pub fn wish(channel: &str, role: Role, peer: (&str, &str)) -> Got {
    try_wish(channel, role, peer).unwrap_or_else(Got::Errno)
}

fn try_wish(channel: &str, role: Role, peer: (&str, &str)) -> nix::Result<Got> {
    let credentials = name_of(geteuid().as_raw()).ok_or(Errno::EINVAL)?;
    let credentials = self::credentials(credentials)?;
    let want = Want {
        channel: ChannelName::new(channel).map_err(|_| Errno::EINVAL)?,
        peer: service(credentials.id(), peer)?,
        role,
        integrity: None,
    };
    let session = Session::open()?;
    let mut talk = Talk::new(&session, &credentials, &[want])?;
    loop {
        if let Some(reason) = session.ended()? {
            return Ok(Got::Closed(reason));
        }
        for event in talk.turn()? {
            match event {
                ClientEvent::Opened(_) => return Ok(Got::Success),
                ClientEvent::Refused { refusal, .. } => return Ok(Got::Refused(refusal.reason)),
                ClientEvent::Ended { reason, .. } => return Ok(Got::Closed(reason)),
                ClientEvent::Authenticated => {}
            }
        }
    }
}

/// The service's side of a session.
struct Talk<'a> {
    file: &'a File,
    client: ServiceClient,
    deadline: Instant,
}

impl<'a> Talk<'a> {
    fn new(session: &'a Session, own: &Credentials, wants: &[Want]) -> nix::Result<Self> {
        let mut client = ServiceClient::dial(own, SystemTime::now()).map_err(broken)?;
        let now = Instant::now();
        for want in wants {
            client.want(*want, now).map_err(broken)?;
        }
        Ok(Self {
            file: &session.0,
            client,
            deadline: now + GRANTS_LIMIT,
        })
    }

    /// Says what there is to say, and hears what comes, or sees that the session has changed.
    fn turn(&mut self) -> nix::Result<Vec<ClientEvent>> {
        let Self {
            file,
            client,
            deadline,
        } = self;
        client.on_time(Instant::now()).map_err(broken)?;
        file.write_all(&client.outgoing()).map_err(errno_of)?;
        let now = Instant::now();
        if now >= *deadline {
            return Err(Errno::ETIMEDOUT);
        }
        let until = client.deadline().map_or(*deadline, |at| at.min(*deadline));
        let left = until.saturating_duration_since(now).as_millis() + 1;
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let news = PollFlags::POLLIN | PollFlags::POLLPRI;
        let mut fds = [PollFd::new(file.as_fd(), news)];
        poll(&mut fds, timeout)?;
        let came = fds[0].revents().unwrap_or(PollFlags::empty());
        if !came.contains(PollFlags::POLLIN) {
            return Ok(Vec::new());
        }
        let mut space = [0; SESSION_CREDIT_BYTES];
        let bytes = file.read(&mut space).map_err(errno_of)?;
        let events = client.receive(&space[..bytes], SystemTime::now(), Instant::now());
        events.map_err(broken)
    }
}

fn broken(_: ServiceFault) -> Errno {
    Errno::EPROTO
}
