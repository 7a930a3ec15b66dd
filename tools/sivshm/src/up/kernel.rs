//! What the host's kernel must offer (DESIGN section 15). No feature has a substitute.

use nix::sys::utsname::uname;
use sivshm_sys::features;

use crate::failure::{Failure, Outcome};

/// First kernel with everything that is needed.
const LEAST: (u32, u32) = (6, 12);

/// Checks this host.
///
/// # Errors
/// Names everything that is missing at once.
pub fn check() -> Outcome {
    let release = uname().map_or_else(
        |_| String::new(),
        |name| name.release().to_string_lossy().into_owned(),
    );
    let mut missing = Vec::new();
    if version(&release).is_none_or(|found| found < LEAST) {
        missing.push(format!(
            "Linux {}.{} or newer (this is {release})",
            LEAST.0, LEAST.1
        ));
    }
    missing.extend(features::missing().map(str::to_owned));
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::Unsupported(format!(
        "it lacks {}; on Debian 12 install the kernel of bookworm-backports",
        missing.join(", ")
    )))
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    Some((major, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version("6.12.5-cloud-amd64"), Some((6, 12)));
        assert_eq!(version("7.0"), Some((7, 0)));
        assert!(version("6.1.0-30-amd64").unwrap() < LEAST);
        assert!(version("6.9").unwrap() < LEAST && version("10.1").unwrap() > LEAST);
        assert_eq!(version("unknown"), None);
    }
}
