//! The victim's service: `honest` in a host process that stands in for the victim's VM.

use std::time::Duration;

use sivshm_tests::process::Process;

use super::scene::{Scene, VICTIM};

/// Longest time for an honest service to notice something.
const NOTICES_WITHIN: Duration = Duration::from_secs(60);

/// A running honest service.
#[derive(Debug)]
pub struct Victim {
    process: Process,
}

impl Victim {
    /// Starts `ivi/app`, which opens channels, each `CHANNEL=VM/SERVICE`. The device processes of all
    /// peers have to be linked, and those that an impostor plays have to be the impostor's.
    pub fn start(scene: &Scene, reads: &[String], writes: &[String]) -> Self {
        let process = scene.launch(VICTIM, |command| {
            command.args(["--attach", "--service", "app", "--guest-uid", "1000", "--"]);
            command.arg(scene.guest_program("honest"));
            command.args(["--identity", "app"]);
            command.args(reads.iter().flat_map(|end| ["--reads", end.as_str()]));
            command.args(writes.iter().flat_map(|end| ["--writes", end.as_str()]));
        });
        Self { process }
    }

    /// Waits until it says this about a channel: an epoch that it has `opened`, words in which it has
    /// `ended`, a text that it has `read`.
    pub fn notices(&mut self, event: &str, channel: &str, what: &str) {
        let wanted = format!("`{event}` of {channel}: {what}");
        let is_it = |line: &sivshm_tests::process::Line| {
            let found = line.event()?;
            let is_it =
                found["event"] == event && found["channel"] == channel && found["what"] == what;
            is_it.then_some(())
        };
        self.process
            .wait_for(&wanted, NOTICES_WITHIN, is_it)
            .unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let limit = Duration::from_millis(1);
            // Reads what was printed since.
            let _ = self.process.wait_for("more", limit, |_| None::<()>);
            eprintln!("{}", self.process.tail());
        }
    }
}
