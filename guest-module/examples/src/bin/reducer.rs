//! The worker of the counting job: counts a byte in the stripes that a mapper gives it.
//!
//! Prints one line of JSON when the mapper has ended the job. Exit code 0 then, 1 on failure, 2 on
//! wrong usage.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use sivshm::{Error, Identity, RegionReader, Session};
use sivshm_examples::arguments::Waiting;
use sivshm_examples::count::count;
use sivshm_examples::failure::{Failure, report};
use sivshm_examples::protocol::{
    Answer, CHUNK_BYTES, HEADER_BYTES, MANAGER, REDUCER, job_channel, result_channel, worker,
};

/// Counts a byte in the stripes that a mapper gives.
#[derive(Debug, Parser)]
struct Args {
    /// Number of this worker: it uses the channels `job-N` and `result-N`
    #[arg(long, value_name = "N")]
    index: u16,
    /// Name of this service, whose SVID and key are taken
    #[arg(long, value_name = "SERVICE", default_value = REDUCER)]
    identity: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// What was done in all rounds.
#[derive(Debug, Default)]
struct Total {
    rounds: u64,
    bytes: u64,
    count: u64,
}

fn main() -> ExitCode {
    report("reducer", serve(&Args::parse()))
}

fn serve(args: &Args) -> Result<(), Failure> {
    let (options, timeout) = (args.waiting.open(MANAGER), args.waiting.timeout());
    let (job, result) = (job_channel(args.index), result_channel(args.index));
    let session = Identity::named(&args.identity)
        .and_then(|identity| Session::open(&identity))
        .map_err(Failure::on("no session"))?;
    let mut jobs = session
        .region_reader(&job, &options)
        .map_err(Failure::on(job.as_str()))?;
    let mut results = session
        .region_writer(&result, &options)
        .map_err(Failure::on(result.as_str()))?;
    let mut total = Total::default();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let message = jobs.wait(timeout).map_err(Failure::on(job.as_str()))?;
        if message.length < HEADER_BYTES {
            match jobs.acknowledge(message) {
                // The mapper is gone already: it needs no more than to see that all is done.
                Ok(()) | Err(Error::Revoked(_)) => break,
                Err(error) => return Err(Failure::on(job.as_str())(error)),
            }
        }
        let answer =
            count_stripe(&mut jobs, message, &mut buffer).map_err(Failure::on(job.as_str()))?;
        jobs.acknowledge(message)
            .map_err(Failure::on(job.as_str()))?;
        results
            .write(&answer.to_bytes(), timeout)
            .map_err(Failure::on(result.as_str()))?;
        total.rounds += 1;
        total.bytes += answer.bytes;
        total.count += answer.count;
    }
    let line = serde_json::json!({
        "event": "reducer",
        "name": worker(args.index),
        "rounds": total.rounds,
        "bytes": total.bytes,
        "count": total.count,
    });
    writeln!(std::io::stdout(), "{line}").map_err(Failure::Output)
}

/// Copies a stripe out piece by piece and counts.
fn count_stripe(
    jobs: &mut RegionReader,
    message: sivshm::Message,
    buffer: &mut [u8],
) -> Result<Answer, Error> {
    let mut header = [0; HEADER_BYTES];
    jobs.copy_out(message, 0, &mut header)?;
    let [wanted, ..] = header;
    let mut answer = Answer {
        round: message.sequence,
        count: 0,
        bytes: 0,
    };
    let mut at = HEADER_BYTES;
    while at < message.length {
        let piece = buffer.len().min(message.length - at);
        let (piece, _) = buffer.split_at_mut(piece);
        jobs.copy_out(message, at, piece)?;
        answer.count += count(piece, wanted);
        at += piece.len();
    }
    answer.bytes = u64::try_from(at - HEADER_BYTES).unwrap_or(u64::MAX);
    Ok(answer)
}
