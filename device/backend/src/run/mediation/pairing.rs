//! One pairing, as one of its two device processes sees it.
//!
//! What is under way is a [`Step`]. Around it, the two device processes hold *rounds*: one begins
//! with the `open` that the writer's passes on, and ends when both have said their last word about
//! it, `end` or `refusal`. Who says it first says it at once; the other one answers when its own
//! gate has let go. So a new round never meets messages or pages of the one before.

use std::time::Instant;

use sivshm_abi::frame::{Reason, SessionId};
use sivshm_abi::grant::{Integrity, Kind, Part};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_handshake::service::wire::{
    self, Content, Message, Open, RefusalReason, Role, ServiceRefusal, Terms,
};
use sivshm_policy::plan::{ChannelIndex, PlannedGrant};

use super::reader::{self, Waiting};
use super::steps::{Live, Step};
use super::{Act, Context, Fault, Gate, Note, Order, Party, writer};
use crate::audit::{Blame, Decision};
use crate::run::admission::{self, Scope};
use crate::run::bucket::TokenBucket;

/// A channel and one of its readers, by the plan's numbers.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PairingId {
    /// The channel.
    pub channel: ChannelIndex,
    /// Number of the reader.
    pub reader: u8,
}

impl PairingId {
    /// Whether a planned grant is for this pairing. The data of a writer with several readers is for
    /// all of them.
    #[must_use]
    pub fn has(self, planned: &PlannedGrant) -> bool {
        let part = planned.part;
        planned.channel == self.channel && (part == Part::Data || part == Part::Ack(self.reader))
    }
}

/// What the policy says about a pairing.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// Which one.
    pub id: PairingId,
    /// The same as messages name it.
    pub name: wire::Pairing,
    /// The service that writes.
    pub writer: SpiffeId,
    /// The service that reads.
    pub reader: SpiffeId,
    /// The end of this VM.
    pub role: Role,
    /// Index of this VM's service.
    pub service: usize,
    /// Index of the peer at the other end.
    pub peer: usize,
    /// The channel's kind.
    pub kind: Kind,
    /// Readers of the channel.
    pub readers: u8,
    /// This VM's device process, which refuses by this name.
    pub device: SpiffeId,
}

impl Planned {
    const fn own(&self) -> SpiffeId {
        match self.role {
            Role::Writer => self.writer,
            Role::Reader => self.reader,
        }
    }

    const fn other(&self) -> SpiffeId {
        match self.role {
            Role::Writer => self.reader,
            Role::Reader => self.writer,
        }
    }

    const fn integrity(&self) -> Integrity {
        match self.kind {
            Kind::Region => Integrity::None,
            Kind::Ring { integrity, .. } => integrity,
        }
    }
}

