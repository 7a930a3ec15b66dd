//! `sivshm-ca`: makes a SIVSHM certificate authority and issues SVIDs from it.
#![forbid(unsafe_code)]

mod args;

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;
use serde::Serialize;
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_ca::authority::{BUNDLE, ROOT_KEY};
use sivshm_ca::files::{self, NewFile, PRIVATE, PUBLIC};
use sivshm_ca::ledger::Record;
use sivshm_ca::profile::rfc3339;
use sivshm_ca::{Authority, Issued};

use crate::args::{Args, Command, Init, Issue, Party};

/// Exits 0 when done, 1 when the host or the state of the CA did not allow it; clap has exited
/// with 2 by then if the command line was wrong.
fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Init(init) => run_init(&init),
        Command::Issue(issue) => run_issue(&issue),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sivshm-ca: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run_init(init: &Init) -> Result<(), Box<dyn Error>> {
    let authority = Authority::init(&init.dir, &init.domain, SystemTime::now())?;
    let dir = init.dir.display();
    writeln!(
        io::stdout(),
        "CA of {} made in {dir}\n\
         trust bundle: {dir}/{BUNDLE}\n\
         issues until: {}\n\
         {dir}/{ROOT_KEY} is not needed for issuing: move it off this machine",
        authority.domain(),
        rfc3339(authority.validity().not_after),
    )?;
    Ok(())
}

fn run_issue(issue: &Issue) -> Result<(), Box<dyn Error>> {
    let mut authority = Authority::open(&issue.dir)?;
    let domain = authority.domain();
    let (subject, name, out) = match &issue.party {
        Party::Device { vm, out } => (Subject::Device(*vm), "device", out),
        Party::Service { vm, service, out } => {
            (Subject::Service(*vm, *service), service.as_str(), out)
        }
    };
    let id = SpiffeId { domain, subject };
    let issued = authority.issue(&id, issue.ttl, SystemTime::now())?;
    let (chain, key) = (format!("{name}.pem"), format!("{name}.key"));
    write_pair(out, &chain, &key, &issued)?;
    report(
        &Report {
            record: &issued.record,
            chain: out.join(chain).display().to_string(),
            key: out.join(key).display().to_string(),
        },
        issue.json,
    )
}

fn write_pair(out: &Path, chain: &str, key: &str, issued: &Issued) -> Result<(), files::FileError> {
    files::replace(
        out,
        &[
            NewFile {
                name: key,
                bytes: issued.key_pem.as_bytes(),
                mode: PRIVATE,
            },
            NewFile {
                name: chain,
                bytes: issued.chain_pem.as_bytes(),
                mode: PUBLIC,
            },
        ],
    )
}

/// What `issue` prints: the ledger's record and where the files are.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    record: &'a Record,
    chain: String,
    key: String,
}

fn report(report: &Report<'_>, json: bool) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    if json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
        return Ok(());
    }
    let Report { record, chain, key } = report;
    writeln!(
        out,
        "issued {}\nserial: {}\nvalid until: {}\nchain: {chain}\nkey: {key}",
        record.spiffe_id,
        record.serial,
        rfc3339(record.not_after),
    )?;
    Ok(())
}

/// The whole chain of causes on one line: no error repeats its source.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
