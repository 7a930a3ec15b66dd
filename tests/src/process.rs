//! Child processes that end with their handle, and the lines that they print.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// One line that a child printed, and when it was seen.
#[derive(Clone, Debug)]
pub struct Line {
    /// Time since the child was started.
    pub at: Duration,
    /// The line without its end.
    pub text: String,
}

impl Line {
    /// The line as an event, if it is one: a JSON object on a line of its own.
    #[must_use]
    pub fn event(&self) -> Option<Value> {
        let text = self.text.trim();
        let value: Value = text
            .starts_with('{')
            .then(|| serde_json::from_str(text).ok())??;
        value.get("event").is_some().then_some(value)
    }
}

/// A running child whose output is collected. Dropping it kills the child and waits for it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    started: Instant,
    incoming: Receiver<Line>,
    lines: Vec<Line>,
    log: Option<std::fs::File>,
}

impl Process {
    /// Starts `command` with its standard output and error collected.
    ///
    /// # Errors
    /// If the program can't be started.
    pub fn start(name: &str, command: Command) -> Result<Self> {
        Self::start_with(name, command, Stdio::null())
    }

    /// The same with an input that [`Self::tell`] writes to.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_listening(name: &str, command: Command) -> Result<Self> {
        Self::start_with(name, command, Stdio::piped())
    }

    fn start_with(name: &str, mut command: Command, input: Stdio) -> Result<Self> {
        command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("can't start {}", command.get_program().display()))?;
        let (sender, incoming) = channel();
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|stream| Box::new(stream) as _),
            child.stderr.take().map(|stream| Box::new(stream) as _),
        ];
        for stream in streams.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let mut bytes = Vec::new();
                while stream
                    .read_until(b'\n', &mut bytes)
                    .is_ok_and(|read| read > 0)
                {
                    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                    if sender
                        .send(Line {
                            at: started.elapsed(),
                            text,
                        })
                        .is_err()
                    {
                        return;
                    }
                    bytes.clear();
                }
            });
        }
        Ok(Self {
            name: name.to_owned(),
            child,
            started,
            incoming,
            lines: Vec::new(),
            log: None,
        })
    }

    /// Copies everything that the child prints to a file as well.
    pub fn keep_log(&mut self, file: std::fs::File) {
        self.log = Some(file);
    }

    /// The child's process identifier.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The name it was started with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Time since it was started.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Every line seen so far.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Waits for the first line, seen already or to come, that `wanted` accepts.
    ///
    /// # Errors
    /// If the child ends its output or `limit` passes first; the error quotes the last lines.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl FnMut(&Line) -> Option<T>,
    ) -> Result<T> {
        match self.wait_for_or_end(what, limit, wanted)? {
            Some(found) => Ok(found),
            None => bail!("{}: ended without {what}\n{}", self.name, self.tail()),
        }
    }

    /// Waits for the first line, seen already or to come, that `wanted` accepts; none if the child
    /// ends its output first.
    ///
    /// # Errors
    /// If `limit` passes first; the error quotes the last lines.
    pub fn wait_for_or_end<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&Line) -> Option<T>,
    ) -> Result<Option<T>> {
        if let Some(found) = self.lines.iter().find_map(&mut wanted) {
            return Ok(Some(found));
        }
        let deadline = Instant::now() + limit;
        loop {
            match self.next_line(deadline) {
                Ok(line) => {
                    if let Some(found) = wanted(&line) {
                        return Ok(Some(found));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{}: no {what} within {limit:?}\n{}", self.name, self.tail())
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }

    /// Waits for an event of a given name.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn wait_event(&mut self, event: &str, limit: Duration) -> Result<(Duration, Value)> {
        self.wait_for(&format!("event `{event}`"), limit, |line| {
            line.event()
                .filter(|value| value.get("event").and_then(Value::as_str) == Some(event))
                .map(|value| (line.at, value))
        })
    }

    /// Waits for the child to end by itself.
    ///
    /// # Errors
    /// If it is still running after `limit`; it is killed then.
    pub fn finish(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.next_line(deadline) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(self.child.wait()?),
                Err(RecvTimeoutError::Timeout) => {
                    self.kill();
                    bail!(
                        "{}: still running after {limit:?}\n{}",
                        self.name,
                        self.tail()
                    );
                }
            }
        }
    }

    /// The last lines, for an error message.
    #[must_use]
    pub fn tail(&self) -> String {
        self.shown(self.lines.len().saturating_sub(40))
    }

    /// All lines, for whoever reads of a test that failed after the child's end.
    #[must_use]
    pub fn transcript(&self) -> String {
        format!("{}:\n{}", self.name, self.shown(0))
    }

    fn shown(&self, from: usize) -> String {
        let lines = self.lines.iter().skip(from);
        lines
            .map(|line| format!("  {:>8.3}s {}\n", line.at.as_secs_f64(), line.text))
            .collect()
    }

    /// Tells a child that listens a line.
    ///
    /// # Errors
    /// If it does not listen, or has ended.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut();
        let input = input.with_context(|| format!("{} does not listen", self.name))?;
        writeln!(input, "{line}").with_context(|| format!("{} has ended", self.name))
    }

    /// Sends a signal to the child, which is known to be not reaped yet.
    ///
    /// # Errors
    /// If the signal can't be sent.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(nix::sys::signal::kill(pid, signal)?)
    }

    /// Ends the child at once and reaps it.
    pub fn kill(&mut self) {
        // Both fail only if the child has been reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn next_line(&mut self, deadline: Instant) -> Result<Line, RecvTimeoutError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = self.incoming.recv_timeout(left)?;
        if let Some(log) = &mut self.log {
            // A log that can't be written must not fail the run that it describes.
            let _ = writeln!(log, "{:9.3} {}", line.at.as_secs_f64(), line.text);
        }
        self.lines.push(line.clone());
        Ok(line)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// If it can't be started or fails; the error carries what it printed.
pub fn output_of(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("can't start {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} failed ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
