//! A service as the tests of identity and of lifetime need it: it opens ends of regions by libsivshm,
//! uses them, takes up again what has ended, and prints one event for everything that it learns, with
//! the library's own words.
#![forbid(unsafe_code)]

use std::error::Error as _;
use std::thread;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde_json::json;
use sivshm::{
    Channel, Error, Identity, Integrity, Open, Reason, RegionReader, RegionWriter, Session,
};
use sivshm_hostile::end::{End, event};

/// Pause after each message of a writer: tests want to see that data flows, not how fast.
const PACE: Duration = Duration::from_millis(20);

/// Longest message.
const MESSAGE_BYTES: usize = 32;

/// Open channels of regions and use them.
#[derive(Debug, Parser)]
struct Args {
    /// Name of this service, whose SVID and key are taken
    #[arg(long, value_name = "SERVICE")]
    identity: String,
    /// A channel to read, and the service that writes it; may be repeated
    #[arg(long, value_name = "CHANNEL=VM/SERVICE")]
    reads: Vec<End>,
    /// A channel to write, and the services that read it; may be repeated
    #[arg(long, value_name = "CHANNEL=VM/SERVICE,..")]
    writes: Vec<End>,
    /// The integrity that every channel must have
    #[arg(long)]
    integrity: Option<Suite>,
    /// Longest wait for an opening, in milliseconds
    #[arg(long, default_value_t = 3_600_000)]
    open_ms: u64,
    /// Longest wait for the other end of an open channel, in milliseconds
    #[arg(long, default_value_t = 3_600_000)]
    wait_ms: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Suite {
    Crc32c,
    Aead,
}

impl Args {
    fn options(&self, end: &End) -> Open {
        let open = end.open(Duration::from_millis(self.open_ms));
        match self.integrity {
            None => open,
            Some(Suite::Crc32c) => open.integrity(Integrity::Crc32c),
            Some(Suite::Aead) => open.integrity(Integrity::Aead),
        }
    }

    const fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms)
    }
}

fn main() {
    let args = Args::parse();
    let session = Identity::named(&args.identity).and_then(|identity| Session::open(&identity));
    let session = match session {
        Ok(session) => session,
        Err(error) => return failed("", &error),
    };
    event("session", "", &json!({}));
    thread::scope(|scope| {
        for end in args.reads.iter().chain(&args.writes) {
            let (args, session) = (&args, &session);
            scope.spawn(move || {
                if let Err(error) = open(session, end, args) {
                    failed(&end.channel, &error);
                }
            });
        }
    });
}

/// Uses an end until it is of no use any more.
fn open(session: &Session, end: &End, args: &Args) -> Result<(), Error> {
    let name = end.channel.as_str();
    match Channel::open(session, name, &args.options(end))? {
        Channel::RegionReader(mut end) => loop {
            opened(name, end.epoch());
            let error = read(&mut end, name, args.wait());
            ended(name, error)?;
            end.renew(Duration::from_millis(args.open_ms))?;
        },
        Channel::RegionWriter(mut end) => loop {
            opened(name, end.epoch());
            let error = write(&mut end, name, args.wait());
            ended(name, error)?;
            end.renew(Duration::from_millis(args.open_ms))?;
        },
        Channel::Producer(_) | Channel::Consumer(_) => Err(Error::Kind("one of a region")),
    }
}

/// Reads until something else than time ends it.
fn read(end: &mut RegionReader, channel: &str, wait: Duration) -> Error {
    let mut message = [0; MESSAGE_BYTES];
    loop {
        match end.read(&mut message, wait) {
            Ok(length) => {
                let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
                event("data", channel, &json!({ "text": text }));
            }
            Err(error @ Error::Timeout(_)) => late(channel, &error),
            Err(error) => return error,
        }
    }
}

/// Writes a number after the other, each when the one before was seen by all.
fn write(end: &mut RegionWriter, channel: &str, wait: Duration) -> Error {
    let mut number: u64 = 0;
    loop {
        match end.write(number.to_string().as_bytes(), wait) {
            Ok(_) => {
                event("data", channel, &json!({ "text": number.to_string() }));
                number += 1;
                thread::sleep(PACE);
            }
            Err(error @ Error::Timeout(_)) => late(channel, &error),
            Err(error) => return error,
        }
    }
}

/// Says that a channel has ended, if that is what the error means.
fn ended(channel: &str, error: Error) -> Result<(), Error> {
    match error {
        Error::Revoked(reason) => {
            event("ended", channel, &json!({ "reason": words(reason) }));
            Ok(())
        }
        error => Err(error),
    }
}

fn words(reason: Option<Reason>) -> &'static str {
    reason.map_or("no reason", Reason::words)
}

fn opened(channel: &str, epoch: u64) {
    event(
        "opened",
        channel,
        &json!({ "epoch": format!("{epoch:016x}") }),
    );
}

fn late(channel: &str, error: &Error) {
    event("late", channel, &json!({ "says": error.to_string() }));
}

/// What has made the service give up.
fn failed(channel: &str, error: &Error) {
    let (kind, by, reason) = match error {
        Error::Refused { by, refusal } => (
            "refused",
            Some(format!("{by:?}")),
            refusal.reason.to_string(),
        ),
        Error::Ended(reason) => ("ended", None, words(*reason).to_owned()),
        Error::Revoked(reason) => ("revoked", None, words(*reason).to_owned()),
        Error::Handshake(_) => ("handshake", None, source(error)),
        Error::Identity { .. } => ("identity", None, source(error)),
        Error::Timeout(what) => ("timeout", None, (*what).to_owned()),
        _ => ("other", None, source(error)),
    };
    let says = error.to_string();
    event(
        "failed",
        channel,
        &json!({ "kind": kind, "by": by, "reason": reason, "says": says }),
    );
}

fn source(error: &Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}
