//! Round trips of one small message between two applications, over the two region channels that the
//! job gives to the manager and its first worker.

use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use sivshm::{Error, RegionReader, RegionWriter, Session};
use sivshm_examples::arguments::Waiting;
use sivshm_examples::protocol::{job_channel, result_channel};

/// Bytes of a message.
const MESSAGE_BYTES: usize = 8;

/// Round trips before the first that is measured.
const WARM_UP: u32 = 100;

/// Sends messages and waits for each to come back. Run as the service `manager/mapper` of the job.
#[derive(Debug, clap::Args)]
pub struct PingArgs {
    /// Number of round trips
    #[arg(long, default_value_t = 1000)]
    rounds: u32,
    #[command(flatten)]
    waiting: Waiting,
}

/// Sends every message back until an empty one. Run as the service `worker-1/reducer` of the job.
#[derive(Debug, clap::Args)]
pub struct PongArgs {
    #[command(flatten)]
    waiting: Waiting,
}

/// The two ends of a party.
struct Ends {
    out: RegionWriter,
    back: RegionReader,
    waiting: Waiting,
}

/// Runs the end that measures.
pub fn ping(args: &PingArgs) -> Result<Value> {
    let mut ends = Ends::open(&job_channel(1), &result_channel(1), args.waiting)?;
    let mut trip = || -> Result<f64> {
        let start = Instant::now();
        ends.send(&[1; MESSAGE_BYTES])?;
        ends.receive()?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    };
    for _ in 0..WARM_UP {
        trip()?;
    }
    let trips = (0..args.rounds)
        .map(|_| trip())
        .collect::<Result<Vec<_>>>()?;
    ends.send(&[])?;
    // This session's end would take the message back.
    match ends.out.wait_seen(args.waiting.timeout()) {
        // The other end has ended even faster.
        Ok(()) | Err(Error::Revoked(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(json!({ "event": "ping", "round_trip_us": trips }))
}

/// Runs the end that answers.
pub fn pong(args: &PongArgs) -> Result<Value> {
    let mut ends = Ends::open(&result_channel(1), &job_channel(1), args.waiting)?;
    let mut rounds = 0;
    while ends.receive()? > 0 {
        ends.send(&[1; MESSAGE_BYTES])?;
        rounds += 1;
    }
    Ok(json!({ "event": "pong", "rounds": rounds }))
}

impl Ends {
    fn open(out: &str, back: &str, waiting: Waiting) -> Result<Self> {
        let (wait, timeout) = (waiting.wait(), waiting.timeout());
        let session = Session::open()?;
        Ok(Self {
            out: session.region_writer(out, wait, timeout)?,
            back: session.region_reader(back, wait, timeout)?,
            waiting,
        })
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write(bytes, self.waiting.timeout())?;
        Ok(())
    }

    fn receive(&mut self) -> Result<usize> {
        let mut bytes = [0; MESSAGE_BYTES];
        Ok(self.back.read(&mut bytes, self.waiting.timeout())?)
    }
}
