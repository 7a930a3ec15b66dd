//! Where a pairing of a service is: one struct for each message that it waits for, and a step
//! consumes the last.
//!
//! ```text
//! writer: terms ─> accept ──────────> agreed ────> open
//! reader: terms ─> open ─> confirm ─> installed ─> open
//! ```

use std::time::SystemTime;

use sivshm_abi::grant::Integrity;
use sivshm_abi::identity::SpiffeId;

use super::event::{Opened, Stage, Want};
use super::reader::{ExpectConfirm, ExpectInstalled, ExpectOpen};
use super::writer::{self, ExpectAccept, ExpectAgreed};
use crate::credentials::Credentials;
use crate::service::check::{OpenTerms, integrity};
use crate::service::fault::{ServiceFault, Term};
use crate::service::keys::ChannelKeys;
use crate::service::wire::{Content, Message, Role, Terms};

/// What a step may look at.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) credentials: &'a Credentials,
    pub(super) want: &'a Want,
    pub(super) wall: SystemTime,
    /// The epoch that the channel's other readers have, if there are any.
    pub(super) epoch: Option<u64>,
}

impl Context<'_> {
    pub(super) const fn me(&self) -> SpiffeId {
        self.credentials.id
    }

    /// What an `open` of this pairing has to say.
    pub(super) const fn open_terms(&self, terms: &Terms) -> OpenTerms {
        let (writer, reader) = match self.want.role {
            Role::Writer => (self.me(), self.want.peer),
            Role::Reader => (self.want.peer, self.me()),
        };
        OpenTerms {
            trust_domain: self.credentials.id.domain,
            contract: terms.contract,
            serial: terms.serial,
            channel: self.want.channel,
            kind: terms.kind,
            slice_generation: terms.slice_generation,
            host_boot: terms.host_boot,
            writer,
            reader,
        }
    }

    /// The pairing as it is when all is done.
    pub(super) fn opened(&self, terms: &OpenTerms, epoch: u64, keys: ChannelKeys) -> Opened {
        Opened {
            channel: self.want.channel,
            peer: self.want.peer,
            role: self.want.role,
            epoch,
            kind: terms.kind,
            keys: (integrity(terms.kind) == Integrity::Aead).then_some(keys),
        }
    }
}

/// Where a pairing is.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing is under way: the session is not authenticated yet, or an attempt failed.
    Resting,
    /// The device process knows the wish.
    Terms,
    /// The writer's `open` is sent.
    Accept(Box<ExpectAccept>),
    /// The reader has its terms.
    Open(ExpectOpen),
    /// The reader's `accept` is sent.
    Confirm(Box<ExpectConfirm>),
    /// The writer's `confirm` is sent.
    Agreed(Box<ExpectAgreed>),
    /// The reader's `agreed` is sent.
    Installed(ExpectInstalled),
    /// The pairing is complete.
    Established { epoch: u64 },
}

/// What a step wants done.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) next: Step,
    pub(super) say: Option<Content>,
    pub(super) opened: Option<Opened>,
}

impl Outcome {
    pub(super) const fn stay(next: Step) -> Self {
        Self {
            next,
            say: None,
            opened: None,
        }
    }

    pub(super) const fn say(next: Step, content: Content) -> Self {
        Self {
            next,
            say: Some(content),
            opened: None,
        }
    }

    pub(super) const fn opened(opened: Opened) -> Self {
        Self {
            next: Step::Established {
                epoch: opened.epoch,
            },
            say: None,
            opened: Some(opened),
        }
    }
}

impl Step {
    const fn waiting(&self) -> &'static str {
        match self {
            Self::Resting => "nothing",
            Self::Terms => "`terms`",
            Self::Accept(_) => "`accept`",
            Self::Open(_) => "`open`",
            Self::Confirm(_) => "`confirm`",
            Self::Agreed(_) => "`agreed`",
            Self::Installed(_) => "`installed`",
            Self::Established { .. } => "`end`",
        }
    }

    pub(super) const fn stage(&self) -> Stage {
        match self {
            Self::Resting => Stage::Resting,
            Self::Terms => Stage::Link,
            Self::Accept(_) | Self::Open(_) | Self::Confirm(_) => Stage::OtherEnd,
            Self::Agreed(_) | Self::Installed(_) => Stage::Installation,
            Self::Established { .. } => Stage::Open,
        }
    }

    /// The epoch of what this side opened, or of what is complete.
    pub(super) const fn epoch(&self) -> Option<u64> {
        match self {
            Self::Accept(step) => Some(step.epoch()),
            Self::Agreed(step) => Some(step.epoch()),
            Self::Established { epoch } => Some(*epoch),
            Self::Resting | Self::Terms | Self::Open(_) | Self::Confirm(_) | Self::Installed(_) => {
                None
            }
        }
    }

    /// Takes a message that goes on with the exchange.
    pub(super) fn on_message(
        self,
        message: Message,
        context: &Context<'_>,
    ) -> Result<Outcome, ServiceFault> {
        let (got, waiting) = (message.kind(), self.waiting());
        match (self, message.content) {
            // What crossed the wish belongs to an attempt that is over.
            (Self::Resting, _) => Ok(Outcome::stay(Self::Resting)),
            (
                Self::Terms | Self::Accept(_) | Self::Open(_) | Self::Confirm(_),
                Content::Terms(terms),
            ) => on_terms(&terms, context),
            (Self::Terms, _) => Ok(Outcome::stay(Self::Terms)),
            (Self::Accept(step), Content::Accept(accept)) => step.on_accept(&accept, context),
            (Self::Open(step), Content::Open(open)) => step.on_open(&open, context),
            // The writer has begun anew; its first `open` will not be confirmed.
            (Self::Confirm(step), Content::Open(open)) => step.again().on_open(&open, context),
            (Self::Confirm(step), Content::Confirm(confirm)) => step.on_confirm(&confirm),
            (Self::Agreed(step), Content::Agreed(agreed)) => step.on_agreed(&agreed),
            (Self::Installed(step), Content::Installed(confirm)) => step.on_installed(confirm),
            _ => Err(ServiceFault::OutOfTurn { got, waiting }),
        }
    }
}

/// Judges the own device process's terms by the wish; a writer opens at once.
fn on_terms(terms: &Terms, context: &Context<'_>) -> Result<Outcome, ServiceFault> {
    let offered = integrity(terms.kind);
    let wanted = context.want.integrity.unwrap_or(offered);
    if terms.role != context.want.role {
        return Err(ServiceFault::Differs(Term::Role));
    }
    // Two readers would share one key, and one could play the writer to the other.
    if offered != wanted || (offered == Integrity::Aead && terms.readers != 1) {
        return Err(ServiceFault::Differs(Term::Integrity));
    }
    let terms = context.open_terms(terms);
    match context.want.role {
        Role::Writer => writer::open(terms, context),
        Role::Reader => Ok(Outcome::stay(Step::Open(ExpectOpen { terms }))),
    }
}
