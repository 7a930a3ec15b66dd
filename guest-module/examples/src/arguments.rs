//! Arguments that both programs have.

use std::time::Duration;

use clap::{Args, ValueEnum};
use sivshm::{Open, Wait};

/// How and how long to wait.
#[derive(Args, Clone, Copy, Debug)]
pub struct Waiting {
    /// How to wait for the other end
    #[arg(long, value_enum, default_value_t = Mode::Interrupt)]
    mode: Mode,
    /// Longest wait for the other end, in seconds; a guest under emulation may need a minute to boot
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// Sleep until an interrupt
    Interrupt,
    /// Look again and again
    Polling,
}

impl Waiting {
    const fn wait(self) -> Wait {
        match self.mode {
            Mode::Interrupt => Wait::Interrupt,
            Mode::Polling => Wait::Poll,
        }
    }

    /// How long.
    #[must_use]
    pub const fn timeout(self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// How to open a channel with the service `peer`.
    #[must_use]
    pub fn open(self, peer: &str) -> Open {
        let options = Open::new().peer(peer);
        options.wait(self.wait()).timeout(self.timeout())
    }
}

/// Parses a byte: `10` or `0x0a`.
///
/// # Errors
/// The text is neither.
pub fn byte(text: &str) -> Result<u8, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{error}: write 0 to 255, or 0x00 to 0xff"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_decimal_or_hexadecimal() {
        assert_eq!(byte("10"), Ok(10));
        assert_eq!(byte("0x0a"), Ok(10));
        for bad in ["", "0x", "256", "0x100", "a"] {
            assert!(byte(bad).is_err(), "{bad}");
        }
    }
}
