//! What a `ring` channel costs beside the memory it lies in: round trips and throughput of payloads
//! of several sizes, without integrity, with `crc32c` and with `aead`, and raw.
//!
//! All four run in turns, in one run, between the same two threads, which never sleep. The rings
//! are the library's own, less the session that grants their memory.

use std::hint::{black_box, spin_loop};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sivshm::integrity::{Keys, Receiver, Sender, Suite};
use sivshm_abi::channel::{ACK_BYTES, HEAD_BYTES, slot_stride};
use sivshm_abi::grant::Integrity;
use sivshm_abi::name::ChannelName;
use sivshm_ring::line::ReaderLine;
use sivshm_ring::slots::Geometry;

use crate::raw::{self, memory};

/// Slots of each ring.
pub const SLOTS: u32 = 8;

/// Sizes of payloads that are measured unless others are asked for.
const PAYLOADS: [u32; 8] = [
    64,
    256,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
];

/// Messages of the first sample, which finds out how many fill the time, and the fewest of any.
const FEW_MESSAGES: u32 = 2 * SLOTS;

/// Looks between two offers of the processor to others, which a busy machine needs.
const LOOKS: u32 = 1000;

/// Any epoch will do: the memory is fresh.
const EPOCH: u64 = 1;

/// Any key will do: nobody else has the memory.
const KEYS: Keys<'_> = Keys {
    key: &[1; 16],
    iv: &[2; 12],
};

/// Measures rings beside raw memory.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bytes of the payloads, separated by commas
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_values_t = PAYLOADS)]
    payload: Vec<u32>,
    /// Samples of each figure
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Time for which a sample runs, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 20)]
    sample_ms: u32,
}

/// The writing end of what carries payloads.
pub trait Out: Send {
    /// Sends a payload as soon as there is room.
    fn send(&mut self, payload: &[u8]) -> Result<()>;
}

/// The reading end of what carries payloads.
pub trait In: Send {
    /// Receives a payload as soon as there is one.
    fn receive(&mut self, to: &mut [u8]) -> Result<()>;
}

/// Looks until there is something.
pub fn look<T>(mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    loop {
        for _ in 0..LOOKS {
            if let Some(found) = ready()? {
                return Ok(found);
            }
            spin_loop();
        }
        thread::yield_now();
    }
}

/// Runs it.
pub fn run(args: &Args) -> Result<Value> {
    let suites = [Integrity::None, Integrity::Crc32c, Integrity::Aead].map(Some);
    let mut figures = Vec::new();
    for &payload in &args.payload {
        let mut carriers = [None]
            .into_iter()
            .chain(suites)
            .map(|suite| Carrier::open(suite, payload))
            .collect::<Result<Vec<_>>>()?;
        for _ in 0..=args.rounds {
            for carrier in &mut carriers {
                carrier.sample(Duration::from_millis(args.sample_ms.into()))?;
            }
        }
        figures.extend(carriers.iter().map(Carrier::figures));
    }
    Ok(json!({ "event": "ring", "slots": SLOTS, "figures": figures }))
}

/// One way for payloads of one size to go there and back, and what was measured of it.
struct Carrier {
    name: &'static str,
    payload: u32,
    there: (Box<dyn Out>, Box<dyn In>),
    back: (Box<dyn Out>, Box<dyn In>),
    round_trip: Series,
    throughput: Series,
}

/// Seconds for each message of one kind, by samples.
struct Series {
    messages: u32,
    seconds: Vec<f64>,
}

impl Carrier {
    /// Raw memory, or a ring with an integrity suite.
    fn open(suite: Option<Integrity>, payload: u32) -> Result<Self> {
        let open = || -> Result<(Box<dyn Out>, Box<dyn In>)> {
            Ok(match suite {
                None => {
                    let (sender, receiver) = raw::open(payload)?;
                    (Box::new(sender), Box::new(receiver))
                }
                Some(integrity) => {
                    let (sender, receiver) = ring(integrity, payload)?;
                    (Box::new(sender), Box::new(receiver))
                }
            })
        };
        Ok(Self {
            name: suite.map_or("raw", Integrity::word),
            payload,
            there: open()?,
            back: open()?,
            round_trip: Series::new(),
            throughput: Series::new(),
        })
    }

    fn sample(&mut self, time: Duration) -> Result<()> {
        let payload = vec![0x5a; usize::try_from(self.payload)?];
        let ((out, there), (back, home)) = (&mut self.there, &mut self.back);
        self.round_trip.sample(time, |messages| {
            round_trips(
                (&mut **out, &mut **there),
                (&mut **back, &mut **home),
                &payload,
                messages,
            )
        })?;
        self.throughput.sample(time, |messages| {
            stream((&mut **out, &mut **there), &payload, messages)
        })
    }

