//! What the policy says about pairings.

use sivshm_abi::grant::{Access, Integrity, Kind, Part};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_handshake::service::wire::{self, Role};
use sivshm_policy::plan::{ChannelIndex, Plan, PlannedGrant, ServiceRef};

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
    pub(super) const fn own(&self) -> SpiffeId {
        match self.role {
            Role::Writer => self.writer,
            Role::Reader => self.reader,
        }
    }

    pub(super) const fn other(&self) -> SpiffeId {
        match self.role {
            Role::Writer => self.reader,
            Role::Reader => self.writer,
        }
    }

    pub(super) const fn integrity(&self) -> Integrity {
        match self.kind {
            Kind::Region => Integrity::None,
            Kind::Ring { integrity, .. } => integrity,
        }
    }
}

/// The pairing of a service's planned grant of an acknowledgement line: each pairing has one.
pub(super) fn plan_pairing(
    plan: &Plan,
    device: SpiffeId,
    service: usize,
    grant: &PlannedGrant,
) -> Option<Planned> {
    let Part::Ack(reader) = grant.part else {
        return None;
    };
    let channel = plan.channel(grant.channel)?;
    let id = |end: ServiceRef| {
        Some(SpiffeId {
            domain: plan.trust_domain,
            subject: Subject::Service(plan.vm_at(end.vm)?.name, end.service),
        })
    };
    let reads = id(*channel.to.get(usize::from(reader))?)?;
    Some(Planned {
        id: PairingId {
            channel: grant.channel,
            reader,
        },
        name: wire::Pairing {
            channel: channel.name,
            reader: reads,
        },
        writer: id(channel.from)?,
        reader: reads,
        role: match grant.access {
            Access::ReadWrite => Role::Reader,
            Access::ReadOnly => Role::Writer,
        },
        service,
        peer: usize::from(grant.peer?),
        kind: channel.kind,
        readers: u8::try_from(channel.to.len()).ok()?,
        device,
    })
}
