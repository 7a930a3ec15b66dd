//! What a `ring` channel costs: round trips and throughput between two services, each in a process
//! and on a processor of its own, which never sleep.
//!
//! Memory that both map, the library's rings over such memory, the same with pages that only their
//! writer may write, and channels without integrity, with `crc32c` and with `aead` run in turns, in one
//! run, between the same two processes. One of them measures and orders; raw memory carries its orders.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sivshm::{Identity, Integrity, Session};
use sivshm_abi::grant::Access;

use crate::carrier::{Ends, Side, slots};
use crate::raw::Memory;

/// Messages of the first sample, which finds out how many fill the time, and the fewest of any: every
/// slot is touched.
const FEW_MESSAGES: u32 = 32;

/// Bytes of an order, and of the answer to one.
const ORDER_BYTES: u32 = 16;

/// What is measured, in the order of its numbers.
const KINDS: [Kind; 2] = [Kind::RoundTrip, Kind::Stream];

/// Measures rings. Run it as a service of either VM, the far one first or at the same time.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which of the two this is
    #[arg(long, value_enum)]
    side: Side,
    /// Name of this service, whose SVID and key are taken
    #[arg(long, value_name = "SERVICE")]
    identity: String,
    /// The other service
    #[arg(long, value_name = "VM/SERVICE")]
    peer: String,
    /// A file of zeros that both map
    #[arg(long, value_name = "FILE")]
    memory: PathBuf,
    /// Bytes of each payload
    #[arg(long, value_name = "BYTES")]
    payload: u32,
    /// Turns, an even number; the first does not count
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// Time for which a sample runs, in microseconds: short beside the time that a busy machine leaves
    /// both processes on their processors
    #[arg(long, value_name = "US", default_value_t = 300)]
    sample_us: u32,
}

/// What the processes do together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// Payloads go there and come back, one after the other.
    RoundTrip,
    /// Payloads go there as fast as they can.
    Stream,
}

/// What the near side has the far one do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Order {
    carrier: u32,
    kind: u32,
    messages: u32,
}

/// How the processes talk about the measurement.
struct Orders(Ends);

/// One way for payloads, and what was measured of it.
struct Carrier {
    name: &'static str,
    ends: Ends,
    series: [Series; KINDS.len()],
}

/// Seconds for each message of one kind, by samples.
#[derive(Default)]
struct Series {
    messages: u32,
    seconds: Vec<f64>,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Value> {
    let &Args { side, payload, .. } = args;
    let mut memory = Memory::open(&args.memory)?;
    let mut orders = Orders(side.raw(&mut memory, ORDER_BYTES, 2)?);
    let slots = slots(payload).context("a payload that no ring carries")?;
    let raw = side.raw(&mut memory, payload, slots)?;
    let ring = side.rings(&mut memory, payload, Access::ReadWrite)?;
    let apart = side.rings(&mut memory, payload, Access::ReadOnly)?;
    let session = Session::open(&Identity::named(&args.identity)?)?;
    let mut carriers = vec![
        Carrier::new("raw", raw),
        Carrier::new("ring", ring),
        Carrier::new("apart", apart),
    ];
    for integrity in [Integrity::None, Integrity::Crc32c, Integrity::Aead] {
        let ends = side.channels(&session, &args.peer, integrity, payload)?;
        carriers.push(Carrier::new(integrity.word(), ends));
    }
    pin(side)?;
    let mut buffers = Buffers::new(payload)?;
    match side {
        Side::Near => {
            let turn: Vec<usize> = (0..carriers.len()).collect();
            for _ in 0..args.rounds.div_ceil(2) {
                // There and back, so that none always follows the same one.
                for number in turn.iter().chain(turn.iter().rev()) {
                    measure(&mut orders, &mut carriers, *number, args, &mut buffers)?;
                }
            }
            orders.give(Order::END)?;
            orders.answered()?;
        }
        Side::Far => obey(&mut orders, &mut carriers, &mut buffers)?,
    }
    let figures = carriers.iter().map(|carrier| carrier.figures(payload));
    Ok(json!({
        "event": "ring",
        "payload": payload,
        "slots": slots,
        "carriers": figures.collect::<Vec<_>>(),
    }))
}

/// Takes a sample of each kind of a carrier.
fn measure(
    orders: &mut Orders,
    carriers: &mut [Carrier],
    number: usize,
    args: &Args,
    buffers: &mut Buffers,
) -> Result<()> {
    let carrier = carriers.get_mut(number).context("no such carrier")?;
    for ((kind, which), series) in KINDS.iter().zip(0..).zip(&mut carrier.series) {
        let messages = series.messages.max(FEW_MESSAGES);
        orders.give(Order {
            carrier: number.try_into()?,
            kind: which,
            messages,
        })?;
        let near = kind.near(&mut carrier.ends, buffers, messages)?;
        let far = orders.answered()?;
        series.add(near.unwrap_or(far), messages, args.sample_us.into())?;
    }
    Ok(())
}

/// Does what the near side says, until it says that it is done.
fn obey(orders: &mut Orders, carriers: &mut [Carrier], buffers: &mut Buffers) -> Result<()> {
    loop {
        let order = orders.taken()?;
        if order == Order::END {
            return orders.answer(Duration::ZERO);
        }
        let carrier = carriers.get_mut(usize::try_from(order.carrier)?);
        let kind = KINDS.get(usize::try_from(order.kind)?);
        let (carrier, kind) = carrier.zip(kind).context("an order for nothing")?;
        let far = kind.far(&mut carrier.ends, buffers, order.messages)?;
        orders.answer(far)?;
    }
}

/// What is sent, and what comes.
struct Buffers {
    payload: Vec<u8>,
    space: Vec<u8>,
}

impl Buffers {
    fn new(payload: u32) -> Result<Self> {
        let payload = vec![0x5a; usize::try_from(payload)?];
        Ok(Self {
            space: vec![0; payload.len()],
            payload,
        })
    }
}

impl Kind {
    /// The near side's part; how long it took, if that is for this side to say.
    fn near(
        self,
        ends: &mut Ends,
        buffers: &mut Buffers,
        messages: u32,
    ) -> Result<Option<Duration>> {
        let Ends { out, home } = ends;
        let Buffers { payload, space } = buffers;
        match self {
            Self::RoundTrip => {
                let mut trip = || {
                    out.send(black_box(payload))?;
                    home.receive(black_box(space))
                };
                trip()?;
                let start = Instant::now();
                for _ in 0..messages {
                    trip()?;
                }
                let elapsed = start.elapsed();
                ensure!(space == payload, "another payload came back");
                Ok(Some(elapsed))
            }
            Self::Stream => {
                for _ in 0..=messages {
                    out.send(black_box(payload))?;
                }
                Ok(None)
            }
        }
    }

