//! The counting job: what its two programs, mapper and reducer, have in common.
//!
//! The mapper cuts a file into stripes and gives each worker one at a time, through the region
//! `job-N`; worker `N`'s reducer counts a byte in it and answers through `result-N`. A stripe of no
//! bytes ends the job.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod count;
pub mod failure;
pub mod protocol;
