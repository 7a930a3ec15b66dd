//! The four doors of a device process: who knocks, and who is let in.

use std::os::fd::OwnedFd;
use std::time::Instant;

use sivshm_sys::socket;

use super::poller::{ConnectionId, Door};
use super::{EventLoop, RunError};

/// Connections accepted from one listening socket each time it wakes the loop.
const ACCEPTS_PER_WAKE: usize = 32;

impl EventLoop<'_> {
    /// A listening socket is ready.
    pub(super) fn accept(&mut self, door: Door, now: Instant) -> Result<(), RunError> {
        for _ in 0..ACCEPTS_PER_WAKE {
            let at = match door {
                Door::Peer => 0,
                Door::Port => 1,
                Door::Launch => 2,
                Door::Admin => 3,
            };
            let Some(listener) = self.doors.get_mut(at) else {
                return Ok(());
            };
            let Some(socket) = listener.accept(&self.poller, now)? else {
                return Ok(());
            };
            self.last_connection = self.last_connection.next();
            self.welcome(door, socket, self.last_connection, now)?;
        }
        Ok(())
    }

    fn welcome(
        &mut self,
        door: Door,
        connection: OwnedFd,
        id: ConnectionId,
        now: Instant,
    ) -> Result<(), RunError> {
        // A connection whose other end can't be named is dropped.
        let Ok(who) = socket::peer_credentials(&connection) else {
            return Ok(());
        };
        match door {
            Door::Peer => {
                let (poller, audit) = (&self.poller, &mut self.audit);
                Ok(self.peers.accept(connection, who, poller, audit, now)?)
            }
            Door::Port => self.welcome_vmm(connection, who, now),
            Door::Launch => self.welcome_launcher(connection, who, id, now),
            Door::Admin => self.welcome_operator(connection, who, id, now),
        }
    }
}
