//! Ending and awaiting a process without a race.
