//! One pairing, as one of its two device processes sees it.
//!
//! What is under way is a [`Step`]. Around it, the two device processes hold *rounds*: one begins
//! with the `open` that the writer's passes on, and ends when both have said their last word about
//! it, `end` or `refusal`. Who says it first says it at once; the other one answers when its own
//! gate has let go. So a new round never meets messages or pages of the one before.

use std::time::Instant;

use sivshm_abi::frame::{Reason, SessionId};
use sivshm_abi::grant::Integrity;
use sivshm_abi::identity::SpiffeId;
use sivshm_handshake::service::wire::{Content, Open, RefusalReason, Role, ServiceRefusal, Terms};

use super::ending::{UnderWay, of_peer};
use super::order::{Act, Context, Fault, Gate, Order, Party, is_costly};
use super::planned::Planned;
use super::reader::{self, Waiting};
use super::steps::{Live, Step};
use super::writer;
use crate::audit::{Blame, Decision};
use crate::run::admission::{self, Scope};
use crate::run::bucket::TokenBucket;

/// What the two device processes have said to each other about a pairing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Round {
    /// Nothing, or both their last words.
    Closed,
    /// The writer's has passed an `open`.
    Open,
    /// This one has said its last word.
    Ending,
    /// The other one has; this one owes the answer until the guest has let go.
    Owed,
}

/// One pairing.
#[derive(Debug)]
pub struct Pairing {
    pub(super) planned: Planned,
    pub(super) round: Round,
    /// The session that wants it and has nothing under way yet.
    pub(super) wanted: Option<SessionId>,
    /// At the reader's: the `open` that waits for it.
    pub(super) waiting: Option<Waiting>,
    pub(super) step: Step,
    /// Why it is never opened again by this process.
    pub(super) over: Option<Reason>,
}

impl Pairing {
    /// Nothing has happened yet.
    #[must_use]
    pub const fn new(planned: Planned) -> Self {
        Self {
            planned,
            round: Round::Closed,
            wanted: None,
            waiting: None,
            step: Step::Idle,
            over: None,
        }
    }

    /// What the policy says about it.
    #[must_use]
    pub const fn planned(&self) -> &Planned {
        &self.planned
    }

    /// Whether a service of this VM wants it and nothing is under way yet.
    #[must_use]
    pub const fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// Whether a session of this VM is opening it.
    #[must_use]
    pub const fn is_opening(&self) -> bool {
        self.step.session().is_some() && self.step.live().is_none()
    }

    /// What the grants of this VM's end stand on, while they live.
    #[must_use]
    pub const fn live(&self) -> Option<&Live> {
        self.step.live()
    }

    /// Why it is never opened again by this process.
    #[must_use]
    pub const fn over(&self) -> Option<Reason> {
        self.over
    }

    pub(super) fn epoch(&self) -> Option<u64> {
        self.step.epoch()
    }

