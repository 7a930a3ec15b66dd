//! How connections with peers begin: somebody connects, or this side dials.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use sivshm_handshake::{Action, PeerHandshake};
use sivshm_sys::socket::{self, PeerCredentials};

use super::{Peers, refused, stranger};
use crate::audit::{Audit, Blame};
use crate::paths::socket_name;
use crate::run::RunError;
use crate::run::bucket::TokenBucket;
use crate::run::limits::{ARRIVAL_INTERVAL, ARRIVALS_AT_ONCE};
use crate::run::outbox::Right;
use crate::run::peer_link::{Connection, LinkEnd};
use crate::run::poller::{ConnectionId, Poller, Source};

impl<'h> Peers<'h> {
    /// Takes up a connection that somebody made.
    ///
    /// # Errors
    /// The audit or the host failed.
    pub fn accept(
        &mut self,
        socket: OwnedFd,
        who: PeerCredentials,
        poller: &Poller,
        audit: &mut Audit<'_>,
        now: Instant,
    ) -> Result<(), RunError> {
        let of_user = self
            .slots
            .iter()
            .filter(|slot| !slot.dials && slot.uid == who.uid);
        let peers = of_user.count();
        let reason = match u32::try_from(peers) {
            Ok(peers @ 1..) => {
                let bucket = self.arrivals.entry(who.uid).or_insert_with(|| {
                    let capacity = ARRIVALS_AT_ONCE.saturating_mul(peers);
                    TokenBucket::new(capacity, ARRIVAL_INTERVAL / peers, now)
                });
                (!bucket.take(now)).then_some("its user connects too often")
            }
            _ => Some("no peer that dials this VM has its user"),
        };
        if let Some(reason) = reason {
            return Ok(refused(&stranger(who), reason, Blame::Peer, audit, now)?);
        }
        let unproved = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.who.uid == who.uid && connection.in_handshake());
        let unproved: Vec<_> = unproved.map(|(id, _)| *id).collect();
        // One handshake for each peer: a newer connection means that the peer gave up an older one.
        // Ids go up, so the first is the oldest.
        if unproved.len() >= peers
            && let Some(oldest) = unproved.first()
        {
            self.end(*oldest, &LinkEnd::Crowded, audit, now)?;
        }
        match PeerHandshake::accept(&self.held.credentials(), self.held.clock.wall(), now) {
            Ok(machine) => {
                self.add(socket, machine, who, None, poller, now)?;
                Ok(())
            }
            Err(refusal) => Ok(refused(
                &stranger(who),
                &refusal.to_string(),
                Blame::Host,
                audit,
                now,
            )?),
        }
    }

    fn add(
        &mut self,
        socket: OwnedFd,
        machine: PeerHandshake<Right<'h>>,
        who: PeerCredentials,
        peer: Option<usize>,
        poller: &Poller,
        now: Instant,
    ) -> io::Result<ConnectionId> {
        self.last_connection = self.last_connection.next();
        let id = self.last_connection;
        let mut connection = Connection::new(socket, Source::Peer(id), machine, who, poller, now)?;
        connection.peer = peer;
        self.connections.insert(id, connection);
        Ok(id)
    }

    /// Dials a peer, or notes when to try again.
    pub(super) fn dial(&mut self, peer: usize, poller: &Poller, now: Instant) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(peer) else {
            return Ok(());
        };
        slot.next_dial = None;
        slot.dialed += 1;
        let path = self.held.peer_dir.join(socket_name(slot.name));
        let dialed = socket::connect(&path).and_then(|socket| {
            let who = socket::peer_credentials(&socket)?;
            let credentials = self.held.credentials();
            let (name, wall) = (slot.name, self.held.clock.wall());
            let dialed = PeerHandshake::dial(&credentials, name, slot.dialed, wall, now);
            let (machine, hello) = dialed.map_err(io::Error::other)?;
            Ok((socket, who, machine, hello))
        });
        match dialed {
            Ok((socket, who, machine, hello)) => {
                let id = self.add(socket, machine, who, Some(peer), poller, now)?;
                if let (Some(connection), Action::Send(bytes)) =
                    (self.connections.get_mut(&id), hello)
                {
                    // What does not fit now is sent, or fails, when the socket is ready.
                    let sent = connection.send(bytes, Vec::new());
                    if let Err(error) = sent.and_then(|()| connection.flush(poller, now)) {
                        tracing::debug!(%error, "a fresh connection does not take its first bytes");
                    }
                }
            }
            Err(error) => {
                slot.last_error = Some(format!("can't connect to its device process: {error}"));
                slot.back_off(now);
            }
        }
        Ok(())
    }
}
