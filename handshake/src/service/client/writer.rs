//! The writer's steps: it opens, judges the answer, and confirms.

use super::event::Opened;
use super::step::{Context, Outcome, Step};
use crate::service::check::{OpenTerms, exchange_hash, judge_accept};
use crate::service::fault::{Proof, ServiceFault};
use crate::service::keys::{Ephemeral, MacKey, random};
use crate::service::limits::OPEN_LIFETIME;
use crate::service::sign::{own_chain, sign};
use crate::service::wire::{Accept, Agreed, Confirm, ConfirmBody, Content, Hash, Open, OpenBody};
use crate::tls::unix_time;

/// Opens on these terms.
pub(super) fn open(terms: OpenTerms, context: &Context<'_>) -> Result<Outcome, ServiceFault> {
    let credentials = context.credentials;
    let ephemeral = Ephemeral::new()?;
    let chain = own_chain(credentials)?;
    let epoch = match context.epoch {
        Some(epoch) => epoch,
        None => u64::from_le_bytes(random()?).max(1),
    };
    let expiry = unix_time(context.wall).as_secs() + OPEN_LIFETIME.as_secs();
    let body = OpenBody {
        trust_domain: terms.trust_domain,
        contract: terms.contract,
        serial: terms.serial,
        channel: terms.channel,
        kind: terms.kind,
        slice_generation: terms.slice_generation,
        epoch,
        host_boot: terms.host_boot,
        writer: terms.writer,
        reader: terms.reader,
        chain: chain.hash(),
        nonce: random()?,
        key: ephemeral.public(),
        expiry,
    };
    let signature = sign(credentials, &body.to_bytes())?;
    let open = Open {
        body,
        chain,
        signature,
    };
    let next = Step::Accept(Box::new(ExpectAccept {
        terms,
        open: open.clone(),
        ephemeral,
    }));
    Ok(Outcome::say(next, Content::Open(Box::new(open))))
}

/// Waits for the reader's answer.
#[derive(Debug)]
pub(super) struct ExpectAccept {
    terms: OpenTerms,
    open: Open,
    ephemeral: Ephemeral,
}

impl ExpectAccept {
    pub(super) const fn epoch(&self) -> u64 {
        self.open.body.epoch
    }

    pub(super) fn on_accept(
        self,
        accept: &Accept,
        context: &Context<'_>,
    ) -> Result<Outcome, ServiceFault> {
        let credentials = context.credentials;
        judge_accept(accept, &self.open, credentials, context.wall)?;
        let secrets = self.ephemeral.agree(accept.body.key, &self.open, accept)?;
        secrets.accept.verify(accept)?;

        let body = ConfirmBody {
            exchange: exchange_hash(&self.open, accept),
        };
        let mut confirm = Confirm {
            signature: sign(credentials, &body.to_bytes())?,
            body,
            mac: [0; 32],
        };
        confirm.mac = secrets.confirm.mac(&confirm);
        let next = Step::Agreed(Box::new(ExpectAgreed {
            confirm: confirm.hash(),
            key: secrets.agreed,
            opened: context.opened(&self.terms, self.open.body.epoch, secrets.channel),
        }));
        Ok(Outcome::say(next, Content::Confirm(confirm)))
    }
}

/// Waits until the reader has agreed and both device processes have installed the grants.
#[derive(Debug)]
pub(super) struct ExpectAgreed {
    confirm: Hash,
    key: MacKey<Agreed>,
    opened: Opened,
}

impl ExpectAgreed {
    pub(super) const fn epoch(&self) -> u64 {
        self.opened.epoch
    }

    pub(super) fn on_agreed(self, agreed: &Agreed) -> Result<Outcome, ServiceFault> {
        if agreed.body.confirm != self.confirm {
            return Err(Proof::Exchange.into());
        }
        self.key.verify(agreed)?;
        Ok(Outcome::opened(self.opened))
    }
}
