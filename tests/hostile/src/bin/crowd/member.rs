//! A session with the right papers, of which a crowd has many.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use serde_json::json;
use sivshm_abi::frame::{Facts, Payload, SessionId};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::limits::{MAX_DATA_BYTES, SESSION_CREDIT_BYTES};
use sivshm_abi::name::{ChannelName, ServiceName, VmName};
use sivshm_handshake::Credentials;
use sivshm_handshake::service::wire::Role;
use sivshm_handshake::service::{ClientEvent, ServiceClient, Stage, Want};
use sivshm_hostile::end::{End, event};
use zeroize::Zeroizing;

use crate::line::{Heard, Inherited, Line};

/// Longest time for anything that a device process does at once, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(30);

/// The papers of a service.
pub fn credentials(inherited: &Inherited) -> nix::Result<Credentials> {
    let [svid, key, bundle] = inherited.papers()?;
    let key = Zeroizing::new(key);
    Credentials::load_service(&svid, &key, &bundle, SystemTime::now())
        .map_err(|_| Errno::EKEYREJECTED)
}

/// The end of a channel that `own` wants to write.
pub fn want(own: SpiffeId, end: &End) -> nix::Result<Want> {
    let no_name = |_| Errno::EINVAL;
    let peer = end.peers.first().and_then(|peer| peer.split_once('/'));
    let (vm, service) = peer.ok_or(Errno::EINVAL)?;
    let vm = VmName::new(vm).map_err(no_name)?;
    let service = ServiceName::new(service).map_err(no_name)?;
    Ok(Want {
        channel: ChannelName::new(&end.channel).map_err(no_name)?,
        peer: SpiffeId {
            domain: own.domain,
            subject: Subject::Service(vm, service),
        },
        role: Role::Writer,
        integrity: None,
    })
}

/// A session of a crowd.
pub struct Member {
    pub session: SessionId,
    client: ServiceClient,
    unsent: Vec<u8>,
    credit: usize,
}

impl Member {
    /// Opens a session.
    pub fn join(line: &mut Line, facts: Facts, own: &Credentials) -> nix::Result<Self> {
        let client = ServiceClient::dial(own, SystemTime::now()).map_err(|_| Errno::EPROTO)?;
        let mut member = Self {
            session: line.open(facts)?,
            client,
            unsent: Vec::new(),
            credit: SESSION_CREDIT_BYTES,
        };
        member.speak(line)?;
        Ok(member)
    }

    /// Says what there is to say, as far as it has credit. Whether that was all.
    pub fn speak(&mut self, line: &mut Line) -> nix::Result<bool> {
        self.unsent.append(&mut self.client.outgoing());
        loop {
            let count = self.unsent.len().min(self.credit).min(MAX_DATA_BYTES);
            if count == 0 {
                return Ok(self.unsent.is_empty());
            }
            let bytes: Vec<_> = self.unsent.drain(..count).collect();
            line.send(self.session, &Payload::Data(&bytes))?;
            self.credit -= count;
        }
    }

    /// Wants an end.
    pub fn want(&mut self, want: Want) -> nix::Result<()> {
        self.client
            .want(want, Instant::now())
            .map_err(|_| Errno::EPROTO)
    }

    /// Gives it up.
    pub fn give_up(&mut self, want: Want) {
        self.client.close(want.channel, want.peer);
    }

    /// Whether the device process has answered a wish.
    pub fn answered(&self, want: Want) -> bool {
        let stage = self.client.stage(want.channel, want.peer);
        stage.is_some_and(|stage| stage != Stage::Link)
    }

    /// Takes what the session is told.
    pub fn take(&mut self, heard: Heard) -> nix::Result<Vec<ClientEvent>> {
        match heard {
            Heard::Data(bytes) => self
                .client
                .receive(&bytes, SystemTime::now(), Instant::now())
                .map_err(|_| Errno::EPROTO),
            Heard::Credit(credit) => {
                self.credit += credit;
                Ok(Vec::new())
            }
            Heard::Closed(_) => Err(Errno::ESHUTDOWN),
        }
    }

    /// Talks until something of this session has happened.
    pub fn until(
        &mut self,
        line: &mut Line,
        wanted: impl Fn(&ClientEvent) -> bool,
    ) -> nix::Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.speak(line)?;
            let (session, heard) = line.hear(deadline)?.ok_or(Errno::ETIMEDOUT)?;
            if session == self.session && self.take(heard)?.iter().any(&wanted) {
                return Ok(());
            }
        }
    }
}

/// Two sessions of one service under way at once: the one that proves itself later learns that it may
/// not, the first goes on.
pub fn race(line: &mut Line, facts: Facts, inherited: &Inherited, end: &End) -> nix::Result<()> {
    let own = credentials(inherited)?;
    let deadline = Instant::now() + LIMIT;
    let mut first = Member::join(line, facts, &own)?;
    let mut second = Member::join(line, facts, &own)?;
    let (mut proved, mut waiting) = (false, VecDeque::new());
    loop {
        let (session, heard) = line.hear(deadline)?.ok_or(Errno::ETIMEDOUT)?;
        if session == first.session {
            let events = first.take(heard)?;
            proved |= events
                .iter()
                .any(|it| matches!(it, ClientEvent::Authenticated));
            first.speak(line)?;
        } else {
            waiting.push_back(heard);
        }
        // The second one's last step comes behind the first one's.
        while let Some(heard) = waiting.pop_front_if(|_| proved) {
            if let Heard::Closed(reason) = heard {
                event("closed", "second", &json!({ "reason": reason.words() }));
                let want = want(own.id(), end)?;
                first.want(want)?;
                first.until(line, |it| matches!(it, ClientEvent::Opened(_)))?;
                event("opened", "first", &json!({}));
                // The other end is still to hear of it.
                return first.until(line, |_| false);
            }
            // That TLS ends is less than the reason that comes next.
            let _ = second.take(heard);
            second.speak(line)?;
        }
    }
}
