//! The SIVSHM policy (DESIGN section 13, `docs/policy.md`): `parse -> check -> compile -> Plan`.
#![forbid(unsafe_code)]

pub mod plan;
