//! What hostile programs report, and when an attack counts as blocked.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use crate::process::Line;

/// One attempt of a hostile program.
#[derive(Clone, Debug, Deserialize)]
pub struct Attack {
    /// Its name.
    pub name: String,
    /// The errno or signal that it has to get.
    pub wanted: String,
    /// What it got.
    pub got: String,
    /// What the same operation got on a granted object; it has to work, or the attempt proves
    /// nothing.
    pub granted: String,
}

impl Attack {
    /// Whether the attempt got exactly what it had to get while the granted operation worked.
    #[must_use]
    pub fn blocked(&self) -> bool {
        self.got == self.wanted && self.granted == "success"
    }
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            wanted,
            got,
            granted,
            ..
        } = self;
        if self.blocked() {
            write!(f, "{got}; on the granted object: {granted}")
        } else {
            write!(
                f,
                "{got}, wanted {wanted}; on the granted object: {granted}"
            )
        }
    }
}

/// The attempts among the lines that a program printed, in order.
#[must_use]
pub fn attacks(lines: &[Line]) -> Vec<Attack> {
    lines
        .iter()
        .filter_map(Line::event)
        .filter(|event| event.get("event").and_then(Value::as_str) == Some("attack"))
        .filter_map(|event| serde_json::from_value(event).ok())
        .collect()
}

/// Asserts that the attempt named was made and blocked.
///
/// # Panics
/// If it was not made, or not blocked.
pub fn assert_blocked(attacks: &[Attack], name: &str) {
    let attack = attacks.iter().find(|attack| attack.name == name);
    let names = || {
        attacks
            .iter()
            .map(|attack| attack.name.as_str())
            .collect::<Vec<_>>()
    };
    assert!(
        attack.is_some(),
        "`{name}` was never tried; tried were {:?}",
        names()
    );
    assert!(
        attack.is_some_and(Attack::blocked),
        "`{name}` got {}",
        attack.map(ToString::to_string).unwrap_or_default()
    );
}

/// Tests which assert that an attack was blocked, by the attack's name: each calls `evidence()` of
/// where it is written, which is none where there are no VMs.
#[macro_export]
macro_rules! blocked {
    ($($test:ident: $attack:literal)*) => {$(
        #[test]
        fn $test() {
            if let Some(evidence) = evidence() {
                $crate::attack::assert_blocked(&evidence.attacks, $attack);
            }
        }
    )*}
}
