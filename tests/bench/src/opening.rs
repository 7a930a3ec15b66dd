//! Opening channels between two services, round after round: a round ends when the writer knows that
//! the first message was received, and everything is closed before the next one.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};
use sivshm::{Error, Identity, Open, RegionReader, RegionWriter, Session};

use crate::usage::cpu_us;

/// Rounds before the first that is measured.
const WARM_UP: u32 = 5;

/// Longest wait for anything: an emulated guest at the other end may still boot.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// The first message.
pub const MESSAGE: &[u8] = &[0x5a; 8];

/// How often, and as whom.
#[derive(Debug, clap::Args)]
struct Rounds {
    /// Name of this service, whose SVID and key are taken
    #[arg(long, value_name = "SERVICE")]
    identity: String,
    /// Number of rounds; the other end needs the same
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Open a session for each round, and not one for all
    #[arg(long)]
    new_sessions: bool,
    /// Time before each round of the writer, in milliseconds: by then the readers wait again, and no
    /// service has begun more than a device process lets it begin in a second. The other end needs
    /// the same
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pause_ms: u64,
}

/// Opens channels as their writer. The readers wait for that.
#[derive(Debug, clap::Args)]
pub struct WriterArgs {
    #[command(flatten)]
    rounds: Rounds,
    /// The channels, opened at the same time, and who reads each
    #[arg(required = true, value_name = "CHANNEL=VM/SERVICE", value_parser = end)]
    channels: Vec<End>,
}

/// Opens a channel as its reader, again as soon as it has ended.
#[derive(Debug, clap::Args)]
pub struct ReaderArgs {
    #[command(flatten)]
    rounds: Rounds,
    /// The channel, and who writes it
    #[arg(value_name = "CHANNEL=VM/SERVICE", value_parser = end)]
    channel: End,
}

/// A channel and who is at its other end.
#[derive(Clone, Debug)]
pub struct End {
    /// Its name.
    pub channel: String,
    peer: String,
}

/// Parses `CHANNEL=VM/SERVICE`.
pub fn end(text: &str) -> Result<End, &'static str> {
    let (channel, peer) = text.split_once('=').ok_or("there is no `=`")?;
    Ok(End {
        channel: channel.to_owned(),
        peer: peer.to_owned(),
    })
}

impl End {
    fn options(&self) -> Open {
        Open::new().peer(&self.peer).timeout(TIMEOUT)
    }

    /// Opens it to write.
    pub fn writer(&self, session: &Session) -> Result<RegionWriter> {
        let writer = session.region_writer(&self.channel, &self.options());
        writer.with_context(|| self.channel.clone())
    }

    /// Opens it to read.
    pub fn reader(&self, session: &Session) -> Result<RegionReader> {
        let reader = session.region_reader(&self.channel, &self.options());
        reader.with_context(|| self.channel.clone())
    }
}

impl Rounds {
    const fn pause(&self) -> Duration {
        Duration::from_millis(self.pause_ms)
    }

    /// Makes all rounds, and gives what each that counts came to, and the CPU time of this process
    /// for one, in microseconds.
    fn make<T>(
        &self,
        pause: Duration,
        round: impl Fn(&Session, Instant) -> Result<T>,
    ) -> Result<(Vec<T>, f64)> {
        let identity = Identity::named(&self.identity)?;
        let session = match self.new_sessions {
            true => None,
            false => Some(Session::open(&identity)?),
        };
        let once = || {
            thread::sleep(pause);
            let start = Instant::now();
            match &session {
                Some(session) => round(session, start),
                None => round(&Session::open(&identity)?, start),
            }
        };
        for _ in 0..WARM_UP {
            once()?;
        }
        println!("{}", json!({ "event": "measuring" }));
        let before = cpu_us()?;
        let made = (0..self.rounds)
            .map(|_| once())
            .collect::<Result<Vec<_>>>()?;
        Ok((made, (cpu_us()? - before) / f64::from(self.rounds)))
    }
}

/// Runs the writer: `open_us` until all channels are open, `message_us` until all first messages are
/// known to be received, `cpu_us` of this process for a round.
pub fn write(args: &WriterArgs) -> Result<Value> {
    let (made, cpu_us) = args.rounds.make(args.rounds.pause(), |session, start| {
        let opened = match args.channels.as_slice() {
            [channel] => vec![greet(channel, session, start)?],
            channels => greet_all(channels, session, start)?,
        };
        let last = |of: fn(&Greeted) -> Duration| opened.iter().map(of).max();
        let times = last(|greeted| greeted.open).zip(last(|greeted| greeted.message));
        times.context("no channel")
    })?;
    let microseconds = |of: fn(&(Duration, Duration)) -> Duration| {
        let times = made.iter().map(|times| of(times).as_secs_f64() * 1e6);
        times.collect::<Vec<_>>()
    };
    Ok(json!({
        "event": "writer",
        "open_us": microseconds(|times| times.0),
        "message_us": microseconds(|times| times.1),
        "cpu_us": cpu_us,
    }))
}

/// A channel over which a first message has gone, and how long that took.
struct Greeted {
    open: Duration,
    message: Duration,
    /// Open until the whole round is over.
    _writer: RegionWriter,
}

fn greet(channel: &End, session: &Session, start: Instant) -> Result<Greeted> {
    let mut writer = channel.writer(session)?;
    let open = start.elapsed();
    writer.write(MESSAGE, TIMEOUT)?;
    writer.wait_seen(TIMEOUT)?;
    Ok(Greeted {
        open,
        message: start.elapsed(),
        _writer: writer,
    })
}

fn greet_all(channels: &[End], session: &Session, start: Instant) -> Result<Vec<Greeted>> {
    thread::scope(|scope| {
        let greeters: Vec<_> = channels
            .iter()
            .map(|channel| scope.spawn(move || greet(channel, session, start)))
            .collect();
        let panicked = |_| anyhow!("the opening of a channel has panicked");
        greeters
            .into_iter()
            .map(|greeter| greeter.join().map_err(panicked)?)
            .collect()
    })
}

/// Runs the reader: `cpu_us` of this process for a round.
pub fn read(args: &ReaderArgs) -> Result<Value> {
    let (_, cpu_us) = args.rounds.make(Duration::ZERO, |session, _| {
        let mut reader = args.channel.reader(session)?;
        let mut message = [0; MESSAGE.len()];
        match reader.read(&mut message, TIMEOUT) {
            Ok(_) => {
                // The writer closes at once. The looks of a wait for that are no part of an opening.
                thread::sleep(args.rounds.pause() / 4);
                await_end(&mut reader)
            }
            // The writer has seen the acknowledgement and gone before it was rung.
            Err(Error::Revoked(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    })?;
    Ok(json!({ "event": "reader", "cpu_us": cpu_us }))
}

/// Waits until the channel has ended.
pub fn await_end(reader: &mut RegionReader) -> Result<()> {
    match reader.wait(TIMEOUT) {
        Err(Error::Revoked(_)) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => bail!("a message that the writer does not send"),
    }
}
