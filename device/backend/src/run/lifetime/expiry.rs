//! Nothing outlives an SVID that it stands on (DESIGN sections 9 and 12): links, sessions and pairings
//! end when one of theirs does, and everything when the own one does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use sivshm_abi::frame::{Reason, SessionId};
use sivshm_handshake::service::{Agreement, VerifiedService};
use sivshm_handshake::{Credentials, IdentityFault, VerifiedPeer};

use crate::audit::{Blame, Event};
use crate::run::mediation::PairingId;
use crate::run::peer_link::LinkEnd;
use crate::run::{EventLoop, RunError};

/// Something that stands on SVIDs.
#[derive(Clone, Copy, Debug)]
enum Standing<'a> {
    Link(&'a VerifiedPeer),
    Session(&'a VerifiedService),
    Pairing(&'a Agreement),
}

impl Standing<'_> {
    /// The first moment at which one of its SVIDs has ended.
    fn end(self) -> SystemTime {
        after(match self {
            Self::Link(peer) => peer.not_after(),
            Self::Session(service) => service.not_after(),
            Self::Pairing(agreement) => agreement.not_after(),
        })
    }

    /// Why one of its SVIDs is not to be believed any more, if that is so.
    fn fate(self, credentials: &Credentials, wall: SystemTime) -> Option<Reason> {
        let judged = match self {
            Self::Link(peer) => peer.revalidate(credentials, wall),
            Self::Session(service) => service.revalidate(credentials, wall),
            Self::Pairing(agreement) => agreement.revalidate(credentials, wall),
        };
        judged.err().map(|fault| match fault {
            IdentityFault::Expired => Reason::Expired,
            _ => Reason::Withdrawn,
        })
    }
}

/// The moment after a certificate's last second.
fn after(not_after: SystemTime) -> SystemTime {
    let end = not_after.checked_add(Duration::from_secs(1));
    end.unwrap_or(not_after)
}

/// How many live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Living {
    pub(super) links: usize,
    pub(super) sessions: usize,
    pub(super) pairings: usize,
}

impl EventLoop<'_> {
    /// When the first SVID that something stands on ends, the own one included.
    pub(super) fn expiry_deadline(&self, now: Instant) -> Option<Instant> {
        self.held.clock.instant_of(self.first_end(), now)
    }

    /// Ends what stands on an SVID that has ended; and everything, once the own one has.
    pub(super) fn end_expired(&mut self, now: Instant) -> Result<(), RunError> {
        let wall = self.held.clock.wall();
        if self.lifetime.over.is_none() && self.own_end() <= wall {
            self.go_out_of_service(Reason::Expired)?;
        }
        match self.lifetime.over {
            Some(reason) => self.end_all(reason, now),
            None if self.first_end() <= wall => {
                self.end_judged(|it| (it.end() <= wall).then_some(Reason::Expired), now)
            }
            None => Ok(()),
        }
    }

    /// Judges all SVIDs again, by the revocation lists in force.
    pub(super) fn revalidate(&mut self, now: Instant) -> Result<(), RunError> {
        let (credentials, wall) = (self.held.credentials(), self.held.clock.wall());
        self.end_judged(|it| it.fate(&credentials, wall), now)
    }

    /// From now on nothing is shared, until the device process is started again.
    pub(super) fn go_out_of_service(&mut self, reason: Reason) -> Result<(), RunError> {
        if self.lifetime.over.replace(reason) == Some(reason) {
            return Ok(());
        }
        let what = "all links, sessions and pairings";
        self.record_end(Event::Lifetime, Blame::Host, what, reason.words())
    }

    /// Ends everything that is there.
    pub(super) fn end_all(&mut self, reason: Reason, now: Instant) -> Result<(), RunError> {
        self.end_judged(|_| Some(reason), now)
    }

    pub(super) fn living(&self) -> Living {
        Living {
            links: self.links().count(),
            sessions: self.sessions().count(),
            pairings: self.pairings().count(),
        }
    }

    fn own_end(&self) -> SystemTime {
        after(self.held.credentials().not_after())
    }

    fn first_end(&self) -> SystemTime {
        let links = self.links().map(|(_, link)| link.end());
        let sessions = self.sessions().map(|(_, session)| session.end());
        let pairings = self.pairings().map(|(_, pairing)| pairing.end());
        let all = links.chain(sessions).chain(pairings);
        all.fold(self.own_end(), SystemTime::min)
    }

    fn links(&self) -> impl Iterator<Item = (usize, Standing<'_>)> {
        let peers = 0..self.vm.peers.len();
        peers.filter_map(|at| Some((at, Standing::Link(&self.peers.link(at)?.peer))))
    }

    fn sessions(&self) -> impl Iterator<Item = (SessionId, Standing<'_>)> {
        let live = self.control.sessions.live();
        live.filter_map(|(id, session)| Some((id, Standing::Session(session.proof()?))))
    }

    fn pairings(&self) -> impl Iterator<Item = (PairingId, Standing<'_>)> {
        self.mediation.iter().filter_map(|pairing| {
            let live = pairing.live()?;
            let standing = Standing::Pairing(&live.agreement);
            Some((pairing.planned().id, standing))
        })
    }

    /// Ends what `judge` has a reason for: pairings first, so that their services learn it, then
    /// sessions, then links with what else is shared over them.
    fn end_judged(
        &mut self,
        judge: impl Fn(Standing<'_>) -> Option<Reason>,
        now: Instant,
    ) -> Result<(), RunError> {
        let pairings: BTreeMap<_, _> = self
            .pairings()
            .filter_map(|(id, it)| Some((id, judge(it)?)))
            .collect();
        let sessions: BTreeMap<_, _> = self
            .sessions()
            .filter_map(|(id, it)| Some((id, judge(it)?)))
            .collect();
        let links: Vec<_> = self
            .links()
            .filter_map(|(at, it)| Some((at, judge(it)?)))
            .collect();
        for reason in [Reason::Expired, Reason::Withdrawn] {
            if pairings.values().any(|other| *other == reason) {
                let over = |id| pairings.get(&id) == Some(&reason);
                self.end_pairings(|pairing| over(pairing.planned().id), reason, now)?;
            }
            if sessions.values().any(|other| *other == reason) {
                self.end_sessions(|id, _| sessions.get(&id) == Some(&reason), reason, now)?;
            }
        }
        for (peer, reason) in links {
            self.end_pairings(|pairing| pairing.planned().peer == peer, reason, now)?;
            let end = LinkEnd::Over(reason);
            let events = self.peers.end_link(peer, &end, &mut self.audit, now)?;
            self.on_peer_events(events.into_iter().collect(), now)?;
        }
        Ok(())
    }
}
