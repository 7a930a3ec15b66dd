//! `sivshm-ca`: makes a SIVSHM certificate authority, issues SVIDs from it and revokes them.
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
use sivshm_ca::authority::{BUNDLE, CRL, ROOT_KEY};
use sivshm_ca::files::{self, NewFile, PRIVATE, PUBLIC};
use sivshm_ca::ledger::{CrlRecord, Record, Revocation};
use sivshm_ca::profile::rfc3339;
use sivshm_ca::{Authority, Issued, Revoked, Target};

use crate::args::{Args, Command, Init, Issue, Party, Revoke};

/// Exits 0 when done, 1 when the host or the state of the CA did not allow it; clap has exited
/// with 2 by then if the command line was wrong.
fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Init(init) => run_init(&init),
        Command::Issue(issue) => run_issue(&issue),
        Command::Revoke(revoke) => run_revoke(&revoke),
        Command::Crl(crl) => run_crl(&crl),
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
         CRLs: {dir}/{CRL}\n\
         issues until: {}\n\
         {dir}/{ROOT_KEY} is not needed for issuing and revoking: move it off this machine",
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

/// What `revoke` prints.
#[derive(Serialize)]
struct RevokeReport<'a> {
    /// What was revoked now.
    revoked: &'a [Revocation],
    /// What had been revoked before.
    revoked_before: &'a [Revocation],
    crl: &'a CrlRecord,
    path: String,
}

fn run_revoke(revoke: &Revoke) -> Result<(), Box<dyn Error>> {
    let target = match (revoke.serial, revoke.id) {
        (Some(serial), None) => Target::Serial(serial),
        (None, Some(id)) => Target::Id(id),
        _ => return Err("give one of --serial and --id".into()),
    };
    let mut authority = Authority::open(&revoke.dir)?;
    let Revoked { newly, before, crl } =
        authority.revoke(&target, revoke.reason, SystemTime::now())?;
    let path = revoke.dir.join(CRL).display().to_string();
    let mut out = io::stdout();
    if revoke.json {
        let report = RevokeReport {
            revoked: &newly,
            revoked_before: &before,
            crl: &crl.record,
            path,
        };
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
        return Ok(());
    }
    for (leaves, when) in [(&newly, "revoked"), (&before, "had been revoked before:")] {
        for leaf in leaves {
            let reason = leaf.reason.word();
            writeln!(
                out,
                "{when} {}, serial {}, {reason}",
                leaf.spiffe_id, leaf.serial
            )?;
        }
    }
    writeln!(
        out,
        "{}\nhand {path} to every device process, and run `sivshm reload`",
        summary(&crl.record)
    )?;
    Ok(())
}

/// What `crl` prints.
#[derive(Serialize)]
struct CrlReport<'a> {
    #[serde(flatten)]
    record: &'a CrlRecord,
    paths: Vec<String>,
}

fn run_crl(command: &args::Crl) -> Result<(), Box<dyn Error>> {
    let mut authority = Authority::open(&command.dir)?;
    let crl = authority.crl(SystemTime::now())?;
    let mut paths = vec![command.dir.join(CRL).display().to_string()];
    if let Some(copy) = &command.out {
        files::replace_one(copy, crl.pem.as_bytes(), PUBLIC)?;
        paths.push(copy.display().to_string());
    }
    let mut out = io::stdout();
    if command.json {
        let report = CrlReport {
            record: &crl.record,
            paths,
        };
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(out, "{}\n{}", summary(&crl.record), paths.join("\n"))?;
    }
    Ok(())
}

fn summary(crl: &CrlRecord) -> String {
    let CrlRecord {
        number, entries, ..
    } = crl;
    let plural = if *entries == 1 { "" } else { "s" };
    let until = rfc3339(crl.next_update);
    format!("CRL {number}: {entries} certificate{plural} revoked, valid until {until}")
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