/// What the two device processes have said to each other about a pairing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Round {
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
    planned: Planned,
    round: Round,
    /// The session that wants it and has nothing under way yet.
    wanted: Option<SessionId>,
    /// At the reader's: the `open` that waits for it.
    waiting: Option<Waiting>,
    step: Step,
    /// Why it is never opened again by this process.
    over: Option<Reason>,
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
                match self.judge_want(peer, integrity) {
                    Ok(()) => {
                        self.wanted = Some(session);
                        Vec::new()
                    }
                    Err(word) => vec![self.tell(session, word)],
                }
            }
            Content::End(_) => self.leave(Reason::Closed),
            Content::Refusal(refusal) if under_way => {
                let by = self.planned.own();
                let refusal = ServiceRefusal { by, ..refusal };
                let mut orders = vec![self.denied(Blame::Peer, &refusal)];
                let word = Some(Content::Refusal(refusal));
                orders.extend(self.finish(None, word, Reason::Protocol));
                orders
            }
            // It crossed the end of what it is about.
            _ if !under_way => Vec::new(),
            content => self.on_step(Party::Service, content, context),
        }
    }

    /// What a service is told that wants what it may not.
    fn judge_want(&self, peer: SpiffeId, integrity: Option<Integrity>) -> Result<(), Content> {
        if let Some(reason) = self.over {
            return Err(Content::End(reason));
        }
        if peer != self.planned.other() {
            return Err(self.refusal(RefusalReason::Peer));
        }
        if integrity.is_some_and(|wanted| wanted != self.planned.integrity()) {
            return Err(self.refusal(RefusalReason::Integrity));
        }
        Ok(())
    }

    /// The peer's device process says something about the pairing. `signed` bounds how often it may
    /// make this one verify a signature.
    pub(super) fn on_peer(
        &mut self,
        content: Content,
        context: &Context<'_>,
        signed: &mut TokenBucket,
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
                let mut orders = vec![self.denied(Blame::Peer, &refusal)];
                let word = Content::Refusal(refusal);
                orders.extend(self.last_word_of_peer(word, Reason::OtherEnd));
                orders
            }
            // It crossed this side's last word.
            (_, Round::Ending) => Vec::new(),
            (Content::Open(open), Round::Open | Round::Closed)
                if self.planned.role == Role::Reader && self.over.is_none() =>
            {
                self.on_open(&open, context, signed)
            }
            (content, Round::Open) => {
                if needs_signature(&content) && !signed.take(context.scope.now) {
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
        signed: &mut TokenBucket,
    ) -> Vec<Order> {
        let superseded = Reason::OtherEnd;
        let mut orders = self.finish(Some(Content::End(superseded)), None, superseded);
        self.round = Round::Open;
        let waiting = match signed.take(context.scope.now) {
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

    /// Refuses what a party said, by number to everybody who has a part in it.
    fn refuse(&mut self, whose: Party, fault: &Fault) -> Vec<Order> {
        let step = std::mem::take(&mut self.step);
        self.refuse_under_way(UnderWay::of(&step), whose, fault)
    }

    fn refuse_under_way(&mut self, what: UnderWay, whose: Party, fault: &Fault) -> Vec<Order> {
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
    fn last_word_of_peer(&mut self, word: Content, reason: Reason) -> Vec<Order> {
        self.round = Round::Owed;
        self.finish(Some(word), None, reason)
    }

    /// Ends what is under way: takes back what was granted, and says the last words to the own
    /// service and to the peer.
    fn finish(
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

    /// A peer's device process speaks for itself and for the services of its VM only.
    fn of_peer(&self, refusal: ServiceRefusal) -> ServiceRefusal {
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

    fn refusal(&self, reason: RefusalReason) -> Content {
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

    fn tell(&self, session: SessionId, content: Content) -> Order {
        Order::Tell(session, self.message(content))
    }

    fn pass(&self, content: Content) -> Order {
        Order::Pass(self.planned.peer, self.message(content))
    }

    fn denied(&self, blame: Blame, why: impl std::fmt::Display) -> Order {
        self.note(Decision::Deny, blame, why)
    }

    fn note(&self, decision: Decision, blame: Blame, why: impl std::fmt::Display) -> Order {
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
enum UnderWay {
    Nothing,
    Opening(SessionId),
    Live(SessionId),
}

impl UnderWay {
    const fn of(step: &Step) -> Self {
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

/// Whether a message makes its receiver verify signatures.
#[must_use]
pub const fn needs_signature(content: &Content) -> bool {
    matches!(
        content,
        Content::Open(_) | Content::Accept(_) | Content::Confirm(_)
    )
}

/// Who is to blame for the end of a pairing.
const fn blame(reason: Reason) -> Blame {
    match reason {
        Reason::PeerGone | Reason::OtherEnd | Reason::Incomplete | Reason::Protocol => Blame::Peer,
        _ => Blame::Nobody,
    }
}

/// A reason that a peer's device process may give; another one is its fault.
const fn of_peer(reason: Reason) -> Reason {
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
