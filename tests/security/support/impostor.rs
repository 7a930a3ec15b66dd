//! A device process's side of the peer handshake, as `docs/peer-handshake.md` has it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sivshm_handshake::wire::{Hello, Manifest, ManifestEntry, Message, Rights};
use sivshm_sys::socket;

use super::goods::Goods;
use super::identity::Svid;
use super::talk::{End, Talk};
use super::user::User;

/// Longest time until a victim dials: sixty times its longest back-off.
const DIALED_WITHIN: Duration = Duration::from_secs(60);

/// Whoever plays a VM's device process. Made by [`super::scene::Scene::impostor`] it is honest.
#[derive(Debug)]
pub struct Impostor<'s> {
    /// Who it really is.
    pub user: User,
    /// What it authenticates with.
    pub svid: Option<Svid>,
    /// The application protocol that it wants.
    pub alpn: &'static [u8],
    /// On what terms it speaks.
    pub hello: Hello,
    /// What it promises.
    pub lines: Vec<ManifestEntry>,
    /// What it sends.
    pub rights: Vec<OwnedFd>,
    /// How many descriptors it says to have sent.
    pub announced: usize,
    /// Where it meets its victim.
    pub place: Place<'s>,
}

/// Which side dials.
#[derive(Clone, Debug)]
pub enum Place<'s> {
    /// The impostor, here.
    Dials(PathBuf),
    /// The victim, to this listener.
    Listens(&'s OwnedFd),
}

/// What came of a play.
#[derive(Debug)]
pub struct Outcome {
    /// The connection; the link lives as long as it does.
    pub talk: Talk,
    /// How the victim ended it; none if it is established.
    pub end: Option<End>,
}

impl<'s> Impostor<'s> {
    /// One that means no harm.
    pub fn honest(user: User, svid: Svid, hello: Hello, goods: Goods, place: Place<'s>) -> Self {
        Self {
            user,
            svid: Some(svid),
            alpn: sivshm_handshake::ALPN,
            hello,
            announced: goods.rights.len(),
            lines: goods.lines,
            rights: goods.rights,
            place,
        }
    }

    /// Goes through a whole handshake as its user.
    pub fn play(&self) -> Outcome {
        self.user.act(|| {
            let mut talk = self.meet();
            let end = self.steps(&mut talk).err();
            Outcome { talk, end }
        })
    }

    fn steps(&self, talk: &mut Talk) -> Result<(), End> {
        talk.shake()?;
        self.greet(talk)?;
        self.promise(talk)?;
        self.give(talk);
        self.accept(talk)
    }

    /// Connects, or waits for the victim to do so.
    pub fn meet(&self) -> Talk {
        match &self.place {
            Place::Dials(path) => {
                let socket = UnixStream::connect(path).unwrap();
                Talk::dial(socket, self.svid.as_ref(), self.alpn)
            }
            Place::Listens(listener) => {
                let svid = self.svid.as_ref().expect("a listener presents an SVID");
                Talk::listen(dialed(listener), svid, self.alpn)
            }
        }
    }

    /// Exchanges hellos.
    pub fn greet(&self, talk: &mut Talk) -> Result<(), End> {
        talk.say(&Message::Hello(self.hello));
        match talk.hear()? {
            Message::Hello(_) => Ok(()),
            other => panic!("no hello: {other:?}"),
        }
    }

    /// Exchanges manifests, and both sides' word that descriptors may come.
    pub fn promise(&self, talk: &mut Talk) -> Result<(), End> {
        talk.say(&Message::Manifest(
            Manifest::new(self.lines.clone()).unwrap(),
        ));
        match talk.hear()? {
            Message::Manifest(_) => talk.say(&Message::Ready),
            other => panic!("no manifest: {other:?}"),
        }
        match talk.hear()? {
            Message::Ready => Ok(()),
            other => panic!("not ready: {other:?}"),
        }
    }

    /// Sends what it gives.
    pub fn give(&self, talk: &mut Talk) {
        let rights: Vec<_> = self.rights.iter().map(|right| right.as_fd()).collect();
        let message = Message::Rights(Rights::new(self.announced).unwrap());
        talk.give(&message, &rights).unwrap();
    }

    /// Takes what the victim gives.
    pub fn accept(&self, talk: &mut Talk) -> Result<(), End> {
        match talk.hear()? {
            Message::Rights(rights) => assert_eq!(talk.received.len(), rights.count()),
            other => panic!("no descriptors: {other:?}"),
        }
        talk.say(&Message::Accepted);
        match talk.hear()? {
            Message::Accepted => Ok(()),
            other => panic!("not accepted: {other:?}"),
        }
    }
}

/// The victim's next connection.
pub fn dialed(listener: &OwnedFd) -> UnixStream {
    let deadline = Instant::now() + DIALED_WITHIN;
    loop {
        if let Some(dialed) = socket::accept(listener).unwrap() {
            if is_there(&dialed) {
                return dialed.into();
            }
            continue;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap();
        assert_eq!(ready, 1, "the victim does not dial");
    }
}

/// Whether the end that has connected still is: on a slow machine it may have waited for too long.
fn is_there(connection: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(connection.as_fd(), PollFlags::POLLHUP)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 0
}
