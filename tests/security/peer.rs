//! Attacks of an impostor peer on real, confined device processes over their real sockets (DESIGN
//! sections 8 and 9).
//!
//! In `peer_*` the impostor attacks the handshake of device processes: the victim ends the connection
//! with the code that the attack earns. In `service_*` it is a device process with a valid SVID that
//! lies about services: the victim ends the pairing with the reason that the attack earns. In each, the
//! victim records who did what, gives nothing beyond the policy, and serves an honest peer in the same
//! run: the same program, when it does no harm.

#[cfg(test)]
mod peer_descriptors;
#[cfg(test)]
mod peer_identity;
#[cfg(test)]
mod peer_protocol;
#[cfg(test)]
mod peer_sockets;
#[cfg(test)]
mod service_answers;
#[cfg(test)]
mod service_links;
#[cfg(test)]
mod service_opens;
#[cfg(test)]
mod support;
