//! Which grants make up an end of a channel.

use std::io;

use sivshm_abi::grant::{Grant, GrantId, Kind, Part};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::{ChannelName, VmName};
use sivshm_handshake::service::wire::Role;
use sivshm_handshake::service::{ChannelKeys, Opened};

use crate::backend::Granted;
use crate::desk::Pairing;
use crate::error::{BadPeers, Error};

/// An end whose services have agreed and whose grants are there.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) role: Role,
    pub(crate) kind: Kind,
    pub(crate) epoch: u64,
    pub(crate) keys: Option<ChannelKeys>,
    /// Of each pairing, which one it was.
    pub(crate) counts: Vec<u64>,
    /// The session's count of changes when the grants stood.
    pub(crate) changes: u64,
    pub(crate) data: Granted,
    /// In the order of their readers.
    pub(crate) lines: Vec<Granted>,
}

impl Found {
    /// The numbers of all its grants.
    pub(crate) fn grants(&self) -> impl Iterator<Item = GrantId> {
        let all = self.lines.iter().chain([&self.data]);
        all.map(|granted| granted.grant.id)
    }
}

/// Finds an end once every pairing of it is open: its grants are those of the channel and of the
/// epoch that the services have signed. Grants that no pairing covers are not looked at.
///
/// # Errors
/// [`Error::Peers`] if the channel has more or fewer peers than were named; [`Error::Host`] if a
/// grant is not what the services have agreed on.
pub(crate) fn find(
    channel: ChannelName,
    pairings: &mut [Pairing],
    changes: u64,
    granted: &[Granted],
) -> Result<Option<Found>, Error> {
    let opened: Option<Vec<&Opened>> = (pairings.iter())
        .map(|pairing| pairing.opened.as_ref())
        .collect();
    let Some((&first, others)) = opened.as_deref().and_then(<[_]>::split_first) else {
        return Ok(None);
    };
    // Of several readers one may have met the epoch before this one.
    if others.iter().any(|other| other.epoch != first.epoch) {
        return Ok(None);
    }
    let (role, kind, epoch) = (first.role, first.kind, first.epoch);
    let writes = role == Role::Writer;
    let fits = |grant: &Grant| {
        let data = grant.part == Part::Data;
        // A writer stores to the data and loads from lines; a reader the other way round.
        grant.kind == kind
            && grant.access.writable() == (data == writes)
            && match grant.peer {
                Some(peer) => {
                    (opened.iter().flatten()).any(|opened| vm(opened.peer) == Some(peer.vm))
                }
                None => data && writes,
            }
    };
    let ours = || {
        (granted.iter())
            .filter(|granted| granted.grant.channel == channel && granted.grant.epoch == epoch)
    };
    if !ours().all(|granted| fits(&granted.grant)) {
        return Err(Error::host("grant what the two services have agreed on")(
            io::Error::from(io::ErrorKind::InvalidData),
        ));
    }
    let Some(data) = ours().find(|granted| granted.grant.part == Part::Data) else {
        return Ok(None);
    };
    let wanted = if writes {
        usize::from(data.grant.readers)
    } else {
        1
    };
    if pairings.len() != wanted {
        return Err(Error::Peers(BadPeers::Number {
            named: pairings.len(),
            wanted,
        }));
    }
    let mut lines: Vec<_> = ours()
        .filter_map(|granted| match granted.grant.part {
            Part::Ack(reader) => Some((reader, *granted)),
            Part::Data => None,
        })
        .collect();
    lines.sort_by_key(|(reader, _)| *reader);
    if lines.len() != wanted {
        return Ok(None);
    }
    let data = *data;
    let keys = (pairings.first_mut())
        .and_then(|pairing| pairing.opened.as_mut())
        .and_then(|opened| opened.keys.take());
    Ok(Some(Found {
        role,
        kind,
        epoch,
        keys,
        counts: pairings.iter().map(|pairing| pairing.count).collect(),
        changes,
        data,
        lines: lines.into_iter().map(|(_, line)| line).collect(),
    }))
}

/// The VM of a service.
const fn vm(service: SpiffeId) -> Option<VmName> {
    match service.subject {
        Subject::Service(vm, _) => Some(vm),
        Subject::Device(_) => None,
    }
}
