//! Counting a byte.

/// Lanes counted side by side: what a vector register of today's processors holds.
const LANES: usize = 32;

/// Bytes after which a lane, an `u8`, might be full.
const BLOCK: usize = LANES * u8::MAX as usize;

/// How often `wanted` is in `bytes`. Shaped so that the compiler uses vector instructions.
#[must_use]
pub fn count(bytes: &[u8], wanted: u8) -> u64 {
    bytes
        .chunks(BLOCK)
        .map(|block| {
            let (rows, rest) = block.as_chunks::<LANES>();
            let mut lanes = [0_u8; LANES];
            for row in rows {
                for (lane, byte) in lanes.iter_mut().zip(row) {
                    *lane += u8::from(*byte == wanted);
                }
            }
            let rest = rest.iter().map(|byte| u64::from(*byte == wanted));
            lanes.into_iter().map(u64::from).chain(rest).sum::<u64>()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_lane_overflows_and_no_byte_is_missed() {
        for len in [
            0,
            1,
            LANES - 1,
            LANES,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            3 * BLOCK + 7,
        ] {
            assert_eq!(count(&vec![7; len], 7), len as u64);
            assert_eq!(count(&vec![7; len], 8), 0);
        }
        let every_third: Vec<u8> = (0..100_000_u32).map(|at| u8::from(at % 3 == 0)).collect();
        assert_eq!(count(&every_third, 1), 33_334);
    }
}
