//! Round trips of one small message between two applications, over the two region channels that the
//! job gives to the manager and its first worker.
//!
//! The answer says how long the other end held the message, and that is taken off. With a pause, each
//! end is certain to be asleep when it is rung; without, a message may come while the end still looks.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use sivshm::{Error, Identity, RegionReader, RegionWriter, Session};
use sivshm_examples::arguments::Waiting;
use sivshm_examples::protocol::{MANAGER, MAPPER, REDUCER, job_channel, reducer, result_channel};

/// Bytes of a message: for how many nanoseconds its sender held the one that it answers.
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
    pace: Pace,
}

/// Sends every message back until an empty one. Run as the service `worker-1/reducer` of the job.
#[derive(Debug, clap::Args)]
pub struct PongArgs {
    #[command(flatten)]
    pace: Pace,
}

/// When the ends act.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Pace {
    #[command(flatten)]
    waiting: Waiting,
    /// Time for which each end holds a message before it sends the next, in microseconds
    #[arg(long, value_name = "US", default_value_t = 0)]
    pause_us: u64,
}

/// The two ends of a party.
struct Ends {
    out: RegionWriter,
    back: RegionReader,
    pace: Pace,
}

/// Runs the end that measures.
pub fn ping(args: &PingArgs) -> Result<Value> {
    let (job, result) = (job_channel(1), result_channel(1));
    let mut ends = Ends::open(MAPPER, &job, &result, &reducer(1), args.pace)?;
    let mut trip = || -> Result<f64> {
        ends.pause();
        let start = Instant::now();
        ends.send(&[0; MESSAGE_BYTES])?;
        let held = ends.receive()?.context("an answer of no bytes")?;
        Ok(start.elapsed().saturating_sub(held).as_secs_f64() * 1e6)
    };
    for _ in 0..WARM_UP {
        trip()?;
    }
    let trips = (0..args.rounds)
        .map(|_| trip())
        .collect::<Result<Vec<_>>>()?;
    ends.send(&[])?;
    // This session's end would take the message back.
    match ends.out.wait_seen(args.pace.waiting.timeout()) {
        // The other end has ended even faster.
        Ok(()) | Err(Error::Revoked(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(json!({ "event": "ping", "round_trip_us": trips }))
}

/// Runs the end that answers.
pub fn pong(args: &PongArgs) -> Result<Value> {
    let (job, result) = (job_channel(1), result_channel(1));
    let mut ends = Ends::open(REDUCER, &result, &job, MANAGER, args.pace)?;
    let mut rounds = 0;
    while ends.receive()?.is_some() {
        let since = Instant::now();
        ends.pause();
        let held = u64::try_from(since.elapsed().as_nanos())?;
        ends.send(&held.to_le_bytes())?;
        rounds += 1;
    }
    Ok(json!({ "event": "pong", "rounds": rounds }))
}

impl Ends {
    fn open(service: &str, out: &str, back: &str, peer: &str, pace: Pace) -> Result<Self> {
        let options = pace.waiting.open(peer);
        let session = Session::open(&Identity::named(service)?)?;
        // Both at once: the other end begins with the other one.
        let (out, back) = std::thread::scope(|scope| {
            let back = scope.spawn(|| session.region_reader(back, &options));
            (session.region_writer(out, &options), back.join())
        });
        let back = back.map_err(|_| anyhow!("the opening of a channel has panicked"))?;
        Ok(Self {
            out: out?,
            back: back?,
            pace,
        })
    }

    /// Lets the other end fall asleep.
    fn pause(&self) {
        if self.pace.pause_us > 0 {
            sleep(Duration::from_micros(self.pace.pause_us));
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write(bytes, self.pace.waiting.timeout())?;
        Ok(())
    }

    /// How long the sender held the message that this one answers; nothing if it is the last.
    fn receive(&mut self) -> Result<Option<Duration>> {
        let mut bytes = [0; MESSAGE_BYTES];
        let length = self.back.read(&mut bytes, self.pace.waiting.timeout())?;
        let held = Duration::from_nanos(u64::from_le_bytes(bytes));
        Ok((length > 0).then_some(held))
    }
}
