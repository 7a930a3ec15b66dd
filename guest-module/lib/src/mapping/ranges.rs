//! Which addresses the handler of `SIGBUS` answers for: a table that it can read whatever it has
//! interrupted, without a lock.

use sivshm_abi::limits::{GRANT_OFFSET_SHIFT, PAGE_BYTES};
use sivshm_ring::Shared;

/// Most ranges at a time: as many mappings as Linux lets a process have, unless it is told otherwise
/// (65530, `vm.max_map_count`). Ends that have ended keep theirs until they are dropped, so that the
/// number of live grants is no bound.
const PLACES: usize = 1 << 16;

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// Bytes of a table: a word for each range, behind one for their number.
pub(super) const TABLE_BYTES: usize = (1 + PLACES) * WORD;

/// Bits of a range's number of pages: a grant's largest offset is as long as it can be.
const COUNT_BITS: u32 = GRANT_OFFSET_SHIFT - PAGE_BYTES.ilog2() + 1;

/// Whole pages, in one word, so that nobody sees half of a change: the number of the first above the
/// number of pages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Range(u64);

impl Range {
    /// The pages of `len` bytes from `base` on; none if they can't be a grant's.
    pub(super) fn new(base: usize, len: usize) -> Option<Self> {
        let (base, len) = (u64::try_from(base).ok()?, u64::try_from(len).ok()?);
        let (first, count) = (base / PAGE_BYTES, len.div_ceil(PAGE_BYTES));
        let fits = first >> (u64::BITS - COUNT_BITS) == 0 && count >> COUNT_BITS == 0;
        (fits && base.is_multiple_of(PAGE_BYTES) && count != 0)
            .then_some(Self(first << COUNT_BITS | count))
    }

    /// Address and bytes.
    pub(super) fn bytes(self) -> (usize, usize) {
        let (first, count) = (self.0 >> COUNT_BITS, self.0 & ((1 << COUNT_BITS) - 1));
        // Both come from a `usize`.
        let bytes = |pages: u64| usize::try_from(pages * PAGE_BYTES).unwrap_or(0);
        (bytes(first), bytes(count))
    }
}

/// The table. Whoever changes it holds a lock against others who do.
#[derive(Debug)]
pub(super) struct Ranges(Shared);

impl Ranges {
    /// A table in memory of [`TABLE_BYTES`] that is all zero.
    pub(super) const fn new(memory: Shared) -> Self {
        Self(memory)
    }

    /// Adds a range and gives its place; none if the table is full.
    pub(super) fn insert(&self, range: Range) -> Option<usize> {
        let used = self.used();
        let place = (0..used).find(|place| self.word(*place) == 0);
        let place = place.unwrap_or(used);
        self.0.store_u64((1 + place) * WORD, range.0).ok()?;
        if place == used {
            // Whoever sees the number sees the range.
            self.0.store_u64(0, u64::try_from(used + 1).ok()?).ok()?;
        }
        Some(place)
    }

    /// Takes a range out. One that is not at its place was forgotten: this is a forked child.
    pub(super) fn remove(&self, place: usize, range: Range) {
        if self.word(place) == range.0 {
            // The place is within the table: it was written before.
            let _stored = self.0.store_u64((1 + place) * WORD, 0);
        }
    }

    /// The range that an address lies in. Of a table that changes meanwhile, every range is found that
    /// is there all the while, and none that never was.
    pub(super) fn find(&self, address: usize) -> Option<Range> {
        let ranges = (0..self.used()).map(|place| Range(self.word(place)));
        ranges.into_iter().find(|range| {
            let (base, len) = range.bytes();
            address.checked_sub(base).is_some_and(|offset| offset < len)
        })
    }

    /// Places that were ever taken.
    fn used(&self) -> usize {
        let used = self.0.load_u64(0).unwrap_or(0);
        usize::try_from(used).unwrap_or(PLACES).min(PLACES)
    }

    /// The range at a place; 0 if there is none.
    fn word(&self, place: usize) -> u64 {
        self.0.load_u64((1 + place) * WORD).unwrap_or(0)
    }
}
