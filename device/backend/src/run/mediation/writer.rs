//! The writer's side of a pairing: who has to say what, step by step (DESIGN section 9).

use sivshm_handshake::service::check_open;
use sivshm_handshake::service::wire::{Content, RefusalReason};

use super::order::{Act, Context, Fault, Party};
use super::steps::{Opened, Step};

/// Takes a message of the own service or of the reader's device process. Every message that is not
/// named here is out of turn.
pub fn on_message(
    step: Step,
    from: Party,
    content: Content,
    context: &Context<'_>,
) -> Result<(Step, Vec<Act>), Fault> {
    let scope = context.scope;
    match (step, from, content) {
        (Step::Offered(session), Party::Service, Content::Open(open)) => {
            let terms = context.terms.ok_or(RefusalReason::PeerGone)?;
            let checked = check_open(&open, &terms, &scope.credentials, scope.wall)?;
            // All pairings of a channel stand on one grant of its data.
            if context.epoch.is_some_and(|epoch| epoch != checked.epoch()) {
                return Err(RefusalReason::Epoch.into());
            }
            let next = Step::Opened(Opened::by_writer(session, checked, scope.now));
            Ok((next, vec![Act::Pass(Content::Open(open))]))
        }
        (Step::Opened(step), Party::Peer, Content::Accept(accept)) => {
            let next = Step::Accepted(step.on_accept(&accept, scope)?);
            Ok((next, vec![Act::Tell(Content::Accept(accept))]))
        }
        (Step::Accepted(step), Party::Service, Content::Confirm(confirm)) => {
            let next = Step::Confirmed(step.on_confirm(&confirm, scope.now)?);
            Ok((next, vec![Act::Pass(Content::Confirm(confirm))]))
        }
        (Step::Confirmed(step), Party::Peer, Content::Agreed(agreed)) => {
            let live = step.install_last(&agreed, scope.now);
            let next = Step::Live(live.ok_or(RefusalReason::Proof)?);
            let acts = vec![
                Act::Install,
                Act::Pass(Content::Installed(agreed.body.confirm)),
                Act::Tell(Content::Agreed(agreed)),
            ];
            Ok((next, acts))
        }
        _ => Err(Fault::OutOfTurn(context.kind)),
    }
}
