//! The one epoll: which descriptors are watched, and what a wake-up is about.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use sivshm_sys::socket;

/// Descriptors that one wake-up can tell about; others follow in the next.
const EVENTS_PER_WAKE: usize = 64;

/// Time for which a listener rests after the host could not accept from it: descriptors that
/// peers sent may have used up this process's limit for a moment.
const REST: Duration = Duration::from_millis(100);

/// Number of a connection, not used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// Before the first.
    pub const ZERO: Self = Self(0);

    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// What a wake-up is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// SIGTERM or SIGINT.
    Signals,
    /// The host's wall clock was set.
    ClockSet,
    /// A listening socket.
    Listener(Door),
    /// The guest rang.
    Kick,
    /// The VMM on the port.
    Port,
    /// A connection from or to a peer.
    Peer(ConnectionId),
    /// A connection on the launch socket.
    Launch(ConnectionId),
    /// A connection on the admin socket.
    Admin(ConnectionId),
}

/// One of the four listening sockets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Door {
    /// For peers.
    Peer,
    /// For the VMM.
    Port,
    /// For whoever starts the VMM.
    Launch,
    /// For operators.
    Admin,
}

impl Source {
    /// Bits of a connection's number; it is never larger.
    const NUMBER_BITS: u32 = 56;

    fn to_data(self) -> u64 {
        let (kind, number) = match self {
            Self::Signals => (0, 0),
            Self::Kick => (1, 0),
            Self::Port => (2, 0),
            Self::Listener(Door::Peer) => (3, 0),
            Self::Listener(Door::Port) => (4, 0),
            Self::Listener(Door::Launch) => (5, 0),
            Self::Listener(Door::Admin) => (6, 0),
            Self::Peer(ConnectionId(number)) => (7, number),
            Self::Launch(ConnectionId(number)) => (8, number),
            Self::Admin(ConnectionId(number)) => (9, number),
            Self::ClockSet => (10, 0),
        };
        kind << Self::NUMBER_BITS | number
    }

    fn from_data(data: u64) -> Option<Self> {
        let number = ConnectionId(data & ((1 << Self::NUMBER_BITS) - 1));
        Some(match data >> Self::NUMBER_BITS {
            0 => Self::Signals,
            1 => Self::Kick,
            2 => Self::Port,
            3 => Self::Listener(Door::Peer),
            4 => Self::Listener(Door::Port),
            5 => Self::Listener(Door::Launch),
            6 => Self::Listener(Door::Admin),
            7 => Self::Peer(number),
            8 => Self::Launch(number),
            9 => Self::Admin(number),
            10 => Self::ClockSet,
            _ => return None,
        })
    }
}

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Interest {
    /// Something to read, or the end.
    Read,
    /// That, and space to write.
    ReadWrite,
    /// Each new signal of an eventfd, once: another holder of it may change its flags, so that it
    /// can't be relied on to be empty.
    Edge,
}

impl From<Interest> for EpollFlags {
    fn from(interest: Interest) -> Self {
        match interest {
            Interest::Read => Self::EPOLLIN,
            Interest::ReadWrite => Self::EPOLLIN | Self::EPOLLOUT,
            Interest::Edge => Self::EPOLLIN | Self::EPOLLET,
        }
    }
}

/// The epoll. A descriptor leaves it when it is closed.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
}

