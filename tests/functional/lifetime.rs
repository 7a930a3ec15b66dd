//! How what two services share ends, from the operator's hand to `kill -9`, and how it begins again:
//! real device processes, with a service's program in place of each VM.

#[cfg(test)]
mod lifetime_clock;
#[cfg(test)]
mod lifetime_ends;
#[cfg(test)]
mod lifetime_kills;
#[cfg(test)]
mod lifetime_restarts;
#[cfg(test)]
mod lifetime_service;
