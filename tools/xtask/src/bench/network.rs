//! A network of the host's own kernel between VMs: the strongest one that a stock QEMU has without
//! hardware, with checksums and segmentation left to the other side.

use std::process::Command;

use anyhow::Result;
use sivshm_tests::process::output_of;

/// A bridge and its taps. Dropping it removes them.
#[derive(Debug)]
pub struct Bridge {
    bridge: String,
    taps: Vec<String>,
}

impl Bridge {
    /// Makes a bridge with a tap for each of `count` VMs. Any user may attach a VMM to a tap.
    ///
    /// # Errors
    /// If this user may not, or there is no `ip`.
    pub fn new(count: usize) -> Result<Self> {
        let own = std::process::id();
        let mut this = Self {
            bridge: format!("sv{own}"),
            taps: Vec::new(),
        };
        let bridge = this.bridge.clone();
        ip(&["link", "add", "name", &bridge, "type", "bridge"])?;
        ip(&["link", "set", &bridge, "up"])?;
        for number in 0..count {
            let tap = format!("sv{own}t{number}");
            ip(&["tuntap", "add", "dev", &tap, "mode", "tap"])?;
            this.taps.push(tap.clone());
            ip(&["link", "set", &tap, "master", &bridge, "up"])?;
        }
        Ok(this)
    }

    /// QEMU's arguments that give a VM the tap of this number.
    pub fn arguments(&self, number: usize) -> Vec<String> {
        let tap = self.taps.get(number).map_or("", String::as_str);
        [
            "-netdev".to_owned(),
            format!("tap,id=net,ifname={tap},script=no,downscript=no"),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev=net,mac=52:54:00:00:00:{number:02x}"),
        ]
        .to_vec()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for device in self.taps.iter().chain([&self.bridge]) {
            if let Err(error) = ip(&["link", "del", device]) {
                eprintln!("{device} is left behind: {error:#}");
            }
        }
    }
}

fn ip(arguments: &[&str]) -> Result<String> {
    output_of(Command::new("ip").args(arguments))
}
