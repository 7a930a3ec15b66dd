//! Sizes as a policy writes them: `"16MiB"`.

use sivshm_abi::limits::{MAX_SLICE_BYTES, PAGE_BYTES};

/// Least size of a channel, in bytes: a head page and a page of data.
pub const MIN_CHANNEL_BYTES: u64 = 2 * PAGE_BYTES;

/// Units of sizes, with their bytes, largest first.
pub const UNITS: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Why a text is not the size that a key asks for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BadSize {
    #[error("`{0}` is not a size: write a whole number and B, KiB, MiB or GiB, like \"16MiB\"")]
    Form(String),
    #[error(
        "a channel's size must be a power of two: the nearest are {} and {}",
        show(.0.next_power_of_two() / 2),
        show(.0.next_power_of_two())
    )]
    NoPowerOfTwo(u64),
    #[error(
        "a channel's size must be between {} and {}",
        show(MIN_CHANNEL_BYTES),
        show(MAX_SLICE_BYTES)
    )]
    OutOfRange,
    #[error("a slot must have between 1 and {} bytes", u32::MAX)]
    Slot,
}

/// Reads a size in bytes.
fn bytes(text: &str) -> Result<u64, BadSize> {
    let bad = || BadSize::Form(text.to_owned());
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?.trim_end(), *unit)))
        .ok_or_else(bad)?;
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(unit).ok_or_else(bad)
}

/// Reads the size of a channel: a power of two from [`MIN_CHANNEL_BYTES`] to [`MAX_SLICE_BYTES`].
pub(crate) fn channel(text: &str) -> Result<u64, BadSize> {
    let size = bytes(text)?;
    if !(MIN_CHANNEL_BYTES..=MAX_SLICE_BYTES).contains(&size) {
        return Err(BadSize::OutOfRange);
    }
    if !size.is_power_of_two() {
        return Err(BadSize::NoPowerOfTwo(size));
    }
    Ok(size)
}

/// Reads the size of a ring's slot.
pub(crate) fn slot(text: &str) -> Result<u32, BadSize> {
    match u32::try_from(bytes(text)?) {
        Ok(size @ 1..) => Ok(size),
        _ => Err(BadSize::Slot),
    }
}

/// Writes a size as a policy would: in the largest unit that gives a whole number.
#[must_use]
pub fn show(bytes: u64) -> String {
    UNITS
        .iter()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(
            || format!("{bytes}B"),
            |(name, unit)| format!("{}{name}", bytes / unit),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, size) in [("8KiB", 8192), ("16MiB", 1 << 24), ("16GiB", 1 << 34)] {
            assert_eq!(channel(text), Ok(size));
            assert_eq!(show(size), text);
        }
        assert_eq!(slot("48B"), Ok(48));
        assert_eq!(slot("4 KiB"), Ok(4096));
        assert_eq!(show(0), "0B");
        assert_eq!(show(12 * 1024), "12KiB");
    }

    #[test]
    fn other_sizes_are_refused() {
        for text in [
            "",
            "16",
            "MiB",
            "+16MiB",
            "1.5MiB",
            "16MB",
            "16mib",
            "99999999999GiB",
        ] {
            assert!(matches!(channel(text), Err(BadSize::Form(_))), "{text}");
        }
        assert_eq!(channel("4KiB"), Err(BadSize::OutOfRange));
        assert_eq!(channel("32GiB"), Err(BadSize::OutOfRange));
        assert_eq!(channel("12MiB"), Err(BadSize::NoPowerOfTwo(12 << 20)));
        assert_eq!(
            BadSize::NoPowerOfTwo(12 << 20).to_string(),
            "a channel's size must be a power of two: the nearest are 8MiB and 16MiB"
        );
        assert_eq!(slot("0B"), Err(BadSize::Slot));
        assert_eq!(slot("4GiB"), Err(BadSize::Slot));
    }
}
