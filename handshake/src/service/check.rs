//! What everybody between and at the ends of a pairing checks of its messages, and the evidence that
//! all of it was checked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sivshm_abi::grant::{Generation, Integrity, Kind};
use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::{ChannelName, TrustDomain};
use webpki::KeyUsage;

use super::fault::{Proof, ServiceFault, Term};
use super::limits::{MAX_CLOCK_SKEW, OPEN_LIFETIME};
use super::sign;
use super::wire::{Accept, Chain, Confirm, Hash, Open, OpenBody};
use crate::credentials::Credentials;
use crate::identity::{self, IdentityFault, VerifiedIdentity};
use crate::tls::unix_time;
use crate::wire::Contract;

/// What an `open` has to say, by the own plan.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OpenTerms {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The contract between the two VMs.
    pub contract: Contract,
    /// Serial number of the policy in force.
    pub serial: u64,
    /// The channel.
    pub channel: ChannelName,
    /// Its kind, geometry and integrity.
    pub kind: Kind,
    /// Generation of the slice that holds the channel's data.
    pub slice_generation: Generation,
    /// This boot of the host.
    pub host_boot: [u8; 16],
    /// The channel's writer.
    pub writer: SpiffeId,
    /// The reader of this pairing.
    pub reader: SpiffeId,
}

impl OpenTerms {
    /// The first term in which an `open` differs.
    fn compare(&self, open: &OpenBody) -> Result<(), ServiceFault> {
        let terms = [
            (Term::TrustDomain, self.trust_domain == open.trust_domain),
            (Term::Writer, self.writer == open.writer),
            (Term::Reader, self.reader == open.reader),
            (Term::Channel, self.channel == open.channel),
            (Term::HostBoot, self.host_boot == open.host_boot),
            (Term::Serial, self.serial == open.serial),
            (Term::Contract, self.contract == open.contract),
            (
                Term::Integrity,
                integrity(self.kind) == integrity(open.kind),
            ),
            (Term::Kind, self.kind == open.kind),
            (
                Term::SliceGeneration,
                self.slice_generation == open.slice_generation,
            ),
        ];
        match terms.into_iter().find(|(_, same)| !same) {
            None => Ok(()),
            Some((term, _)) => Err(ServiceFault::Differs(term)),
        }
    }
}

/// The integrity of a kind; regions have none.
pub(super) const fn integrity(kind: Kind) -> Integrity {
    match kind {
        Kind::Region => Integrity::None,
        Kind::Ring { integrity, .. } => integrity,
    }
}

/// Whether an `open` is good at a time, as far as clocks agree.
fn in_life(expiry: u64, wall: SystemTime) -> bool {
    let now = unix_time(wall).as_secs();
    let skew = MAX_CLOCK_SKEW.as_secs();
    let first = expiry.saturating_sub(OPEN_LIFETIME.as_secs() + skew);
    (first..=expiry.saturating_add(skew)).contains(&now)
}

/// Judges a chain that a message carries: it is the one that was signed, and the SVID of `id`.
fn judge_chain(
    chain: &Chain,
    signed: Hash,
    id: SpiffeId,
    credentials: &Credentials,
    wall: SystemTime,
) -> Result<VerifiedIdentity, ServiceFault> {
    if chain.hash() != signed {
        return Err(Proof::Chain.into());
    }
    let (usage, now) = (KeyUsage::client_auth(), unix_time(wall));
    if let Some(identity) = credentials.known.find(signed, id, now) {
        return Ok(identity);
    }
    let (leaf, issuers) = chain.split().ok_or(IdentityFault::Missing)?;
    let (trust, domain) = (&credentials.trust, credentials.id.domain);
    let party = id.subject.into();
    let identity = identity::verify(leaf, issuers, trust, domain, party, usage, now)?;
    let next_update = trust.next_update();
    credentials.known.note(signed, &identity, next_update, now);
    Ok(identity)
}

/// Judges an `open`, the cheap things first.
pub(super) fn judge_open(
    open: &Open,
    terms: &OpenTerms,
    credentials: &Credentials,
    wall: SystemTime,
) -> Result<VerifiedIdentity, ServiceFault> {
    terms.compare(&open.body)?;
    if !in_life(open.body.expiry, wall) {
        return Err(ServiceFault::Late);
    }
    let writer = judge_chain(
        &open.chain,
        open.body.chain,
        open.body.writer,
        credentials,
        wall,
    )?;
    sign::verify(writer.leaf(), &open.body.to_bytes(), &open.signature)?;
    Ok(writer)
}

/// Judges an `accept` of this `open`, apart from its MAC.
pub(super) fn judge_accept(
    accept: &Accept,
    open: &Open,
    credentials: &Credentials,
    wall: SystemTime,
) -> Result<VerifiedIdentity, ServiceFault> {
    if accept.body.open != open.hash() {
        return Err(Proof::Exchange.into());
    }
    if accept.body.writer != open.body.writer {
        return Err(ServiceFault::Differs(Term::Writer));
    }
    if accept.body.reader != open.body.reader {
        return Err(ServiceFault::Differs(Term::Reader));
    }
    let reader = judge_chain(
        &accept.chain,
        accept.body.chain,
        accept.body.reader,
        credentials,
        wall,
    )?;
    sign::verify(reader.leaf(), &accept.body.to_bytes(), &accept.signature)?;
    Ok(reader)
}

/// SHA-256 of a whole `open` and a whole `accept`, which the `confirm` signs.
pub(super) fn exchange_hash(open: &Open, accept: &Accept) -> Hash {
    Hash::of(&[open.to_bytes(), accept.to_bytes()].concat())
}

