//! The service at the other end of a hostile service's channels. It means no harm, and is there
//! whenever the other end is opened, however often that is: it opens its own again at once, where a
//! renewal would pause longer each time.
#![forbid(unsafe_code)]

use std::thread;

use clap::Parser;
use serde_json::json;
use sivshm::{Error, Identity, Open, Session};
use sivshm_hostile::end::{End, NEVER, event};

/// What a writer says, to whoever reads.
const GREETING: &[u8] = b"an honest greeting";

/// Keep the other end of channels.
#[derive(Debug, Parser)]
struct Args {
    /// Name of this service, whose SVID and key are taken
    #[arg(long, value_name = "SERVICE")]
    identity: String,
    /// A channel to read and who writes it; may be repeated
    #[arg(long, value_name = "CHANNEL=VM/SERVICE")]
    reads: Vec<End>,
    /// A channel to write and who reads it; may be repeated
    #[arg(long, value_name = "CHANNEL=VM/SERVICE")]
    writes: Vec<End>,
}

fn main() -> Result<(), Error> {
    let args = Args::parse();
    let session = Session::open(&Identity::named(&args.identity)?)?;
    event("partner", "", &json!(""));
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
    let options = end.open(NEVER);
    loop {
        let (name, why) = match use_it(&options) {
            Ok(why) => ("ended", why),
            Err(why) => ("lost", why),
        };
        event(name, &end.channel, &json!(why.to_string()));
        if name == "lost" {
            return;
        }
    }
}

fn read(session: &Session, end: &End, options: &Open) -> Result<Error, Error> {
    let mut reader = session.region_reader(&end.channel, options)?;
    event("opened", &end.channel, &json!(""));
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
    event("opened", &end.channel, &json!(""));
    Ok(loop {
        if let Err(error) = writer.write(GREETING, NEVER) {
            break error;
        }
    })
}
