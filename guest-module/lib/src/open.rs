//! How a channel is to be opened.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sivshm_abi::grant::Integrity;

use crate::desk::Desk;
use crate::wait::Wait;

/// Time limit of an opening for which none is set: two other ends that start at about the same time
/// meet within it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Options of [`Channel::open`](crate::Channel::open).
#[derive(Clone, Debug)]
pub struct Open {
    pub(crate) timeout: Duration,
    pub(crate) wait: Wait,
    pub(crate) peers: Vec<String>,
    pub(crate) integrity: Option<Integrity>,
    pub(crate) cancel: Cancel,
}

impl Open {
    /// 30 seconds, [`Wait::Interrupt`], the integrity that the policy says. [`Self::peer`] has to be
    /// added.
    #[must_use]
    pub fn new() -> Self {
        Self {
            timeout: DEFAULT_TIMEOUT,
            wait: Wait::Interrupt,
            peers: Vec::new(),
            integrity: None,
            cancel: Cancel::new(),
        }
    }

    /// How long to wait for everybody who has to agree.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How the end waits for its peer once it is open.
    #[must_use]
    pub const fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// Whom to expect at the other end: `VM/SERVICE`, or a service's whole SPIFFE ID. The writer of
    /// a channel with several readers names each of them.
    #[must_use]
    pub fn peer(mut self, peer: impl Into<String>) -> Self {
        self.peers.push(peer.into());
        self
    }

    /// Refuses the channel if it is not protected by this suite.
    #[must_use]
    pub const fn integrity(mut self, integrity: Integrity) -> Self {
        self.integrity = Some(integrity);
        self
    }

    /// Lets another thread give up the opening.
    #[must_use]
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }
}

impl Default for Open {
    fn default() -> Self {
        Self::new()
    }
}

/// Gives up openings, from any thread. Clones are the same cancellation; it is for good.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    cancelled: bool,
    /// Where openers wait that have to be woken.
    desks: Vec<Weak<Desk>>,
}

impl Cancel {
    /// One that nobody has cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every [`Channel::open`](crate::Channel::open) and renewal that was given this with
    /// [`Error::Cancelled`](crate::Error::Cancelled), now and later.
    pub fn cancel(&self) {
        let desks = {
            let mut state = self.lock();
            state.cancelled = true;
            std::mem::take(&mut state.desks)
        };
        for desk in desks.iter().filter_map(Weak::upgrade) {
            desk.wake_openers();
        }
    }

    /// Whether [`Self::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Has the openers at `desk` woken, too.
    pub(crate) fn wakes(&self, desk: &Arc<Desk>) {
        let mut state = self.lock();
        state.desks.retain(|known| known.strong_count() > 0);
        let desk = Arc::downgrade(desk);
        if !state.desks.iter().any(|known| known.ptr_eq(&desk)) {
            state.desks.push(desk);
        }
    }

    /// Every change is one statement: a thread that panicked has left nothing half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cancel({})", self.is_cancelled())
    }
}