/// Judges a `confirm` of this exchange by the writer's certificate, apart from its MAC.
pub(super) fn judge_confirm(
    confirm: &Confirm,
    exchange: Hash,
    writer: &VerifiedIdentity,
) -> Result<(), ServiceFault> {
    if confirm.body.exchange != exchange {
        return Err(Proof::Exchange.into());
    }
    sign::verify(writer.leaf(), &confirm.body.to_bytes(), &confirm.signature)?;
    Ok(())
}

/// Checks an `open` that passes through a device process: that it says what the own plan says, that
/// it is good at `wall`, and that the writer's SVID signed it.
///
/// Which connection it came by, and how many may come, is the caller's to judge.
///
/// # Errors
/// What of it is wrong; [`ServiceFault::reason`] says what the parties are told.
pub fn check_open(
    open: &Open,
    terms: &OpenTerms,
    credentials: &Credentials,
    wall: SystemTime,
) -> Result<CheckedOpen, ServiceFault> {
    let writer = judge_open(open, terms, credentials, wall)?;
    Ok(CheckedOpen(Arc::new(Opening {
        open: open.clone(),
        hash: open.hash(),
        writer,
    })))
}

/// Evidence that an `open` is as [`check_open`] says. Made there and nowhere else.
#[derive(Clone, Debug)]
pub struct CheckedOpen(Arc<Opening>);

#[derive(Debug)]
struct Opening {
    open: Open,
    hash: Hash,
    writer: VerifiedIdentity,
}

impl CheckedOpen {
    /// The `open` itself, to pass on.
    #[must_use]
    pub fn open(&self) -> &Open {
        &self.0.open
    }

    /// The pairing's epoch; never 0.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0.open.body.epoch
    }

    /// SHA-256 of the whole `open`.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.0.hash
    }

    /// When the `open` ends, by the writer's clock.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        let expiry = Duration::from_secs(self.0.open.body.expiry);
        SystemTime::UNIX_EPOCH
            .checked_add(expiry)
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Checks an `accept` that passes through a device process: that it answers this `open`, and that
    /// the reader's SVID signed it. Its MAC is for the writer to check.
    ///
    /// # Errors
    /// As [`check_open`].
    pub fn accept(
        &self,
        accept: &Accept,
        credentials: &Credentials,
        wall: SystemTime,
    ) -> Result<CheckedAccept, ServiceFault> {
        let reader = judge_accept(accept, &self.0.open, credentials, wall)?;
        Ok(CheckedAccept(Arc::new(Accepting {
            opening: self.clone(),
            exchange: exchange_hash(&self.0.open, accept),
            reader,
        })))
    }
}

/// Evidence that an `accept` answers a [`CheckedOpen`]. Made by [`CheckedOpen::accept`] and nowhere
/// else.
#[derive(Clone, Debug)]
pub struct CheckedAccept(Arc<Accepting>);

#[derive(Debug)]
struct Accepting {
    opening: CheckedOpen,
    exchange: Hash,
    reader: VerifiedIdentity,
}

impl CheckedAccept {
    /// Checks a `confirm` that passes through a device process: that the writer signed this
    /// exchange. Its MAC is for the reader to check.
    ///
    /// # Errors
    /// As [`check_open`].
    pub fn confirm(&self, confirm: &Confirm) -> Result<Agreement, ServiceFault> {
        let opening = &self.0.opening.0;
        judge_confirm(confirm, self.0.exchange, &opening.writer)?;
        Ok(Agreement {
            accepting: self.clone(),
            hash: confirm.hash(),
        })
    }
}

/// Evidence that two services have agreed, in this boot, to share a channel: both signed the same
/// exchange with the keys of their SVIDs. A grant needs one.
///
/// Made by [`CheckedAccept::confirm`] and nowhere else.
///
/// ```compile_fail,E0451
/// use sivshm_handshake::service::{Agreement, CheckedAccept, wire::Hash};
///
/// fn without_a_confirm(accepting: CheckedAccept) -> Agreement {
///     Agreement { accepting, hash: Hash([0; 32]) }
/// }
/// ```
#[derive(Debug)]
pub struct Agreement {
    accepting: CheckedAccept,
    hash: Hash,
}

impl Agreement {
    fn opening(&self) -> &Opening {
        &self.accepting.0.opening.0
    }

    fn reader_identity(&self) -> &VerifiedIdentity {
        &self.accepting.0.reader
    }

    /// The channel.
    #[must_use]
    pub fn channel(&self) -> ChannelName {
        self.opening().open.body.channel
    }

    /// The service that writes.
    #[must_use]
    pub fn writer(&self) -> SpiffeId {
        self.opening().writer.id()
    }

    /// The service that reads.
    #[must_use]
    pub fn reader(&self) -> SpiffeId {
        self.reader_identity().id()
    }

    /// Its epoch; never 0.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.opening().open.body.epoch
    }

    /// SHA-256 of the whole `confirm`, which `agreed` and `installed` name.
    #[must_use]
    pub const fn hash(&self) -> Hash {
        self.hash
    }

    /// The last second at which both SVIDs, and their issuers' certificates, are valid.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        let writer = self.opening().writer.not_after();
        writer.min(self.reader_identity().not_after())
    }

    /// Judges both SVIDs again, by what `credentials` trust and at `wall`.
    ///
    /// # Errors
    /// Why one of them is not to be believed any more: expired, withdrawn, or of unknown status.
    pub fn revalidate(
        &self,
        credentials: &Credentials,
        wall: SystemTime,
    ) -> Result<(), IdentityFault> {
        let (trust, now) = (&credentials.trust, unix_time(wall));
        self.opening().writer.revalidate(trust, now)?;
        self.reader_identity().revalidate(trust, now)
    }
}
