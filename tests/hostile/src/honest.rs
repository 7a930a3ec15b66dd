//! A service that means no harm, which the security tests attack. Runs wherever libsivshm does.
//!
//! It opens ends of channels, each in a thread of its own, prints one event for everything that it
//! learns of one, and takes up again what has ended, until it is ended itself.
#![forbid(unsafe_code)]

use std::thread;

use clap::Parser;
use serde_json::json;
use sivshm::{Error, Identity, Reason, RegionReader, RegionWriter, Session};
use sivshm_hostile::end::{End, NEVER, event};

/// What a writer says in each epoch.
const GREETING: &[u8] = b"an honest greeting";

/// Longest message that is read.
const MESSAGE_BYTES: usize = 64;

/// Open channels of regions and use them.
#[derive(Debug, Parser)]
struct Args {
    /// Name of this service, whose SVID and key are taken
    #[arg(long, value_name = "SERVICE")]
    identity: String,
    /// A channel to read, and the service that writes it; may be repeated
    #[arg(long, value_name = "CHANNEL=VM/SERVICE")]
    reads: Vec<End>,
    /// A channel to write, and the service that reads it; may be repeated
    #[arg(long, value_name = "CHANNEL=VM/SERVICE")]
    writes: Vec<End>,
}

fn main() -> Result<(), Error> {
    let args = Args::parse();
    let session = Session::open(&Identity::named(&args.identity)?)?;
    thread::scope(|scope| {
        for end in &args.reads {
            scope.spawn(|| report(&end.channel, read(&session, end)));
        }
        for end in &args.writes {
            scope.spawn(|| report(&end.channel, write(&session, end)));
        }
    });
    Ok(())
}

/// What ended an end that its service never gives up.
enum Never {}

fn report(channel: &str, ended: Result<Never, Error>) {
    let Err(error) = ended;
    event("lost", channel, &json!(error.to_string()));
}

fn read(session: &Session, end: &End) -> Result<Never, Error> {
    let channel = end.channel.as_str();
    let mut end = session.region_reader(channel, &end.open(NEVER))?;
    loop {
        event("opened", channel, &json!(format!("{:016x}", end.epoch())));
        let error = read_all(&mut end, channel);
        ended(channel, error)?;
        end.renew(NEVER)?;
    }
}

fn read_all(end: &mut RegionReader, channel: &str) -> Error {
    let mut message = [0; MESSAGE_BYTES];
    loop {
        match end.read(&mut message, NEVER) {
            Ok(length) => {
                let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
                event("read", channel, &json!(text));
            }
            Err(error) => return error,
        }
    }
}

fn write(session: &Session, end: &End) -> Result<Never, Error> {
    let channel = end.channel.as_str();
    let mut end = session.region_writer(channel, &end.open(NEVER))?;
    loop {
        event("opened", channel, &json!(format!("{:016x}", end.epoch())));
        let error = greet(&mut end);
        ended(channel, error)?;
        end.renew(NEVER)?;
    }
}

/// Says the same whenever the last message was seen.
fn greet(end: &mut RegionWriter) -> Error {
    loop {
        if let Err(error) = end.write(GREETING, NEVER) {
            return error;
        }
    }
}

/// Says that a channel has ended, if that is what the error means.
fn ended(channel: &str, error: Error) -> Result<(), Error> {
    match error {
        Error::Revoked(reason) => {
            event(
                "ended",
                channel,
                &json!(reason.map_or("no reason", Reason::words)),
            );
            Ok(())
        }
        error => Err(error),
    }
}