    /// The far side's part, and how long it took from the arrival of the first payload on.
    fn far(self, ends: &mut Ends, buffers: &mut Buffers, messages: u32) -> Result<Duration> {
        let Ends { out, home } = ends;
        let space = &mut buffers.space;
        let mut one = || {
            home.receive(black_box(space))?;
            match self {
                Self::RoundTrip => out.send(black_box(space)),
                Self::Stream => Ok(()),
            }
        };
        one()?;
        let start = Instant::now();
        for _ in 0..messages {
            one()?;
        }
        Ok(start.elapsed())
    }
}

impl Order {
    /// There is nothing left to do.
    const END: Self = Self {
        carrier: u32::MAX,
        kind: 0,
        messages: 0,
    };
}

impl Orders {
    fn give(&mut self, order: Order) -> Result<()> {
        let Order {
            carrier,
            kind,
            messages,
        } = order;
        let words = [carrier, kind, messages, 0].map(u32::to_le_bytes);
        self.0.out.send(words.as_flattened())
    }

    fn taken(&mut self) -> Result<Order> {
        let mut bytes = [[0; 4]; 4];
        self.0.home.receive(bytes.as_flattened_mut())?;
        let [carrier, kind, messages, _] = bytes.map(u32::from_le_bytes);
        Ok(Order {
            carrier,
            kind,
            messages,
        })
    }

    fn answer(&mut self, time: Duration) -> Result<()> {
        let nanoseconds = u64::try_from(time.as_nanos())?.to_le_bytes();
        self.0.out.send([nanoseconds, [0; 8]].as_flattened())
    }

    fn answered(&mut self) -> Result<Duration> {
        let mut bytes = [[0; 8]; 2];
        self.0.home.receive(bytes.as_flattened_mut())?;
        let [nanoseconds, _] = bytes.map(u64::from_le_bytes);
        Ok(Duration::from_nanos(nanoseconds))
    }
}

impl Carrier {
    fn new(name: &'static str, ends: Ends) -> Self {
        Self {
            name,
            ends,
            series: Default::default(),
        }
    }

    fn figures(&self, payload: u32) -> Value {
        let [trips, stream] = &self.series;
        let trips = trips.seconds.iter().map(|seconds| seconds * 1e9);
        let rates = (stream.seconds.iter()).map(|seconds| f64::from(payload) / seconds / 1e6);
        json!({
            "name": self.name,
            "round_trip_ns": trips.collect::<Vec<_>>(),
            "mb_per_s": rates.collect::<Vec<_>>(),
        })
    }
}

impl Series {
    /// Adds a sample. The first does not count: it warms up, and says how many messages fill the
    /// time.
    fn add(&mut self, time: Duration, messages: u32, sample_us: u64) -> Result<()> {
        let each = time.as_secs_f64() / f64::from(messages);
        if self.messages == 0 {
            let fitting = Duration::from_secs_f64(each).as_nanos().max(1);
            let sample = Duration::from_micros(sample_us).as_nanos();
            self.messages = u32::try_from(sample / fitting)?.max(FEW_MESSAGES);
        } else {
            self.seconds.push(each);
        }
        Ok(())
    }
}

/// Keeps this thread on one of the first two processors that the process may use.
fn pin(side: Side) -> Result<()> {
    let me = Pid::from_raw(0);
    let allowed = sched_getaffinity(me)?;
    let mut allowed = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let (first, second) = (allowed.next(), allowed.next());
    let cpu = match side {
        Side::Near => first,
        Side::Far => second,
    };
    let Some((cpu, _)) = cpu.zip(second) else {
        bail!("two processors are needed");
    };
    let mut one = CpuSet::new();
    one.set(cpu)?;
    Ok(sched_setaffinity(me, &one)?)
}
