//! Why a program of the job failed.

use std::error::Error;
use std::io;
use std::process::ExitCode;

/// A failure, said once and with its causes on standard error; the exit code is 1.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The session or a channel failed.
    #[error("{what}")]
    Channel {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: sivshm::Error,
    },
    /// The input can't be read.
    #[error("can't read the input")]
    Input(#[source] io::Error),
    /// The other end's message makes no sense in this job.
    #[error("{0}")]
    Peer(String),
    /// The result can't be written.
    #[error("can't write to standard output")]
    Output(#[source] io::Error),
}

impl Failure {
    /// Maps a channel's error.
    pub fn on(what: impl Into<String>) -> impl FnOnce(sivshm::Error) -> Self {
        let what = what.into();
        move |source| Self::Channel { what, source }
    }
}

/// Turns a program's outcome into its exit code, after saying what failed.
#[must_use]
pub fn report(program: &str, outcome: Result<(), Failure>) -> ExitCode {
    let Err(failure) = outcome else {
        return ExitCode::SUCCESS;
    };
    let mut text = failure.to_string();
    let mut cause = failure.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    eprintln!("{program}: {text}");
    ExitCode::FAILURE
}
