//! `sivshm policy show`.

use std::path::PathBuf;

use sivshm_policy::size::show as size;

use super::report::{ChannelReport, RangeReport, Report, VmReport};
use crate::failure::Outcome;
use crate::table::Table;

/// Show what a policy means
///
/// Prints every brace expanded and everything that follows from the file: what happens to a VM that
/// is not contained, the services of each VM and the processes they must be, the channels, the slices with the layout of each (who writes it,
/// who reads it, where which channel's data and acknowledgement lines are), the windows and
/// doorbell vectors of each VM, and the links with the contract digests that device processes
/// compare when they meet.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sivshm policy show car.toml
  sivshm policy show car.toml --json | jq -r '.channels[] | select(.to[] | startswith(\"ivi/\")) | .name'

Exit codes: 0 shown, 1 the file can't be read, 2 the policy is refused.")]
pub struct Args {
    /// The policy file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// See the exit codes of its help.
pub fn run(args: &Args) -> Outcome {
    let report = Report::of(&super::load(&args.file)?);
    if args.json {
        crate::output::json(&report)
    } else {
        crate::output::text(&text(&report))
    }
}

fn text(report: &Report) -> String {
    let tables = [
        ("VMs", vms(&report.vms)),
        ("Services", services(&report.vms)),
        ("Channels", channels(&report.channels)),
        ("Slices", slices(report)),
        ("Windows", windows(report)),
        ("Doorbells", doorbells(&report.vms)),
        ("Links", links(report)),
    ];
    let mut text = format!(
        "trust domain {}, serial {}\ndigest {}",
        report.trust_domain, report.serial, report.digest
    );
    for (title, table) in tables {
        text += &format!("\n\n{title}\n{table}");
    }
    text
}

fn vms(vms: &[VmReport]) -> Table {
    let mut table = Table::new(["VM", "if not contained", "peers", "windows"]);
    for vm in vms {
        table.row([
            vm.name.clone(),
            vm.uncontained.to_owned(),
            vm.peers.len().to_string(),
            vm.windows.len().to_string(),
        ]);
    }
    table
}

fn services(vms: &[VmReport]) -> Table {
    let mut table = Table::new(["VM", "service", "uid", "executable", "grants"]);
    for vm in vms {
        for service in &vm.services {
            table.row([
                vm.name.clone(),
                service.name.clone(),
                service.uid.to_string(),
                service
                    .exe_sha256
                    .clone()
                    .unwrap_or_else(|| "any".to_owned()),
                service.grants.to_string(),
            ]);
        }
        if vm.services.is_empty() {
            let dash = || "-".to_owned();
            table.row([vm.name.clone(), dash(), dash(), dash(), "0".to_owned()]);
        }
    }
    table
}

fn channels(channels: &[ChannelReport]) -> Table {
    let mut table = Table::new([
        "channel",
        "from",
        "to",
        "kind",
        "size",
        "holds",
        "integrity",
        "slice",
    ]);
    for channel in channels {
        let holds = match (channel.slots, channel.slot_bytes, channel.overwrite) {
            (Some(slots), Some(bytes), Some(overwrite)) => {
                let full = if overwrite { "overwrite" } else { "block" };
                format!("{slots} slots of {}, {full}", size(bytes.into()))
            }
            _ => size(channel.capacity),
        };
        table.row([
            channel.name.clone(),
            channel.from.clone(),
            channel.to.join(", "),
            channel.kind.to_owned(),
            size(channel.bytes),
            holds,
            channel.integrity.unwrap_or("-").to_owned(),
            channel.slice.to_string(),
        ]);
    }
    table
}

fn slices(report: &Report) -> Table {
    let mut table = Table::new([
        "slice", "writer", "readers", "size", "offset", "bytes", "used for",
    ]);
    for slice in &report.slices {
        let whole = [
            slice.id.to_string(),
            slice.writer.clone(),
            slice.readers.join(", "),
            size(slice.bytes),
        ];
        let firsts = std::iter::once(whole).chain(std::iter::repeat_with(Default::default));
        for ([id, writer, readers, bytes], range) in firsts.zip(&slice.ranges) {
            let offset = format!("{:#x}", range.offset);
            table.row([
                id,
                writer,
                readers,
                bytes,
                offset,
                size(range.bytes),
                used_for(range),
            ]);
        }
    }
    table
}

fn used_for(range: &RangeReport) -> String {
    match &range.acknowledgement_of {
        Some(reader) => format!("acknowledgements of {} by {reader}", range.channel),
        None => format!("data of {}", range.channel),
    }
}

fn windows(report: &Report) -> Table {
    let mut table = Table::new(["VM", "window", "slice", "access", "size"]);
    for vm in &report.vms {
        for (number, window) in vm.windows.iter().enumerate() {
            let slice = report.slices.iter().find(|slice| slice.id == window.slice);
            let access = if window.writable {
                "read-write"
            } else {
                "read-only"
            };
            table.row([
                vm.name.clone(),
                number.to_string(),
                window.slice.to_string(),
                access.to_owned(),
                slice.map_or_else(String::new, |slice| size(slice.bytes)),
            ]);
        }
    }
    table
}

fn doorbells(vms: &[VmReport]) -> Table {
    let mut table = Table::new(["VM", "vector", "rung by"]);
    for vm in vms {
        let own = (0, "its device process".to_owned());
        let peers = vm.peers.iter().map(|peer| (peer.vector, peer.vm.clone()));
        for (vector, ringer) in std::iter::once(own).chain(peers) {
            table.row([vm.name.clone(), vector.to_string(), ringer]);
        }
    }
    table
}

fn links(report: &Report) -> Table {
    let mut table = Table::new(["between", "and", "slices", "contract"]);
    for link in &report.links {
        let [first, second] = link.vms.clone();
        let slices: Vec<String> = link.slices.iter().map(u32::to_string).collect();
        table.row([first, second, slices.join(", "), link.contract.clone()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let text = include_str!("../../../../docs/examples/car.toml");
        Report::of(&sivshm_policy::compile("car.toml", text).unwrap())
    }

    #[test]
    fn every_table_is_there_and_names_its_things() {
        let text = text(&report());
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = text.lines().map(words).collect();
        let readers = "assist/planner, assist/recorder, ivi/screen";
        for expected in [
            "ivi screen 1001 any 10".to_owned(),
            format!(
                "picture-4 camera-4/capture {readers} ring 16MiB 8 slots of 2044KiB, overwrite none 15"
            ),
            "0x1000 60KiB data of brake-command".to_owned(),
            "brake 2 ivi".to_owned(),
            "ivi end-vmm 5 10".to_owned(),
        ] {
            assert!(lines.contains(&expected), "{expected}\nis not in\n{text}");
        }
    }

    #[test]
    fn the_json_object_has_the_same() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["vms"].as_array().unwrap().len(), 7);
        assert_eq!(json["vms"][0]["uncontained"], "show");
        let command = &json["channels"][0];
        assert_eq!(command["name"], "brake-command");
        // 64 KiB less the head page and the reader's line leave 448 strides of 128 bytes.
        assert_eq!(
            (&command["slots"], &command["slot_bytes"]),
            (&256.into(), &96.into())
        );
        assert_eq!(command["integrity"], "aead");
        assert_eq!(json["channels"][1]["kind"], "region");
        assert_eq!(json["channels"][1]["slots"], serde_json::Value::Null);
        let data = json["slices"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|slice| slice["ranges"].as_array().unwrap().iter());
        let lines = data.filter(|range| !range["acknowledgement_of"].is_null());
        assert_eq!(lines.count(), 4 * 3 + 1 + 2 + 4);
        assert_eq!(json["links"].as_array().unwrap().len(), 4 * 2 + 2);
    }
}
