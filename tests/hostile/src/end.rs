//! Ends of channels, as the programs take them from a command line and speak of them.

use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};
use sivshm::Open;

/// Time limit of every wait of a program that its test ends: no test takes as long.
pub const NEVER: Duration = Duration::from_secs(3600);

/// An end of a channel, and the services at the others.
#[derive(Clone, Debug)]
pub struct End {
    /// The channel.
    pub channel: String,
    /// The services, each `VM/SERVICE`.
    pub peers: Vec<String>,
}

impl FromStr for End {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (channel, peers) = text
            .split_once('=')
            .ok_or("this is not CHANNEL=VM/SERVICE")?;
        Ok(Self {
            channel: channel.to_owned(),
            peers: peers.split(',').map(str::to_owned).collect(),
        })
    }
}

impl End {
    /// How to open it, within this time.
    #[must_use]
    pub fn open(&self, limit: Duration) -> Open {
        let open = Open::new().timeout(limit);
        self.peers.iter().fold(open, |open, peer| open.peer(peer))
    }
}

/// Prints what became of a channel, or of the program if that has no name. A program that can't print
/// has nothing to say; its test then misses the event.
pub fn event(name: &str, channel: &str, what: &Value) {
    println!(
        "{}",
        json!({ "event": name, "channel": channel, "what": what })
    );
}
