//! The reader's steps: it judges what the writer opens, accepts, and judges the confirmation.

use super::event::Opened;
use super::step::{Context, ExpectInstalled, Outcome, Step};
use crate::identity::VerifiedIdentity;
use crate::service::check::{OpenTerms, exchange_hash, judge_confirm, judge_open};
use crate::service::fault::ServiceFault;
use crate::service::keys::{ConfirmKey, Ephemeral, random};
use crate::service::sign::{own_chain, sign};
use crate::service::wire::{Accept, AcceptBody, Confirm, Content, Hash, Open};

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
        accept.mac = secrets.mac_accept(&accept);
        let next = Step::Confirm(Box::new(ExpectConfirm {
            exchange: exchange_hash(open, &accept),
            opened: context.opened(&self.terms, open.body.epoch, secrets.channel),
            key: secrets.confirm,
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
    key: ConfirmKey,
    opened: Opened,
}

impl ExpectConfirm {
    /// Waits for another `open` on the same terms.
    pub(super) fn again(self) -> ExpectOpen {
        ExpectOpen { terms: self.terms }
    }

    pub(super) fn on_confirm(self, confirm: &Confirm) -> Result<Outcome, ServiceFault> {
        judge_confirm(confirm, self.exchange, &self.writer)?;
        self.key.verify(confirm)?;
        let hash = confirm.hash();
        let next = Step::Installed(ExpectInstalled {
            hash,
            opened: self.opened,
        });
        Ok(Outcome::say(next, Content::Agreed(hash)))
    }
}
