//! One end of each of several channels, for a pair of services of which one *leaves* and the other
//! *stays*. The one that leaves is polite: it closes its end after a few messages, and opens it again.
//! The one that stays looks at its channels and copies without pause, so that a close meets it in the
//! middle of an access, and has to outlive that.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::thread;

use clap::Parser;
use serde_json::json;
use sivshm::{Channel, Error, Identity, Open, Session, Wait};
use sivshm_hostile::end::{NEVER, event};

/// Bytes of a region's message: several pages, and some of one.
const REGION_BYTES: usize = 48 * 1024 + 8;

/// What every byte of every message is, and no byte of an empty page.
const MARK: u8 = 0x5a;

/// Keep one end of channels, of whatever kind, each in a thread of its own.
#[derive(Debug, Parser)]
struct Args {
    /// Name of this service, whose SVID and key are taken
    #[arg(long, value_name = "SERVICE")]
    identity: String,
    /// The service at the other end of every channel
    #[arg(long, value_name = "VM/SERVICE")]
    peer: String,
    /// Leave after so many messages, and open the channel again; else stay
    #[arg(long, value_name = "MESSAGES")]
    leave_after: Option<u32>,
    /// How often each channel is opened
    #[arg(long, default_value_t = u32::MAX)]
    openings: u32,
    /// The channels
    channels: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = Identity::named(&args.identity)
        .and_then(|identity| Session::open(&identity))
        .map(|session| keep_all(&args, &session));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            event("failed", "", &json!(error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// Whether every channel was kept to the end.
fn keep_all(args: &Args, session: &Session) -> bool {
    thread::scope(|scope| {
        let keep = |channel| {
            move || match keep(args, session, channel) {
                Ok(messages) => {
                    event("kept", channel, &json!(messages));
                    true
                }
                Err(why) => {
                    event("failed", channel, &json!(why.to_string()));
                    false
                }
            }
        };
        let threads: Vec<_> = (args.channels.iter())
            .map(|channel| scope.spawn(keep(channel)))
            .collect();
        let mut ended = threads.into_iter().map(thread::ScopedJoinHandle::join);
        ended.all(|kept| kept.unwrap_or(false))
    })
}

/// Uses a channel as often as it is to be opened, and gives how many messages went through it.
fn keep(args: &Args, session: &Session, channel: &str) -> Result<u64, Failed> {
    let wait = match args.leave_after {
        Some(_) => Wait::Interrupt,
        None => Wait::Poll,
    };
    let options = Open::new().peer(&args.peer).timeout(NEVER).wait(wait);
    let mut messages = 0;
    for _ in 0..args.openings {
        let mut end = Channel::open(session, channel, &options)?;
        for _ in 0..args.leave_after.unwrap_or(u32::MAX) {
            match exchange(&mut end) {
                Ok(()) => messages += 1,
                Err(Failed::Error(Error::Revoked(_))) => break,
                Err(failed) => return Err(failed),
            }
        }
    }
    Ok(messages)
}

/// Why a channel is not kept any longer.
#[derive(Debug)]
enum Failed {
    Error(Error),
    /// A message that was not sent so, and where it differs.
    Torn(usize),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(error) => write!(f, "{error}: {error:?}"),
            Self::Torn(at) => write!(f, "a message is torn at {at}"),
        }
    }
}

/// Sends or receives one message.
fn exchange(end: &mut Channel) -> Result<(), Failed> {
    match end {
        Channel::RegionWriter(end) => {
            end.write(&[MARK; REGION_BYTES], NEVER)?;
        }
        Channel::RegionReader(end) => {
            let message = end.wait(NEVER)?;
            let mut bytes = [0; REGION_BYTES];
            end.copy_out(message, 0, &mut bytes)?;
            whole(&bytes)?;
            end.acknowledge(message)?;
        }
        Channel::Producer(end) => {
            let bytes = vec![MARK; usize::try_from(end.slot_bytes()).unwrap_or(0)];
            end.send(&bytes, NEVER)?;
        }
        Channel::Consumer(end) => {
            let mut bytes = [0; REGION_BYTES];
            let received = end.receive(&mut bytes, NEVER)?;
            whole(bytes.get(..received.length.max(1)).unwrap_or(&bytes))?;
            end.acknowledge()?;
        }
    }
    Ok(())
}

/// Refuses a message of which part was not sent.
fn whole(bytes: &[u8]) -> Result<(), Failed> {
    match bytes.iter().position(|byte| *byte != MARK) {
        Some(at) => Err(Failed::Torn(at)),
        None => Ok(()),
    }
}
