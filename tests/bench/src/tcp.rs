//! The job over TCP: the same stripes, the same count, the same answers, one connection a worker.
//!
//! In front of a stripe goes a header of 16 bytes, the byte to count and the stripe's length; a
//! stripe of no bytes ends the job.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sivshm_examples::count::count;
use sivshm_examples::protocol::{Answer, CHUNK_BYTES, HEADER_BYTES, header};

use crate::stripes::{Input, Stripes};

/// Bytes in front of a stripe.
const PREFIX_BYTES: usize = HEADER_BYTES + 8;

/// Longest time until a reducer listens: its guest may be booting.
const PATIENCE: Duration = Duration::from_secs(120);

/// Time between two attempts to reach a reducer.
const PAUSE: Duration = Duration::from_millis(20);

/// The manager's end of the job over TCP.
#[derive(Debug, clap::Args)]
pub struct MapperArgs {
    #[command(flatten)]
    input: Input,
    /// Where a reducer listens; once for each
    #[arg(long, value_name = "IP:PORT", required = true)]
    worker: Vec<SocketAddr>,
}

/// A worker's end of the job over TCP.
#[derive(Debug, clap::Args)]
pub struct ReducerArgs {
    /// Where to wait for the mapper
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
}

/// One worker, as the mapper sees it.
struct Worker {
    stream: TcpStream,
    /// Bytes of the stripe that it is counting.
    busy: Option<u64>,
    round: u64,
}

/// Runs the mapper.
pub fn map(args: &MapperArgs) -> Result<Value> {
    let mut workers = args
        .worker
        .iter()
        .map(Worker::dial)
        .collect::<Result<Vec<_>>>()?;
    let mut stripes = args.input.open(workers.len())?;
    let (mut bytes, mut found) = (0, 0);
    let mut add = |answer: Option<Answer>| {
        let answer = answer.map_or((0, 0), |answer| (answer.bytes, answer.count));
        (bytes, found) = (bytes + answer.0, found + answer.1);
    };
    let start = Instant::now();
    while stripes.next_bytes() > 0 {
        for worker in &mut workers {
            add(worker.collect()?);
            if stripes.next_bytes() > 0 {
                worker.give(&mut stripes, args.input.byte)?;
            }
        }
    }
    for worker in &mut workers {
        add(worker.collect()?);
    }
    let elapsed_ms = start.elapsed().as_secs_f64() * 1e3;
    for worker in &mut workers {
        worker.stream.write_all(&prefix(args.input.byte, 0))?;
    }
    Ok(json!({ "event": "result", "bytes": bytes, "count": found, "elapsed_ms": elapsed_ms }))
}

impl Worker {
    fn dial(address: &SocketAddr) -> Result<Self> {
        let start = Instant::now();
        let stream = loop {
            match TcpStream::connect(address) {
                Ok(stream) => break stream,
                Err(error) if start.elapsed() > PATIENCE => {
                    return Err(error).with_context(|| format!("nobody listens at {address}"));
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        };
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            busy: None,
            round: 0,
        })
    }

    fn give(&mut self, stripes: &mut Stripes, wanted: u8) -> Result<()> {
        let bytes = stripes.next_bytes();
        self.stream.write_all(&prefix(wanted, bytes))?;
        stripes.next(|piece| Ok(self.stream.write_all(piece)?))?;
        self.busy = Some(bytes);
        self.round += 1;
        Ok(())
    }

    fn collect(&mut self) -> Result<Option<Answer>> {
        let Some(bytes) = self.busy.take() else {
            return Ok(None);
        };
        let mut answer = [0; Answer::BYTES];
        self.stream.read_exact(&mut answer)?;
        let answer = Answer::from_bytes(&answer);
        ensure!(
            (answer.round, answer.bytes) == (self.round, bytes),
            "a worker answered what was not asked"
        );
        Ok(Some(answer))
    }
}

/// Runs a reducer for one mapper.
pub fn reduce(args: &ReducerArgs) -> Result<Value> {
    let listener = TcpListener::bind(args.listen)
        .with_context(|| format!("can't listen at {}", args.listen))?;
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut round, mut total) = (0, 0);
    loop {
        let mut prefix = [0; PREFIX_BYTES];
        stream.read_exact(&mut prefix)?;
        let (wanted, bytes) = parse(prefix);
        if bytes == 0 {
            return Ok(json!({ "event": "reducer", "rounds": round, "bytes": total }));
        }
        round += 1;
        let mut answer = Answer {
            round,
            count: 0,
            bytes,
        };
        let mut left = usize::try_from(bytes)?;
        while left > 0 {
            let (chunk, _) = chunk.split_at_mut(CHUNK_BYTES.min(left));
            stream.read_exact(chunk)?;
            answer.count += count(chunk, wanted);
            left -= chunk.len();
        }
        stream.write_all(&answer.to_bytes())?;
        total += bytes;
    }
}

fn prefix(wanted: u8, bytes: u64) -> [u8; PREFIX_BYTES] {
    let mut prefix = [0; PREFIX_BYTES];
    let (first, second) = prefix.split_at_mut(HEADER_BYTES);
    first.copy_from_slice(&header(wanted));
    second.copy_from_slice(&bytes.to_le_bytes());
    prefix
}

fn parse(prefix: [u8; PREFIX_BYTES]) -> (u8, u64) {
    let [wanted, ..] = prefix;
    let bytes = prefix.last_chunk().copied().unwrap_or_default();
    (wanted, u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_survives_its_bytes() {
        assert_eq!(parse(prefix(7, 1 << 40)), (7, 1 << 40));
    }
}
