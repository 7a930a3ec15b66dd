//! The manager of the counting job: gives the stripes of a file to workers and adds their answers.
//!
//! Prints lines of JSON: `opened` for each channel, `progress` now and then, and one `result`. Exit
//! code 0 after that, 1 on failure, 2 on wrong usage.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;
use sivshm::{Error, Identity, RegionReader, RegionWriter, Session};
use sivshm_examples::arguments::{Waiting, byte};
use sivshm_examples::failure::{Failure, report};
use sivshm_examples::protocol::{
    Answer, HEADER_BYTES, MAPPER, header, job_channel, reducer, result_channel, worker,
};

/// Bytes read and copied into a slice at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// Most `progress` lines of one job.
const PROGRESS_LINES: u64 = 50;

/// Counts a byte in a file with the help of workers.
#[derive(Debug, Parser)]
struct Args {
    /// The file, or a block device that holds it
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Bytes of the file; needed where FILE is a device, which may be longer
    #[arg(long, value_name = "BYTES")]
    input_bytes: Option<u64>,
    /// The byte to count, as 10 or 0x0a
    #[arg(long, value_parser = byte)]
    byte: u8,
    /// Number of workers: `job-1` and `result-1` are the first one's channels
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    workers: u16,
    /// Name of this service, whose SVID and key are taken
    #[arg(long, value_name = "SERVICE", default_value = MAPPER)]
    identity: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// One worker, as the mapper sees it.
#[derive(Debug)]
struct Worker {
    jobs: RegionWriter,
    results: RegionReader,
    /// The stripe that it is counting: message, bytes, and when it was signalled.
    busy: Option<(u64, u64, Instant)>,
    part: Part,
}

/// A worker's part of the result.
#[derive(Debug, Serialize)]
struct Part {
    name: String,
    rounds: u64,
    bytes: u64,
    count: u64,
    transfer_ms: f64,
    response_ms: f64,
}

/// A line of output.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    /// A channel is usable, so long after the mapper has begun to open it.
    Opened {
        channel: &'a str,
        microseconds: u64,
    },
    Progress {
        bytes: u64,
    },
    Result {
        count: u64,
        bytes: u64,
        elapsed_ms: f64,
        workers: Vec<&'a Part>,
    },
}

impl Event<'_> {
    fn print(&self) -> Result<(), Failure> {
        let line = serde_json::to_string(self).map_err(|error| Failure::Output(error.into()))?;
        writeln!(io::stdout(), "{line}").map_err(Failure::Output)
    }
}

fn main() -> ExitCode {
    report("mapper", map(&Args::parse()))
}

fn map(args: &Args) -> Result<(), Failure> {
    let timeout = args.waiting.timeout();
    let file = File::open(&args.input).map_err(Failure::Input)?;
    let total = match args.input_bytes {
        Some(bytes) => bytes,
        None => file.metadata().map_err(Failure::Input)?.len(),
    };
    let mut input = file.take(total);
    let session = Identity::named(&args.identity)
        .and_then(|identity| Session::open(&identity))
        .map_err(Failure::on("no session"))?;
    let mut workers = (1..=args.workers)
        .map(|number| Worker::new(&session, number, args.waiting))
        .collect::<Result<Vec<_>, _>>()?;

    let start = Instant::now();
    // Small inputs are spread over all workers, large ones fill the slices round after round.
    let share = total.div_ceil(u64::from(args.workers)).max(1);
    let mut given = 0;
    let mut progress = Progress::new(total);
    while given < total {
        for worker in &mut workers {
            // While this worker is given its next stripe, the others count theirs.
            progress.add(worker.collect(timeout)?)?;
            worker.await_room(timeout)?;
            given += worker.give(&mut input, share.min(total - given), args.byte)?;
        }
    }
    for worker in &mut workers {
        progress.add(worker.collect(timeout)?)?;
    }
    let elapsed_ms = milliseconds(start.elapsed());
    let parts: Vec<_> = workers.iter().map(|worker| &worker.part).collect();
    Event::Result {
        count: parts.iter().map(|part| part.count).sum(),
        bytes: parts.iter().map(|part| part.bytes).sum(),
        elapsed_ms,
        workers: parts,
    }
    .print()?;
    // All are told before anyone is waited for.
    workers.iter_mut().try_for_each(Worker::end)?;
    workers
        .iter_mut()
        .try_for_each(|worker| worker.ended(timeout))
}

impl Worker {
    fn new(session: &Session, number: u16, waiting: Waiting) -> Result<Self, Failure> {
        let options = waiting.open(&reducer(number));
        let jobs = opened(&job_channel(number), |channel| {
            session.region_writer(channel, &options)
        })?;
        if jobs.capacity() <= HEADER_BYTES {
            let worker = worker(number);
            return Err(Failure::Peer(format!(
                "the policy has no room for {worker}"
            )));
        }
        let results = opened(&result_channel(number), |channel| {
            session.region_reader(channel, &options)
        })?;
        Ok(Self {
            jobs,
            results,
            busy: None,
            part: Part {
                name: worker(number),
                rounds: 0,
                bytes: 0,
                count: 0,
                transfer_ms: 0.0,
                response_ms: 0.0,
            },
        })
    }

