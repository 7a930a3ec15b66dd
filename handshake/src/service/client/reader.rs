//! The reader's steps: it judges what the writer opens, accepts, and judges the confirmation.

use super::event::Opened;
use super::step::{Context, Outcome, Step};
use crate::identity::VerifiedIdentity;
use crate::service::check::{OpenTerms, exchange_hash, judge_confirm, judge_open};
use crate::service::fault::{Proof, ServiceFault};
use crate::service::keys::{Ephemeral, MacKey, random};
use crate::service::sign::{own_chain, sign};
use crate::service::wire::{Accept, AcceptBody, Agreed, AgreedBody, Confirm, Content, Hash, Open};

/// Waits for the writer to open.
#[derive(Debug)]
pub(super) struct ExpectOpen {
    pub(super) terms: OpenTerms,
}

impl ExpectOpen {
    pub(super) fn on_open(
        self,
        open: &Open,
        context: &Context<'_>,
    ) -> Result<Outcome, ServiceFault> {
        let credentials = context.credentials;
        let writer = judge_open(open, &self.terms, credentials, context.wall)?;

        let ephemeral = Ephemeral::new()?;
        let chain = own_chain(credentials)?;
        let body = AcceptBody {
            open: open.hash(),
            reader: self.terms.reader,
            writer: self.terms.writer,
            chain: chain.hash(),
            nonce: random()?,
            key: ephemeral.public(),
        };
        let mut accept = Accept {
            signature: sign(credentials, &body.to_bytes())?,
            body,
            chain,
            mac: [0; 32],
        };
        let secrets = ephemeral.agree(open.body.key, open, &accept)?;
        accept.mac = secrets.accept.mac(&accept);
        let next = Step::Confirm(Box::new(ExpectConfirm {
            exchange: exchange_hash(open, &accept),
            opened: context.opened(&self.terms, open.body.epoch, secrets.channel),
            confirm: secrets.confirm,
            agreed: secrets.agreed,
            terms: self.terms,
            writer,
        }));
        Ok(Outcome::say(next, Content::Accept(Box::new(accept))))
    }
}

/// Waits for the writer to confirm.
#[derive(Debug)]
pub(super) struct ExpectConfirm {
    terms: OpenTerms,
    writer: VerifiedIdentity,
    exchange: Hash,
    confirm: MacKey<Confirm>,
    agreed: MacKey<Agreed>,
    opened: Opened,
}

impl ExpectConfirm {
    /// Waits for another `open` on the same terms.
    pub(super) fn again(self) -> ExpectOpen {
        ExpectOpen { terms: self.terms }
    }

    pub(super) fn on_confirm(self, confirm: &Confirm) -> Result<Outcome, ServiceFault> {
        judge_confirm(confirm, self.exchange, &self.writer)?;
        self.confirm.verify(confirm)?;
        let confirm = confirm.hash();
        let mut agreed = Agreed {
            body: AgreedBody { confirm },
            mac: [0; 32],
        };
        agreed.mac = self.agreed.mac(&agreed);
        let next = Step::Installed(ExpectInstalled {
            confirm,
            opened: self.opened,
        });
        Ok(Outcome::say(next, Content::Agreed(agreed)))
    }
}

/// Waits until the writer's device process has installed its grants, too.
#[derive(Debug)]
pub(super) struct ExpectInstalled {
    confirm: Hash,
    opened: Opened,
}

impl ExpectInstalled {
    /// Believed without a proof: who says it falsely leaves the reader to wait for a writer that is
    /// silent, and could do that later, too.
    pub(super) fn on_installed(self, confirm: Hash) -> Result<Outcome, ServiceFault> {
        if confirm != self.confirm {
            return Err(Proof::Exchange.into());
        }
        Ok(Outcome::opened(self.opened))
    }
}
