//! The reader's side of a pairing: who has to say what, step by step (DESIGN section 9).

use std::time::Instant;

use sivshm_abi::frame::SessionId;
use sivshm_handshake::service::limits::OPEN_LIFETIME;
use sivshm_handshake::service::wire::{Content, Open, RefusalReason};
use sivshm_handshake::service::{CheckedOpen, check_open};

use super::order::{Act, Context, Fault, Party};
use super::steps::{Opened, Step};

/// An `open` that waits for the reader.
#[derive(Debug)]
pub struct Waiting {
    open: CheckedOpen,
    /// Until when.
    pub until: Instant,
}

impl Waiting {
    /// Judges what the writer's device process passed on.
    pub fn new(open: &Open, context: &Context<'_>) -> Result<Self, Fault> {
        let scope = context.scope;
        let terms = context.terms.ok_or(RefusalReason::PeerGone)?;
        let open = check_open(open, &terms, &scope.credentials, scope.wall)?;
        let until = scope.now + OPEN_LIFETIME;
        Ok(Self { open, until })
    }

    /// Hands it to the reader, who wants it.
    pub fn offer(self, session: SessionId, now: Instant) -> (Step, Content) {
        let open = Content::Open(Box::new(self.open.open().clone()));
        let next = Opened::to_reader(session, self.open, now);
        (Step::Opened(next), open)
    }
}

/// Takes a message of the own service or of the writer's device process, apart from an `open`, which
/// may come at any time. Every message that is not named here is out of turn.
pub fn on_message(
    step: Step,
    from: Party,
    content: Content,
    context: &Context<'_>,
) -> Result<(Step, Vec<Act>), Fault> {
    let scope = context.scope;
    match (step, from, content) {
        (Step::Opened(step), Party::Service, Content::Accept(accept)) => {
            let next = Step::Accepted(step.on_accept(&accept, scope)?);
            Ok((next, vec![Act::Pass(Content::Accept(accept))]))
        }
        (Step::Accepted(step), Party::Peer, Content::Confirm(confirm)) => {
            let next = Step::Confirmed(step.on_confirm(&confirm, scope.now)?);
            Ok((next, vec![Act::Tell(Content::Confirm(confirm))]))
        }
        (Step::Confirmed(step), Party::Service, Content::Agreed(agreed)) => {
            let live = step.install_first(&agreed, scope.now);
            let next = Step::Live(live.ok_or(RefusalReason::Proof)?);
            let acts = vec![Act::Install, Act::Pass(Content::Agreed(agreed))];
            Ok((next, acts))
        }
        (Step::Live(live), Party::Peer, Content::Installed(hash)) => {
            let live = live.on_installed(hash, scope.now);
            let next = Step::Live(live.ok_or(RefusalReason::Proof)?);
            Ok((next, vec![Act::Tell(Content::Installed(hash))]))
        }
        _ => Err(Fault::OutOfTurn(context.kind)),
    }
}
