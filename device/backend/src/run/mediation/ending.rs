//! How a pairing ends, or is refused: what is taken back, and who is told.

use std::fmt::Display;
use std::time::Instant;

use sivshm_abi::frame::{Reason, SessionId};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_handshake::service::wire::{Content, Message, RefusalReason, ServiceRefusal};

use super::order::{Fault, Note, Order, Party};
use super::pairing::{Pairing, Round};
use super::steps::Step;
use crate::audit::{Blame, Decision};

impl Pairing {
    /// Refuses what a party said, by number to everybody who has a part in it.
    pub(super) fn refuse(&mut self, whose: Party, fault: &Fault) -> Vec<Order> {
        let step = std::mem::take(&mut self.step);
        self.refuse_under_way(UnderWay::of(&step), whose, fault)
    }

    pub(super) fn refuse_under_way(
        &mut self,
        what: UnderWay,
        whose: Party,
        fault: &Fault,
    ) -> Vec<Order> {
        let blame = match whose {
            Party::Service => Blame::Guest,
            Party::Peer => Blame::Peer,
        };
        let mut orders = vec![self.denied(blame, fault)];
        let word = self.refusal(fault.reason());
        orders.extend(self.end(what, Some(word.clone()), Some(word), Reason::Protocol));
        orders
    }

    /// The peer has said that the round is over.
    pub(super) fn last_word_of_peer(&mut self, word: Content, reason: Reason) -> Vec<Order> {
        self.round = Round::Owed;
        self.finish(Some(word), None, reason)
    }

    /// Ends what is under way: takes back what was granted, and says the last words to the own
    /// service and to the peer.
    pub(super) fn finish(
        &mut self,
        to_service: Option<Content>,
        to_peer: Option<Content>,
        reason: Reason,
    ) -> Vec<Order> {
        let step = std::mem::take(&mut self.step);
        self.end(UnderWay::of(&step), to_service, to_peer, reason)
    }

    fn end(
        &mut self,
        what: UnderWay,
        to_service: Option<Content>,
        to_peer: Option<Content>,
        reason: Reason,
    ) -> Vec<Order> {
        let mut orders = Vec::new();
        if let UnderWay::Live(session) = what {
            orders.push(self.note(Decision::End, blame(reason), reason.words()));
            orders.push(Order::TakeBack(self.planned.id, session, reason));
        }
        if let (Some(session), Some(word)) = (what.session(), to_service) {
            orders.push(self.tell(session, word));
        }
        self.waiting = None;
        if self.round == Round::Open {
            self.round = match to_peer {
                Some(_) => Round::Ending,
                None => Round::Closed,
            };
            orders.extend(to_peer.map(|word| self.pass(word)));
        }
        orders
    }

    /// The service, or its session, leaves; an `open` of the other end goes on waiting for the next.
    pub(super) fn leave(&mut self, reason: Reason) -> Vec<Order> {
        self.wanted = None;
        match self.step {
            Step::Idle => Vec::new(),
            _ => self.finish(None, Some(Content::End(Reason::OtherEnd)), reason),
        }
    }

    /// A session has ended.
    pub(super) fn on_closed(&mut self, session: SessionId) -> Vec<Order> {
        match self.wanted.or(self.step.session()) {
            Some(ours) if ours == session => self.leave(Reason::Closed),
            _ => Vec::new(),
        }
    }

    /// The link with the peer is gone, and with it the round.
    pub(super) fn unlink(&mut self) -> Vec<Order> {
        let gone = Reason::PeerGone;
        let orders = self.finish(Some(Content::End(gone)), None, gone);
        self.round = Round::Closed;
        orders
    }

    /// Ends what is under way; it may be opened again.
    pub(super) fn interrupt(&mut self, reason: Reason) -> Vec<Order> {
        let word = Content::End(reason);
        self.finish(Some(word.clone()), Some(word), reason)
    }

