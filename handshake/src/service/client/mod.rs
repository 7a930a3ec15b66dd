//! The service's end: a TLS client of its own VM's device process, and every pairing of the process.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::{Instant, SystemTime};

use sivshm_abi::frame::Reason;
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::ChannelName;

use super::ALPN;
use super::fault::ServiceFault;
use super::line::{Heard, Line, Side};
use super::wire::{Content, Message, Pairing, Role, ServiceRefusal};
use crate::credentials::Credentials;
use crate::identity::Party;
use crate::tls::Tls;

mod event;
mod reader;
mod step;
mod wish;
mod writer;

pub use event::{ClientEvent, Opened, Stage, Want};

use step::{Context, Step};
use wish::{Wish, reopens};

/// The service's end of its session, sans-IO. It keeps wanting what it was told to want until
/// [`Self::close`], or until an end or a refusal that waiting can't heal.
#[derive(Debug)]
pub struct ServiceClient {
    credentials: Credentials,
    line: Line,
    pairings: BTreeMap<Pairing, Wish>,
    /// Pairings about which this service has said its last word, and the device process not yet. What
    /// comes until then is about what is over; a wish waits for it.
    ending: BTreeSet<Pairing>,
}

impl ServiceClient {
    /// Begins a session with the device process of the VM that the own SVID names; no other party
    /// is taken for it. Certificates are judged at `wall`.
    ///
    /// # Errors
    /// [`ServiceFault::Tls`] if TLS can't be set up; [`ServiceFault::Wish`] if the credentials are a
    /// device process's.
    pub fn dial(credentials: &Credentials, wall: SystemTime) -> Result<Self, ServiceFault> {
        let Subject::Service(vm, _) = credentials.id.subject else {
            return Err(ServiceFault::Wish("a device process has no session"));
        };
        let tls = Tls::dial(credentials, ALPN, Party::Device(vm), wall)?;
        Ok(Self {
            credentials: credentials.clone(),
            line: Line::new(tls, Side::Service),
            pairings: BTreeMap::new(),
            ending: BTreeSet::new(),
        })
    }

    /// Who the service is.
    #[must_use]
    pub const fn id(&self) -> SpiffeId {
        self.credentials.id
    }

    /// Wants one end of a channel, and keeps wanting it.
    ///
    /// # Errors
    /// [`ServiceFault::Wish`] if it is wanted already, or the peer is no other service of the trust
    /// domain; [`ServiceFault::Ended`] after the session.
    pub fn want(&mut self, want: Want, now: Instant) -> Result<(), ServiceFault> {
        if self.line.has_ended() {
            return Err(ServiceFault::Ended);
        }
        let me = self.id();
        if want.peer == me || want.peer.domain != me.domain {
            return Err(ServiceFault::Wish(
                "the peer is not another one of this domain",
            ));
        }
        if let Subject::Device(_) = want.peer.subject {
            return Err(ServiceFault::Wish("the peer is a device process"));
        }
        let pairing = want.pairing(me);
        if self.pairings.contains_key(&pairing) {
            return Err(ServiceFault::Wish("this end is wanted already"));
        }
        self.pairings.insert(pairing, Wish::new(want, now));
        self.on_time(now)
    }

    /// Gives up one end of a channel: its pairing with `peer` is over, or was never to be.
    pub fn close(&mut self, channel: ChannelName, peer: SpiffeId) {
        let is_it = |wish: &Wish| wish.want.channel == channel && wish.want.peer == peer;
        let found = self.pairings.iter().find(|(_, wish)| is_it(wish));
        let Some(pairing) = found.map(|(pairing, _)| *pairing) else {
            return;
        };
        let wish = self.pairings.remove(&pairing);
        if wish.is_some_and(|wish| !wish.rests()) {
            let content = Content::End(Reason::Closed);
            // A session that can't say it is over, and the device process knows.
            let _ = self.say_last(pairing, content);
        }
    }

    /// How far a wish has come; none if there is no such wish.
    #[must_use]
    pub fn stage(&self, channel: ChannelName, peer: SpiffeId) -> Option<Stage> {
        let is_it = |wish: &&Wish| wish.want.channel == channel && wish.want.peer == peer;
        self.pairings
            .values()
            .find(is_it)
            .map(|wish| wish.step.stage())
    }