    /// Waits until the worker is done with the last stripe: with one that an earlier mapper gave,
    /// perhaps.
    fn await_room(&mut self, timeout: Duration) -> Result<(), Failure> {
        (self.jobs.wait_seen(timeout)).map_err(Failure::on(format!(
            "{} does not take its stripe",
            self.part.name
        )))
    }

    /// Gives the worker the input's next stripe, of at most `share` bytes; gives its length.
    fn give(&mut self, input: &mut impl Read, share: u64, wanted: u8) -> Result<u64, Failure> {
        let start = Instant::now();
        let room = self.jobs.capacity() - HEADER_BYTES;
        let stripe = usize::try_from(share).unwrap_or(usize::MAX).min(room);
        if stripe == 0 {
            return Ok(0);
        }
        let failed = || Failure::on(format!("no stripe for {}", self.part.name));
        self.jobs.prepare(0, &header(wanted)).map_err(failed())?;
        let mut piece = vec![0; PIECE_BYTES.min(stripe)];
        let mut done = 0;
        while done < stripe {
            let (piece, _) = piece.split_at_mut(PIECE_BYTES.min(stripe - done));
            input.read_exact(piece).map_err(Failure::Input)?;
            self.jobs
                .prepare(HEADER_BYTES + done, piece)
                .map_err(failed())?;
            done += piece.len();
        }
        let round = self.jobs.publish(HEADER_BYTES + done).map_err(failed())?;
        self.part.transfer_ms += milliseconds(start.elapsed());
        let bytes = u64::try_from(done).unwrap_or(u64::MAX);
        self.busy = Some((round, bytes, Instant::now()));
        Ok(bytes)
    }

    /// Waits for the worker's answer, if it is counting; gives the bytes that it has counted.
    fn collect(&mut self, timeout: Duration) -> Result<u64, Failure> {
        let Some((round, bytes, since)) = self.busy.take() else {
            return Ok(0);
        };
        let name = &self.part.name;
        let answer = loop {
            let mut answer = [0; Answer::BYTES];
            let length = self
                .results
                .read(&mut answer, timeout)
                .map_err(Failure::on(format!("no answer from {name}")))?;
            let answer = Answer::from_bytes(&answer);
            if length != Answer::BYTES || answer.round > round {
                return Err(Failure::Peer(format!("{name} answered what was not asked")));
            }
            // An answer to an earlier mapper, which ended before it could read it, is passed over.
            if answer.round == round {
                break answer;
            }
        };
        if answer.bytes != bytes || answer.count > bytes {
            return Err(Failure::Peer(format!(
                "{name} claims to have counted {} of {} bytes, but got {bytes}",
                answer.count, answer.bytes
            )));
        }
        self.part.rounds += 1;
        self.part.bytes += bytes;
        self.part.count += answer.count;
        self.part.response_ms += milliseconds(since.elapsed());
        Ok(bytes)
    }

    /// Tells the worker that the job has ended.
    fn end(&mut self) -> Result<(), Failure> {
        self.jobs
            .publish(0)
            .map(drop)
            .map_err(Failure::on(format!("can't end {}", self.part.name)))
    }

    /// Waits until the worker knows: this session's end would take the message back.
    fn ended(&mut self, timeout: Duration) -> Result<(), Failure> {
        match self.jobs.wait_seen(timeout) {
            // It has ended even faster.
            Ok(()) | Err(Error::Revoked(_)) => Ok(()),
            Err(error) => Err(Failure::on(format!("can't end {}", self.part.name))(error)),
        }
    }
}

/// Opens a channel and prints how long that took.
fn opened<T>(channel: &str, open: impl FnOnce(&str) -> Result<T, Error>) -> Result<T, Failure> {
    let start = Instant::now();
    let end = open(channel).map_err(Failure::on(channel))?;
    Event::Opened {
        channel,
        microseconds: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
    }
    .print()?;
    Ok(end)
}

/// Prints a line for each step of the input.
struct Progress {
    step: u64,
    counted: u64,
    printed: u64,
}

impl Progress {
    fn new(total: u64) -> Self {
        Self {
            step: (total / PROGRESS_LINES).max(1),
            counted: 0,
            printed: 0,
        }
    }

    fn add(&mut self, bytes: u64) -> Result<(), Failure> {
        self.counted += bytes;
        if self.counted - self.printed < self.step {
            return Ok(());
        }
        self.printed = self.counted;
        let bytes = self.counted;
        Event::Progress { bytes }.print()
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
