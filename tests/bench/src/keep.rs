//! Channels that are open until the operator takes them away, one after the other.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use serde_json::{Value, json};
use sivshm::{Error, Identity, RegionWriter, Session};

use crate::opening::{End, MESSAGE, TIMEOUT, await_end, end};

/// Time between two looks of a writer whether its channel has ended; a reader is told.
const PAUSE: Duration = Duration::from_micros(50);

/// Opens channels one after the other, uses each once, and says when it has ended.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of this service, whose SVID and key are taken
    #[arg(long, value_name = "SERVICE")]
    identity: String,
    /// Which end this service has
    #[arg(long, value_enum)]
    role: Role,
    /// The channels, and who is at the other end of each
    #[arg(required = true, value_name = "CHANNEL=VM/SERVICE", value_parser = end)]
    channels: Vec<End>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Role {
    Writer,
    Reader,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Value> {
    let session = Session::open(&Identity::named(&args.identity)?)?;
    for channel in &args.channels {
        let opened = || {
            let name = &channel.channel;
            println!("{}", json!({ "event": "opened", "channel": name }));
        };
        match args.role {
            Role::Writer => {
                let mut writer = channel.writer(&session)?;
                writer.write(MESSAGE, TIMEOUT)?;
                writer.wait_seen(TIMEOUT)?;
                opened();
                look_for_end(&mut writer)?;
            }
            Role::Reader => {
                let mut reader = channel.reader(&session)?;
                reader.read(&mut [0; MESSAGE.len()], TIMEOUT)?;
                opened();
                await_end(&mut reader)?;
            }
        }
        let name = &channel.channel;
        let unix_us = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
        println!(
            "{}",
            json!({ "event": "ended", "channel": name, "unix_us": u64::try_from(unix_us)? })
        );
    }
    Ok(json!({ "event": "kept", "channels": args.channels.len() }))
}

/// A writer that has nothing to wait for learns of the end by what it does next.
fn look_for_end(writer: &mut RegionWriter) -> Result<()> {
    loop {
        match writer.prepare(0, MESSAGE) {
            Ok(()) => thread::sleep(PAUSE),
            Err(Error::Revoked(_)) => return Ok(()),
            Err(error) => bail!(error),
        }
    }
}
