//! Chains that were found good before. A service shows the same chain whenever it opens a channel, and
//! with revocation lists four signatures have to be verified to believe it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustls_pki_types::UnixTime;
use sivshm_abi::identity::SpiffeId;

use crate::identity::VerifiedIdentity;
use crate::service::wire::Hash;
use crate::tls::unix_time;

/// Most chains that are remembered: one for each VM that a trust domain can have. They fill 2 MiB only
/// if each has the longest chain that a message can carry.
const MAX_KNOWN_CHAINS: usize = 256;

/// The chains that one set of roots and revocation lists has led to an identity, by the hash of all
/// their bytes. Only [`crate::identity::verify`] makes what is in it.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<BTreeMap<Hash, Entry>>);

#[derive(Debug)]
struct Entry {
    identity: VerifiedIdentity,
    /// When it was verified.
    since: UnixTime,
    /// The last second at which the same would come of it.
    until: UnixTime,
}

impl Known {
    /// What the chain of this hash was found to be, if it is the SVID of `id`, and if verifying it
    /// `now` could come to nothing else: not before it was verified, while every certificate is
    /// valid and every revocation list is in time.
    pub(crate) fn find(
        &self,
        chain: Hash,
        id: SpiffeId,
        now: UnixTime,
    ) -> Option<VerifiedIdentity> {
        let entries = self.lock();
        let entry = entries.get(&chain)?;
        let in_time = entry.since <= now && now <= entry.until;
        (in_time && entry.identity.id() == id).then(|| entry.identity.clone())
    }

    /// Remembers a chain that was verified `now`, by lists that are too old from `next_update` on.
    pub(crate) fn note(
        &self,
        chain: Hash,
        identity: &VerifiedIdentity,
        next_update: Option<SystemTime>,
        now: UnixTime,
    ) {
        let end = unix_time(identity.not_after());
        let last = next_update.map(|next| unix_time(next).as_secs().saturating_sub(1));
        let last = last.map_or(end.as_secs(), |last| last.min(end.as_secs()));
        let mut entries = self.lock();
        if entries.len() >= MAX_KNOWN_CHAINS {
            entries.clear();
        }
        let entry = Entry {
            identity: identity.clone(),
            since: now,
            until: UnixTime::since_unix_epoch(Duration::from_secs(last)),
        };
        entries.insert(chain, entry);
    }

    /// Every change is one statement: a thread that panicked has left nothing half done.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Hash, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