    /// Ends the pairing for the life of this process.
    pub(super) fn end_for_good(&mut self, reason: Reason) -> Vec<Order> {
        self.over = Some(reason);
        let wanted = self.wanted.take();
        let told = wanted.map(|session| self.tell(session, Content::End(reason)));
        let mut orders = self.interrupt(reason);
        orders.extend(told);
        orders
    }

    /// Ends what was not completed in time.
    pub(super) fn on_time(&mut self, now: Instant) -> Vec<Order> {
        if self
            .waiting
            .as_ref()
            .is_some_and(|waiting| waiting.until <= now)
        {
            let late = self.refusal(RefusalReason::Late);
            return self.finish(None, Some(late), Reason::Incomplete);
        }
        if self.step.until().is_some_and(|until| until <= now) {
            let mut orders =
                vec![self.note(Decision::Deny, Blame::Peer, Reason::Incomplete.words())];
            orders.extend(self.interrupt(Reason::Incomplete));
            return orders;
        }
        Vec::new()
    }

    /// A peer's device process speaks for itself and for the services of its VM only.
    pub(super) fn of_peer(&self, refusal: ServiceRefusal) -> ServiceRefusal {
        let other = self.planned.other();
        let device = SpiffeId {
            domain: other.domain,
            subject: match other.subject {
                Subject::Device(vm) | Subject::Service(vm, _) => Subject::Device(vm),
            },
        };
        if refusal.by == other || refusal.by == device {
            return refusal;
        }
        ServiceRefusal {
            by: device,
            reason: refusal.reason,
        }
    }

    pub(super) fn refusal(&self, reason: RefusalReason) -> Content {
        Content::Refusal(ServiceRefusal {
            by: self.planned.device,
            reason,
        })
    }

    const fn message(&self, content: Content) -> Message {
        Message {
            pairing: self.planned.name,
            content,
        }
    }

    pub(super) fn tell(&self, session: SessionId, content: Content) -> Order {
        Order::Tell(session, self.message(content))
    }

    pub(super) fn pass(&self, content: Content) -> Order {
        Order::Pass(self.planned.peer, self.message(content))
    }

    pub(super) fn denied(&self, blame: Blame, why: impl Display) -> Order {
        self.note(Decision::Deny, blame, why)
    }

    pub(super) fn note(&self, decision: Decision, blame: Blame, why: impl Display) -> Order {
        Order::Record(Note {
            decision,
            blame,
            who: format!("{} and {}", self.planned.writer, self.planned.reader),
            what: format!("channel {}", self.planned.name.channel),
            reason: why.to_string(),
        })
    }
}

/// What a step leaves to be ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum UnderWay {
    Nothing,
    Opening(SessionId),
    Live(SessionId),
}

impl UnderWay {
    pub(super) const fn of(step: &Step) -> Self {
        match (step.session(), step.live()) {
            (Some(session), Some(_)) => Self::Live(session),
            (Some(session), None) => Self::Opening(session),
            (None, _) => Self::Nothing,
        }
    }

    const fn session(self) -> Option<SessionId> {
        match self {
            Self::Nothing => None,
            Self::Opening(session) | Self::Live(session) => Some(session),
        }
    }
}

/// Who is to blame for the end of a pairing.
const fn blame(reason: Reason) -> Blame {
    match reason {
        Reason::PeerGone | Reason::OtherEnd | Reason::Incomplete | Reason::Protocol => Blame::Peer,
        _ => Blame::Nobody,
    }
}

/// A reason that a peer's device process may give; another one is its fault.
pub(super) const fn of_peer(reason: Reason) -> Reason {
    match reason {
        Reason::Admin
        | Reason::PeerGone
        | Reason::Expired
        | Reason::Withdrawn
        | Reason::Policy
        | Reason::OtherEnd
        | Reason::Incomplete => reason,
        _ => Reason::Protocol,
    }
}