    /// When [`Self::on_time`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.as_ref().map(|waiting| waiting.until);
        [self.step.until(), waiting].into_iter().flatten().min()
    }

    /// Goes on as far as nothing hinders: the answer to the peer's last word once the guest has let
    /// go, and a new start if the service wants one.
    pub(super) fn advance(&mut self, scope: &Scope<'_>, gate: &impl Gate) -> Vec<Order> {
        let mut orders = Vec::new();
        if !gate.settled(scope, &self.planned) {
            return orders;
        }
        if self.round == Round::Owed {
            self.round = Round::Closed;
            orders.push(self.pass(Content::End(Reason::Closed)));
        }
        let mut links = scope.links.iter().skip(self.planned.peer);
        let linked = links.next().is_some_and(Option::is_some);
        let (Step::Idle, true, Some(session)) = (&self.step, linked, self.wanted) else {
            return orders;
        };
        let Some(terms) = self.terms(scope) else {
            return orders;
        };
        let terms = self.tell(session, Content::Terms(terms));
        match (self.planned.role, self.round) {
            (Role::Writer, Round::Closed) => {
                self.wanted = None;
                self.step = Step::Offered(session);
                orders.push(terms);
            }
            (Role::Reader, Round::Open) => {
                if let Some(waiting) = self.waiting.take() {
                    self.wanted = None;
                    let (step, open) = waiting.offer(session, scope.now);
                    self.step = step;
                    orders.extend([terms, self.tell(session, open)]);
                }
            }
            _ => {}
        }
        orders
    }

    /// The own service says something about the pairing.
    pub(super) fn on_service(
        &mut self,
        session: SessionId,
        content: Content,
        context: &Context<'_>,
    ) -> Vec<Order> {
        let under_way = self.step.session().is_some();
        match content {
            Content::Want { peer, integrity } if !under_way => {
                if let Some(reason) = self.over {
                    return vec![self.tell(session, Content::End(reason))];
                }
                match self.judge_want(peer, integrity) {
                    Err(reason) => vec![
                        self.denied(Blame::Policy, reason),
                        self.tell(session, self.refusal(reason)),
                    ],
                    Ok(()) => {
                        self.wanted = Some(session);
                        Vec::new()
                    }
                }
            }
            Content::End(_) => {
                let ours = self.wanted.or(self.step.session()) == Some(session);
                let mut orders = self.leave(Reason::Closed);
                // Else this side's last word is on its way, or said.
                if ours {
                    orders.push(self.tell(session, Content::End(Reason::Closed)));
                }
                orders
            }
            Content::Refusal(refusal) if under_way => {
                let by = self.planned.own();
                let refusal = ServiceRefusal { by, ..refusal };
                let mut orders = vec![self.denied(Blame::Peer, refusal)];
                let word = Some(Content::Refusal(refusal));
                orders.extend(self.finish(None, word, Reason::Protocol));
                orders.push(self.tell(session, Content::End(Reason::Protocol)));
                orders
            }
            // It crossed the end of what it is about.
            _ if !under_way => Vec::new(),
            content => self.on_step(Party::Service, content, context),
        }
    }

    /// Whether a service may want this.
    fn judge_want(
        &self,
        peer: SpiffeId,
        integrity: Option<Integrity>,
    ) -> Result<(), RefusalReason> {
        if peer != self.planned.other() {
            return Err(RefusalReason::Peer);
        }
        match integrity {
            Some(wanted) if wanted != self.planned.integrity() => Err(RefusalReason::Integrity),
            _ => Ok(()),
        }
    }

    /// The peer's device process says something about the pairing. `costly` bounds how often it may
    /// make this one verify a signature.
    pub(super) fn on_peer(
        &mut self,
        content: Content,
        context: &Context<'_>,
        costly: &mut TokenBucket,
    ) -> Vec<Order> {
        match (content, self.round) {
            (Content::End(_) | Content::Refusal(_), Round::Closed | Round::Owed) => Vec::new(),
            (Content::End(_) | Content::Refusal(_), Round::Ending) => {
                self.round = Round::Closed;
                Vec::new()
            }
            (Content::End(reason), Round::Open) => {
                let reason = of_peer(reason);
                self.last_word_of_peer(Content::End(reason), reason)
            }
            (Content::Refusal(refusal), Round::Open) => {
                let refusal = self.of_peer(refusal);
                let mut orders = vec![self.denied(Blame::Peer, refusal)];
                let word = Content::Refusal(refusal);
                orders.extend(self.last_word_of_peer(word, Reason::OtherEnd));
                orders
            }
            // It crossed this side's last word.
            (_, Round::Ending) => Vec::new(),
            (Content::Open(open), Round::Open | Round::Closed)
                if self.planned.role == Role::Reader && self.over.is_none() =>
            {
                self.on_open(&open, context, costly)
            }
            (content, Round::Open) => {
                if is_costly(&content) && !costly.take(context.scope.now) {
                    return self.refuse(Party::Peer, &RefusalReason::Flood.into());
                }
                self.on_step(Party::Peer, content, context)
            }
            (_, Round::Closed | Round::Owed) => {
                let fault = match self.over {
                    Some(_) => RefusalReason::Policy.into(),
                    None => Fault::OutOfTurn(context.kind),
                };
                let word = self.pass(self.refusal(fault.reason()));
                vec![self.denied(Blame::Peer, &fault), word]
            }
        }
    }

    /// The writer has opened. Newer replaces older: it has started again.
    fn on_open(
        &mut self,
        open: &Open,
        context: &Context<'_>,
        costly: &mut TokenBucket,
    ) -> Vec<Order> {
        let superseded = Reason::OtherEnd;
        let mut orders = self.finish(Some(Content::End(superseded)), None, superseded);
        self.round = Round::Open;
        let waiting = match costly.take(context.scope.now) {
            true => Waiting::new(open, context),
            false => Err(RefusalReason::Flood.into()),
        };
        match waiting {
            Ok(waiting) => self.waiting = Some(waiting),
            Err(fault) => orders.extend(self.refuse(Party::Peer, &fault)),
        }
        orders
    }

    /// Hands a message to the step whose turn it is; the step is gone if that refuses it.
    fn on_step(&mut self, from: Party, content: Content, context: &Context<'_>) -> Vec<Order> {
        let step = std::mem::take(&mut self.step);
        let under_way = UnderWay::of(&step);
        let next = match self.planned.role {
            Role::Writer => writer::on_message(step, from, content, context),
            Role::Reader => reader::on_message(step, from, content, context),
        };
        match next {
            Ok((step, acts)) => {
                if self.planned.role == Role::Writer && matches!(step, Step::Opened(_)) {
                    self.round = Round::Open;
                }
                let session = step.session();
                self.step = step;
                let order = |session| {
                    acts.into_iter()
                        .flat_map(move |act| self.order(act, session))
                };
                session.map(order).into_iter().flatten().collect()
            }
            Err(fault) => self.refuse_under_way(under_way, from, &fault),
        }
    }

    fn order(&self, act: Act, session: SessionId) -> Vec<Order> {
        match act {
            Act::Tell(content) => vec![self.tell(session, content)],
            Act::Pass(content) => vec![self.pass(content)],
            Act::Install => {
                let agreed = "both services agreed, and the policy has it";
                let note = self.note(Decision::Allow, Blame::Nobody, agreed);
                vec![note, Order::Install(self.planned.id, session)]
            }
        }
    }

    /// What the service has to sign, or to compare.
    fn terms(&self, scope: &Scope<'_>) -> Option<Terms> {
        let terms = admission::open_terms(scope, &self.planned)?;
        Some(Terms {
            contract: terms.contract,
            serial: terms.serial,
            kind: terms.kind,
            slice_generation: terms.slice_generation,
            host_boot: terms.host_boot,
            role: self.planned.role,
            reader: self.planned.id.reader,
            readers: self.planned.readers,
        })
    }
}