impl Poller {
    /// Makes it.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll })
    }

    /// Watches a descriptor.
    ///
    /// # Errors
    /// The host refuses.
    pub fn watch(&self, fd: impl AsFd, source: Source, interest: Interest) -> io::Result<()> {
        let event = EpollEvent::new(interest.into(), source.to_data());
        Ok(self.epoll.add(fd, event)?)
    }

    /// Watches a descriptor for something else from now on.
    ///
    /// # Errors
    /// It was not watched.
    pub fn change(&self, fd: impl AsFd, source: Source, interest: Interest) -> io::Result<()> {
        let mut event = EpollEvent::new(interest.into(), source.to_data());
        Ok(self.epoll.modify(fd, &mut event)?)
    }

    /// Stops watching a descriptor that stays open.
    ///
    /// # Errors
    /// It was not watched.
    pub fn unwatch(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(self.epoll.delete(fd)?)
    }

    /// Waits until something is ready, or until `deadline`.
    ///
    /// # Errors
    /// The host refuses.
    pub fn wait(&self, deadline: Option<Instant>) -> io::Result<Vec<Source>> {
        let timeout = deadline.map_or(EpollTimeout::NONE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that the deadline has passed when the wait ends.
            let millis = left.as_nanos().div_ceil(1_000_000);
            EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
        });
        let mut events = [EpollEvent::empty(); EVENTS_PER_WAKE];
        let ready = match self.epoll.wait(&mut events, timeout) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let ready = events.get(..ready).unwrap_or_default();
        Ok(ready
            .iter()
            .filter_map(|event| Source::from_data(event.data()))
            .collect())
    }
}

/// A listening socket that rests when the host can't accept from it, instead of waking for nothing.
#[derive(Debug)]
pub struct Listener<'h> {
    socket: &'h OwnedFd,
    door: Door,
    resting: Option<Instant>,
}

impl<'h> Listener<'h> {
    /// Watches a listening socket.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new(socket: &'h OwnedFd, door: Door, poller: &Poller) -> io::Result<Self> {
        poller.watch(socket, Source::Listener(door), Interest::Read)?;
        Ok(Self {
            socket,
            door,
            resting: None,
        })
    }

    /// Accepts one connection, if one waits.
    ///
    /// # Errors
    /// The host refuses to stop watching.
    pub fn accept(&mut self, poller: &Poller, now: Instant) -> io::Result<Option<OwnedFd>> {
        match socket::accept(self.socket) {
            Ok(accepted) => Ok(accepted),
            Err(error) => {
                tracing::warn!(door = ?self.door, %error, "can't accept; resting");
                poller.unwatch(self.socket)?;
                self.resting = Some(now + REST);
                Ok(None)
            }
        }
    }

    /// When [`Self::on_time`] has something to do.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        self.resting
    }

    /// Watches again after a rest.
    ///
    /// # Errors
    /// The host refuses.
    pub fn on_time(&mut self, poller: &Poller, now: Instant) -> io::Result<()> {
        if self.resting.is_some_and(|until| until <= now) {
            self.resting = None;
            poller.watch(self.socket, Source::Listener(self.door), Interest::Read)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sivshm_sys::eventfd;

    #[test]
    fn every_source_survives_the_kernel() {
        let connection = ConnectionId(77);
        for source in [
            Source::Signals,
            Source::Kick,
            Source::ClockSet,
            Source::Port,
            Source::Listener(Door::Peer),
            Source::Listener(Door::Port),
            Source::Listener(Door::Launch),
            Source::Listener(Door::Admin),
            Source::Peer(connection),
            Source::Launch(connection),
            Source::Admin(connection),
        ] {
            assert_eq!(Source::from_data(source.to_data()), Some(source));
        }
        assert_eq!(Source::from_data(u64::MAX), None);
    }

    /// I5: a full eventfd that nobody can drain wakes the loop once, not for ever.
    #[test]
    fn an_edge_wakes_once() {
        let poller = Poller::new().unwrap();
        let doorbell = eventfd::create().unwrap();
        poller
            .watch(&doorbell, Source::Kick, Interest::Edge)
            .unwrap();
        eventfd::ring(&doorbell).unwrap();
        let now = Some(Instant::now());
        assert_eq!(poller.wait(now).unwrap(), [Source::Kick]);
        assert_eq!(poller.wait(now).unwrap(), []);
        eventfd::ring(&doorbell).unwrap();
        assert_eq!(poller.wait(now).unwrap(), [Source::Kick]);
    }

    #[test]
    fn a_deadline_has_passed_when_the_wait_ends() {
        let poller = Poller::new().unwrap();
        let deadline = Instant::now() + Duration::from_micros(1500);
        assert_eq!(poller.wait(Some(deadline)).unwrap(), []);
        assert!(Instant::now() >= deadline);
    }
}