    /// When [`Self::on_time`] has something to do; none if nothing is due before bytes come.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let wishes = self.pairings.iter();
        let wishes = wishes.filter(|(pairing, _)| !self.ending.contains(pairing));
        let wishes = wishes.filter_map(|(_, wish)| wish.due());
        wishes.min().filter(|_| self.line.is_live())
    }

    /// Says the wishes that have rested long enough.
    ///
    /// # Errors
    /// [`ServiceFault::Tls`] if TLS can't encrypt them.
    pub fn on_time(&mut self, now: Instant) -> Result<(), ServiceFault> {
        if !self.line.is_live() {
            return Ok(());
        }
        let mut due = Vec::new();
        for (pairing, wish) in &mut self.pairings {
            let free = !self.ending.contains(pairing);
            if free && wish.due().is_some_and(|due| due <= now) {
                due.push((*pairing, wish.begin(now)));
            }
        }
        due.into_iter()
            .try_for_each(|(pairing, content)| self.say(pairing, content))
    }

    /// Takes bytes that the device process sent. Messages are judged at `wall`.
    ///
    /// # Errors
    /// What ends the session; [`Self::farewell`] has what the device process is told. A pairing that
    /// fails is an event.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        wall: SystemTime,
        now: Instant,
    ) -> Result<Vec<ClientEvent>, ServiceFault> {
        let mut events = Vec::new();
        while let Some(heard) = self.line.hear(&mut bytes)? {
            match heard {
                Heard::Authenticated(_) => events.push(ClientEvent::Authenticated),
                Heard::Message(message) => self.on_message(message, wall, now, &mut events)?,
            }
        }
        self.on_time(now)?;
        Ok(events)
    }

    fn on_message(
        &mut self,
        message: Message,
        wall: SystemTime,
        now: Instant,
        events: &mut Vec<ClientEvent>,
    ) -> Result<(), ServiceFault> {
        let pairing = message.pairing;
        if self.ending.contains(&pairing) {
            if let Content::End(_) | Content::Refusal(_) = message.content {
                self.ending.remove(&pairing);
            }
            return Ok(());
        }
        let epoch = self.epoch_of_others(pairing);
        // Whatever crossed the end of a pairing is about nothing any more.
        let Some(wish) = self.pairings.get_mut(&pairing) else {
            return Ok(());
        };
        match message.content {
            Content::Refusal(refusal) => {
                if !wish.rests() {
                    self.refused(pairing, refusal, None, now, events);
                }
                Ok(())
            }
            Content::End(reason) => {
                if !wish.rests() {
                    self.ended(pairing, reason, now, events);
                }
                Ok(())
            }
            content => {
                let context = Context {
                    credentials: &self.credentials,
                    want: &wish.want,
                    wall,
                    epoch,
                };
                let step = mem::replace(&mut wish.step, Step::Resting);
                match step.on_message(Message { pairing, content }, &context) {
                    Ok(outcome) => {
                        wish.step = outcome.next;
                        events.extend(outcome.opened.map(ClientEvent::Opened));
                        outcome
                            .say
                            .map_or(Ok(()), |content| self.say(pairing, content))
                    }
                    Err(fault) => self.refuse(pairing, fault, now, events),
                }
            }
        }
    }

    /// The epoch of the channel's other readers: all pairings of one writer's end that overlap in
    /// time have the same.
    fn epoch_of_others(&self, pairing: Pairing) -> Option<u64> {
        self.pairings
            .iter()
            .filter(|(other, wish)| {
                **other != pairing
                    && other.channel == pairing.channel
                    && wish.want.role == Role::Writer
            })
            .find_map(|(_, wish)| wish.step.epoch())
    }

    /// Refuses what came, and tells everybody.
    fn refuse(
        &mut self,
        pairing: Pairing,
        fault: ServiceFault,
        now: Instant,
        events: &mut Vec<ClientEvent>,
    ) -> Result<(), ServiceFault> {
        let refusal = ServiceRefusal {
            by: self.id(),
            reason: fault.reason(),
        };
        self.refused(pairing, refusal, Some(fault), now, events);
        self.say_last(pairing, Content::Refusal(refusal))
    }

    fn refused(
        &mut self,
        pairing: Pairing,
        refusal: ServiceRefusal,
        fault: Option<ServiceFault>,
        now: Instant,
        events: &mut Vec<ClientEvent>,
    ) {
        let again = refusal.reason.heals();
        if let Some(want) = self.set_back(pairing, again, now) {
            events.push(ClientEvent::Refused {
                channel: want.channel,
                peer: want.peer,
                refusal,
                fault,
                again,
            });
        }
    }

    fn ended(
        &mut self,
        pairing: Pairing,
        reason: Reason,
        now: Instant,
        events: &mut Vec<ClientEvent>,
    ) {
        let again = reopens(reason);
        if let Some(want) = self.set_back(pairing, again, now) {
            events.push(ClientEvent::Ended {
                channel: want.channel,
                peer: want.peer,
                reason,
                again,
            });
        }
    }

    /// Lets a wish rest, or forgets it.
    fn set_back(&mut self, pairing: Pairing, again: bool, now: Instant) -> Option<Want> {
        if again {
            let wish = self.pairings.get_mut(&pairing)?;
            wish.rest(now);
            Some(wish.want)
        } else {
            self.pairings.remove(&pairing).map(|wish| wish.want)
        }
    }

    /// Says this side's last word about a pairing.
    fn say_last(&mut self, pairing: Pairing, content: Content) -> Result<(), ServiceFault> {
        self.say(pairing, content)?;
        self.ending.insert(pairing);
        Ok(())
    }

    fn say(&mut self, pairing: Pairing, content: Content) -> Result<(), ServiceFault> {
        self.line.say(&Message { pairing, content })
    }

    /// The bytes to send since the last call.
    #[must_use]
    pub fn outgoing(&mut self) -> Vec<u8> {
        self.line.outgoing()
    }

    /// Ends the session, and gives the last bytes to send.
    #[must_use]
    pub fn farewell(&mut self) -> Vec<u8> {
        self.line.farewell()
    }
}
