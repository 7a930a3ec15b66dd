//! The service at the other end of a hostile service's channels. It means no harm, and is there
//! whenever the other end is opened, however often that is: it opens its own again at once, where a
//! renewal would pause longer each time.
#![forbid(unsafe_code)]

use std::thread;
use std::time::Duration;

use clap::Parser;
use serde_json::json;
use sivshm::{Error, Identity, Open, Session};

/// Time limit of every wait: no test takes as long.
const NEVER: Duration = Duration::from_secs(3600);

/// What a writer says, to whoever reads.
const GREETING: &[u8] = b"an honest greeting";

/// Keep the other end of channels.
#[derive(Debug, Parser)]
struct Args {
    /// Name of this service, whose SVID and key are taken
    #[arg(long, value_name = "SERVICE")]
    identity: String,
    /// A channel to read and who writes it; may be repeated
    #[arg(long, value_name = "CHANNEL=VM/SERVICE", value_parser = end)]
    reads: Vec<End>,
    /// A channel to write and who reads it; may be repeated
    #[arg(long, value_name = "CHANNEL=VM/SERVICE", value_parser = end)]
    writes: Vec<End>,
}

/// A channel, and who is at its other end.
#[derive(Clone, Debug)]
struct End {
    channel: String,
    peer: String,
}

fn end(text: &str) -> Result<End, &'static str> {
    let (channel, peer) = text.split_once('=').ok_or("there is no `=`")?;
    Ok(End {
        channel: channel.to_owned(),
        peer: peer.to_owned(),
    })
}

fn main() -> Result<(), Error> {
    let args = Args::parse();
    let session = Session::open(&Identity::named(&args.identity)?)?;
    println!("{}", json!({ "event": "partner" }));
    thread::scope(|scope| {
        for end in &args.reads {
            scope.spawn(|| keep(end, |options| read(&session, end, options)));
        }
        for end in &args.writes {
            scope.spawn(|| keep(end, |options| write(&session, end, options)));
        }
    });
    Ok(())
}

/// Opens and uses an end again and again, until it can't be opened, and says how each use ended.
fn keep(end: &End, use_it: impl Fn(&Open) -> Result<Error, Error>) {
    let options = Open::new().peer(&end.peer).timeout(NEVER);
    loop {
        let (name, why) = match use_it(&options) {
            Ok(why) => ("ended", why),
            Err(why) => ("lost", why),
        };
        event(name, end, &why.to_string());
        if name == "lost" {
            return;
        }
    }
}

/// A service that can't print has nothing to say; its test then misses the event.
fn event(name: &str, end: &End, why: &str) {
    let channel = &end.channel;
    println!(
        "{}",
        json!({ "event": name, "channel": channel, "why": why })
    );
}

fn read(session: &Session, end: &End, options: &Open) -> Result<Error, Error> {
    let mut reader = session.region_reader(&end.channel, options)?;
    event("opened", end, "");
    let mut next = || {
        let message = reader.wait(NEVER)?;
        reader.acknowledge(message)
    };
    Ok(loop {
        if let Err(error) = next() {
            break error;
        }
    })
}

fn write(session: &Session, end: &End, options: &Open) -> Result<Error, Error> {
    let mut writer = session.region_writer(&end.channel, options)?;
    event("opened", end, "");
    Ok(loop {
        if let Err(error) = writer.write(GREETING, NEVER) {
            break error;
        }
    })
}
