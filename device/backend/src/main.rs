//! `sivshm-device`: `args -> Config -> Opened -> Confined -> run` (DESIGN section 5).
//!
//! Exit codes: 0 ended by SIGTERM or SIGINT, 1 the host's fault, 2 wrong arguments or policy,
//! 3 not confined.
#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;

use clap::Parser as _;
use sivshm_device::args::{Args, Config, Mode};
use sivshm_device::confined::{self, ConfineError};
use sivshm_device::opened::{OpenError, Opened};
use sivshm_device::run::{self, RunError};
use tracing_subscriber::filter::LevelFilter;

/// Environment variable with the level of the log: error, warn, info, debug or trace.
const LOG_LEVEL: &str = "SIVSHM_LOG";

/// Why the process ends with a code other than 0.
#[derive(Debug, thiserror::Error)]
enum MainError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error(transparent)]
    Run(#[from] RunError),
}

impl MainError {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Open(
                OpenError::Policy(_) | OpenError::NoSuchVm(_) | OpenError::Narrowed { .. },
            ) => 2,
            Self::Open(_) | Self::Run(_) => 1,
            Self::Confine(_) => 3,
        }
    }
}

fn main() -> ExitCode {
    let config = Config::from(Args::parse());
    start_log();
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", with_causes(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn serve(config: Config) -> Result<(), MainError> {
    if config.mode == Mode::Development {
        tracing::warn!(
            "development mode: guests are confined, a compromised VMM of this user is not"
        );
    }
    let opened = Opened::open(config)?;
    let confined = confined::enter(opened)?;
    Ok(run::run(confined)?)
}

/// The log goes to standard error, which stays open.
fn start_log() {
    let level = std::env::var(LOG_LEVEL).ok();
    let level = level.and_then(|text| text.parse().ok());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_max_level(level.unwrap_or(LevelFilter::INFO))
        .init();
}

/// An error with all its causes in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
