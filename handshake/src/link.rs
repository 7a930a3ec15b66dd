//! The identifier of a link.

use ring::digest::{Context, SHA256};

/// Identifier of one established connection between two device processes: SHA-256 over the
/// dialer's instance, the listener's instance and the dialer's 64-bit connection number. Both ends
/// compute the same; it is no secret.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct LinkId([u8; 32]);

impl LinkId {
    pub(crate) fn new(dialer: [u8; 16], listener: [u8; 16], connection: u64) -> Self {
        Self(sha256(&[&dialer, &listener, &connection.to_le_bytes()]))
    }

    /// The identifier's bytes.
    #[must_use]
    pub const fn bytes(&self) -> [u8; 32] {
        self.0
    }
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    // SHA-256 has 32 bytes, so the default is never taken.
    context.finish().as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_matters() {
        let link = LinkId::new([1; 16], [2; 16], 3);
        for other in [
            LinkId::new([2; 16], [1; 16], 3),
            LinkId::new([1; 16], [2; 16], 4),
        ] {
            assert_ne!(link, other);
        }
    }

    #[test]
    fn the_derivation_is_the_documented_one() {
        // python3: sha256(b"\x01"*16 + b"\x02"*16 + (3).to_bytes(8, "little"))
        let link = LinkId::new([1; 16], [2; 16], 3);
        let hex: String = link
            .bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "072828540970f88ef678cd5e65e81ec6945ffef342ef2a39bc27130b5a57b522"
        );
    }
}
