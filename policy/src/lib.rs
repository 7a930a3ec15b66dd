//! The SIVSHM policy (DESIGN section 13, `docs/policy.md`): `parse -> check -> compile -> Plan`.
//!
//! [`compile`] turns the text of a policy into a [`Plan`], or says everything that is wrong with
//! it. Pure: nothing here reads a clock, an environment or the host; [`load`] reads the one file.
#![forbid(unsafe_code)]

mod channels;
mod check;
mod compile;
mod contract;
mod fields;
mod grammar;
pub mod keys;
mod layout;
mod load;
pub mod narrow;
mod never;
mod pattern;
pub mod plan;
pub mod size;
mod slices;
mod source;

pub use check::MAX_SERVICES;
pub use grammar::MAX_POLICY_BYTES;
pub use load::{LoadError, load};
pub use source::{Diagnostic, MAX_DIAGNOSTICS, Place, PolicyErrors};

use plan::Plan;
use source::Report;

/// Compiles the text of a policy; `source_name` is how errors name it.
///
/// # Errors
/// Everything found wrong, each with its place: syntax errors alone if there are any, else all
/// wrong keys and values, else all that tables say about each other. Nothing of such a policy is
/// used.
pub fn compile(source_name: &str, text: &str) -> Result<Plan, PolicyErrors> {
    let mut report = Report::new(source_name, text);
    let plan = grammar::parse(text, &mut report)
        .and_then(|document| check::check(&document, &mut report))
        .and_then(|checked| compile::compile(&checked, &mut report));
    plan.ok_or_else(|| report.into_errors())
}
