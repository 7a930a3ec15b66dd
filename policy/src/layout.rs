//! Who gets which pages of a slice (`docs/policy.md`, "Layout of a slice").

use sivshm_abi::channel::ACK_BYTES;
use sivshm_abi::limits::PAGE_BYTES;

use crate::size::MIN_CHANNEL_BYTES;

/// Sizes within a slice whose acknowledgement lines come first.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Extents {
    /// Bytes of the slice; a power of two.
    pub(crate) slice: u64,
    /// Bytes of each channel's range, in the order of the sizes given.
    pub(crate) channels: Vec<u64>,
}

/// Divides a slice among `lines` acknowledgement lines and channels of the given sizes.
///
/// The sizes of channels are those of whole slices: the slice is as large as they are together,
/// rounded up to a power of two, and what its lines need is taken from the largest channel (the
/// first of equals), page by page. Only if that would leave a channel less than
/// [`MIN_CHANNEL_BYTES`] the slice is larger.
pub(crate) fn extents(lines: u64, sizes: &[u64]) -> Extents {
    let mut channels = sizes.to_vec();
    let sum: u64 = sizes.iter().sum();
    let least = lines * ACK_BYTES + sizes.iter().map(|_| MIN_CHANNEL_BYTES).sum::<u64>();
    let slice = sum.max(least).next_power_of_two();
    let excess = (lines * ACK_BYTES + sum).saturating_sub(slice) / PAGE_BYTES;
    for _ in 0..excess {
        // `max_by_key` gives the last of equals, so the order is turned.
        if let Some(largest) = channels.iter_mut().rev().max_by_key(|bytes| **bytes) {
            *largest -= PAGE_BYTES;
        }
    }
    Extents { slice, channels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const P: u64 = PAGE_BYTES;

    #[test]
    fn lines_come_out_of_the_largest_channel() {
        let cases = [
            (0, vec![16 * P], 16, vec![16 * P]),
            (1, vec![16 * P], 16, vec![15 * P]),
            (3, vec![], 4, vec![]),
            (1, vec![], 1, vec![]),
            (1, vec![2 * P], 4, vec![2 * P]),
            (3, vec![4 * P, 4 * P], 8, vec![2 * P, 3 * P]),
            (1, vec![8 * P, 4 * P], 16, vec![8 * P, 4 * P]),
            (8, vec![4 * P; 4], 16, vec![2 * P; 4]),
        ];
        for (lines, sizes, pages, channels) in cases {
            let expected = Extents {
                slice: pages * P,
                channels,
            };
            assert_eq!(extents(lines, &sizes), expected, "{lines} {sizes:?}");
        }
    }

    proptest! {
        #[test]
        fn everything_fits_and_no_channel_is_below_the_least(
            lines in 0_u64..1024,
            sizes in prop::collection::vec((13_u32..=34).prop_map(|bits| 1_u64 << bits), 0..20),
        ) {
            prop_assume!(lines > 0 || !sizes.is_empty());
            let Extents { slice, channels } = extents(lines, &sizes);
            prop_assert!(slice.is_power_of_two());
            prop_assert!(lines * ACK_BYTES + channels.iter().sum::<u64>() <= slice);
            for (got, asked) in channels.iter().zip(&sizes) {
                prop_assert!((MIN_CHANNEL_BYTES..=*asked).contains(got));
                prop_assert_eq!(got % PAGE_BYTES, 0);
            }
        }
    }
}