    fn figures(&self) -> Value {
        let payload = f64::from(self.payload);
        let trips = self.round_trip.seconds.iter().map(|seconds| seconds * 1e9);
        let rates = self
            .throughput
            .seconds
            .iter()
            .map(|seconds| payload / seconds / 1e6);
        json!({
            "payload": self.payload,
            "integrity": self.name,
            "round_trip_ns": trips.collect::<Vec<_>>(),
            "mb_per_s": rates.collect::<Vec<_>>(),
        })
    }
}

impl Series {
    const fn new() -> Self {
        Self {
            messages: 0,
            seconds: Vec::new(),
        }
    }

    /// Takes a sample. The first does not count: it warms up, and says how many messages fill the
    /// time.
    fn sample(
        &mut self,
        time: Duration,
        measure: impl FnOnce(u32) -> Result<Duration>,
    ) -> Result<()> {
        let messages = match self.messages {
            0 => FEW_MESSAGES,
            messages => messages,
        };
        let seconds = measure(messages)?.as_secs_f64() / f64::from(messages);
        match self.messages {
            0 => {
                let fitting = Duration::from_secs_f64(seconds).as_nanos().max(1);
                self.messages = u32::try_from(time.as_nanos() / fitting)?.max(FEW_MESSAGES);
            }
            _ => self.seconds.push(seconds),
        }
        Ok(())
    }
}

/// Time that payloads take to go there and come back, one after the other.
fn round_trips(
    there: (&mut dyn Out, &mut dyn In),
    back: (&mut dyn Out, &mut dyn In),
    payload: &[u8],
    messages: u32,
) -> Result<Duration> {
    let ((out, far_in), (far_out, home)) = (there, back);
    let mut buffer = vec![0; payload.len()];
    thread::scope(|scope| {
        pin(1)?;
        let far = scope.spawn(|| {
            let mut buffer = vec![0; payload.len()];
            for _ in 0..=messages {
                far_in.receive(&mut buffer)?;
                far_out.send(&buffer)?;
            }
            Ok(())
        });
        pin(0)?;
        let mut trip = || {
            out.send(payload)?;
            home.receive(&mut buffer)
        };
        trip()?;
        let start = Instant::now();
        for _ in 0..messages {
            trip()?;
        }
        let elapsed = start.elapsed();
        join(far)?;
        ensure!(buffer == payload, "another payload came back");
        Ok(elapsed)
    })
}

/// Time that payloads take one way, from the arrival of the first to that of the last.
fn stream(there: (&mut dyn Out, &mut dyn In), payload: &[u8], messages: u32) -> Result<Duration> {
    let (out, far_in) = there;
    thread::scope(|scope| {
        pin(1)?;
        let far = scope.spawn(|| {
            let mut buffer = vec![0; payload.len()];
            far_in.receive(&mut buffer)?;
            let start = Instant::now();
            for _ in 0..messages {
                far_in.receive(black_box(&mut buffer))?;
            }
            Ok(start.elapsed())
        });
        pin(0)?;
        for _ in 0..=messages {
            out.send(black_box(payload))?;
        }
        join(far)
    })
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().ok().context("the other thread died")?
}

/// Keeps this thread, and those that it starts from now on, on one of the first two processors that
/// the process may use.
fn pin(which: usize) -> Result<()> {
    static ALLOWED: std::sync::OnceLock<CpuSet> = std::sync::OnceLock::new();
    let me = Pid::from_raw(0);
    let allowed = match ALLOWED.get() {
        Some(allowed) => *allowed,
        None => *ALLOWED.get_or_init(|| sched_getaffinity(me).unwrap_or_default()),
    };
    let mut allowed = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let cpu = allowed.nth(which).context("two processors are needed")?;
    let mut one = CpuSet::new();
    one.set(cpu)?;
    Ok(sched_setaffinity(me, &one)?)
}

/// The two ends of a ring over fresh memory.
fn ring(integrity: Integrity, payload: u32) -> Result<(Sender, Receiver)> {
    let geometry = Geometry {
        slot_bytes: payload,
        overwrite: false,
        integrity,
    };
    let range = HEAD_BYTES + u64::from(SLOTS) * slot_stride(payload, integrity);
    let (range, line) = (memory(range)?, memory(ACK_BYTES)?);
    let suite = || {
        Suite::new(integrity, ChannelName::new("bench")?, EPOCH, Some(KEYS))
            .map_err(anyhow::Error::from)
    };
    let readers = vec![ReaderLine::new(line, EPOCH)?];
    Ok((
        Sender::start(range, geometry, readers, EPOCH, suite()?)?,
        Receiver::join(range, line, geometry, EPOCH, suite()?)?,
    ))
}

impl Out for Sender {
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        look(|| Ok(self.stage(payload)?.then_some(())))?;
        self.publish();
        let sleeps = self.readers().iter().any(ReaderLine::must_ring);
        ensure!(!sleeps, "a reader that polls sleeps");
        Ok(())
    }
}

impl In for Receiver {
    fn receive(&mut self, to: &mut [u8]) -> Result<()> {
        look(|| Ok(Receiver::receive(self, to)?))?;
        ensure!(!self.acknowledge(), "a writer that polls sleeps");
        Ok(())
    }
}
