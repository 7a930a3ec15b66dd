//! Random identifiers of this run and of the host's boot.

use std::{fs, io};

use ring::rand::{SecureRandom as _, SystemRandom};

/// The kernel's identifier of this boot, a UUID.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A fresh random identifier.
///
/// # Errors
/// The host has no randomness.
pub fn instance() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    SystemRandom::new()
        .fill(&mut id)
        .map_err(|_| io::Error::other("the host gave no random bytes"))?;
    Ok(id)
}

/// The identifier of the host's boot: the same for all processes until the host restarts.
///
/// # Errors
/// `/proc` is not there.
pub fn host_boot() -> io::Result<[u8; 16]> {
    uuid(&fs::read_to_string(BOOT_ID)?).ok_or_else(|| io::Error::other("the boot id is no UUID"))
}

/// The bytes of a UUID's text.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().split('-').collect();
    let number = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_has_one_identifier_and_each_run_another() {
        assert_eq!(host_boot().unwrap(), host_boot().unwrap());
        assert_ne!(instance().unwrap(), instance().unwrap());
    }

    #[test]
    fn only_a_uuid_is_a_uuid() {
        let bytes = uuid("00010203-0405-0607-0809-0a0b0c0d0e0f\n").unwrap();
        assert!(
            bytes
                .iter()
                .enumerate()
                .all(|(at, byte)| at == usize::from(*byte))
        );
        assert_eq!(uuid("00010203"), None);
        assert_eq!(uuid("+0010203-0405-0607-0809-0a0b0c0d0e0g"), None);
    }
}
