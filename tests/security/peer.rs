//! Attacks of an impostor peer on real, confined device processes over their real sockets (DESIGN
//! section 8).
//!
//! In each, the victim ends the connection with the code that the attack earns, records who did
//! what, gives nothing beyond the policy, and serves an honest peer in the same run: the same
//! program, when it does no harm.

#[cfg(test)]
mod peer_descriptors;
#[cfg(test)]
mod peer_identity;
#[cfg(test)]
mod peer_protocol;
#[cfg(test)]
mod peer_sockets;
#[cfg(test)]
mod support;
