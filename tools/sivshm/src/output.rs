//! Standard output: tables for people, JSON for scripts.

use std::io::Write as _;

use serde::Serialize;

use crate::failure::{Failure, Outcome};

/// Prints one JSON object on one line.
///
/// # Errors
/// Nobody reads standard output any more.
pub fn json(value: &impl Serialize) -> Outcome {
    let line = serde_json::to_string(value)
        .map_err(|error| Failure::Host(format!("can't form JSON: {error}")))?;
    text(&line)
}

/// Prints text and the end of a line.
///
/// # Errors
/// Nobody reads standard output any more.
pub fn text(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(Failure::to("write to standard output"))
}
