//! Which generations were revoked: a `GRANT` at or below one of them is refused (DESIGN section 9).

use sivshm_abi::grant::{Generation, Part};
use sivshm_abi::limits::MAX_GRANTS;
use sivshm_abi::name::ChannelName;

/// The last revoked generation of each part of a channel.
#[derive(Debug)]
pub(crate) struct Revoked {
    entries: [Option<Entry>; MAX_GRANTS],
    /// Generation up to which every part counts as revoked: that of entries that had to give way.
    floor: Generation,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    channel: ChannelName,
    part: Part,
    generation: Generation,
}

impl Revoked {
    pub(crate) const fn new() -> Self {
        Self {
            entries: [None; MAX_GRANTS],
            floor: Generation(0),
        }
    }

    /// Whether `generation` of this part may not be granted again.
    pub(crate) fn covers(&self, channel: ChannelName, part: Part, generation: Generation) -> bool {
        generation <= self.floor
            || (self.entries.iter().flatten()).any(|entry| {
                (entry.channel, entry.part) == (channel, part) && generation <= entry.generation
            })
    }

    /// Remembers a revocation. Without a free place the lowest one raises the floor instead, which
    /// refuses more and never less.
    pub(crate) fn record(&mut self, channel: ChannelName, part: Part, generation: Generation) {
        let (mut free, mut lowest) = (None, None::<&mut Option<Entry>>);
        for slot in &mut self.entries {
            match slot {
                Some(entry) if (entry.channel, entry.part) == (channel, part) => {
                    entry.generation = entry.generation.max(generation);
                    return;
                }
                None => {
                    free = Some(slot);
                    break;
                }
                Some(entry) => {
                    let low = lowest.as_ref().and_then(|slot| slot.as_ref());
                    if low.is_none_or(|low| entry.generation < low.generation) {
                        lowest = Some(slot);
                    }
                }
            }
        }
        if let Some(place) = free.or(lowest) {
            if let Some(evicted) = *place {
                self.floor = self.floor.max(evicted.generation);
            }
            *place = Some(Entry {
                channel,
                part,
                generation,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(number: usize) -> ChannelName {
        extern crate std;
        ChannelName::new(&std::format!("c{number}")).unwrap()
    }

    #[test]
    fn at_and_below_a_revoked_generation_is_refused() {
        let mut revoked = Revoked::new();
        revoked.record(channel(1), Part::Data, Generation(5));
        revoked.record(channel(1), Part::Data, Generation(4));
        assert!(revoked.covers(channel(1), Part::Data, Generation(5)));
        assert!(!revoked.covers(channel(1), Part::Data, Generation(6)));
        assert!(!revoked.covers(channel(1), Part::Ack(0), Generation(5)));
        assert!(!revoked.covers(channel(2), Part::Data, Generation(5)));
    }

    #[test]
    fn a_full_table_refuses_more_and_never_less() {
        let mut revoked = Revoked::new();
        for number in 0..=MAX_GRANTS {
            let generation = Generation(10 + number as u64);
            revoked.record(channel(number), Part::Data, generation);
        }
        for number in 0..=MAX_GRANTS {
            let generation = Generation(10 + number as u64);
            assert!(revoked.covers(channel(number), Part::Data, generation));
        }
        assert!(!revoked.covers(channel(0), Part::Data, Generation(11)));
        assert!(!revoked.covers(channel(9999), Part::Data, Generation(11)));
    }
}
