//! What attacks on services need of the scene: the victim's VMM, channels, and newer SVIDs.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;

use sivshm_abi::grant::{Kind, Part};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_device::admin_wire::{AdminAnswer, AdminRequest};
use sivshm_handshake::service::wire::Pairing;
use sivshm_policy::plan::{Channel, ChannelIndex};
use sivshm_tests::process::{Process, output_of};

use super::{SOON, Scene, wait_until};

impl Scene {
    /// Starts a VMM by a command line `sivshm run VM OPTIONS`, with `complete` to say the rest. The
    /// supervisor, which is stopped, is played: it would only take note of the VMM.
    pub fn launch(&self, vm: &str, complete: impl FnOnce(&mut Command)) -> Process {
        let path = self.paths.run_dir().join("up.sock");
        let real = path.with_extension("real");
        fs::rename(&path, &real).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let mut command = self.deployment.run(vm);
        complete(&mut command);
        let process = Process::start(vm, command).unwrap();
        listener.set_nonblocking(true).unwrap();
        let accept = || listener.accept().ok();
        let (mut registrant, _) = wait_until("registration", SOON, accept);
        let mut request = String::new();
        BufReader::new(&registrant).read_line(&mut request).unwrap();
        writeln!(registrant, r#"{{"answer":"registered"}}"#).unwrap();
        fs::rename(&real, &path).unwrap();
        process
    }

    /// A program that runs in guests.
    pub fn guest_program(&self, name: &str) -> PathBuf {
        self.deployment.artifacts().guest.join(name)
    }

    /// Withdraws every SVID of a service, issues another one, and has the victim know. Says in which
    /// folder that is.
    pub fn replace_service(&self, vm: &str, service: &str) -> PathBuf {
        let folder = self.deployment.root().join("new");
        let id = format!("spiffe://{}/vm/{vm}/svc/{service}", self.trust_domain());
        let tool = |command| {
            let mut tool = Command::new(self.deployment.artifacts().bin.join("sivshm-ca"));
            tool.args([command, "--dir"]).arg(self.ca_dir());
            tool
        };
        output_of(tool("revoke").args(["--id", &id])).unwrap();
        let mut issue = tool("issue");
        issue.args(["service", vm, service, "--out"]).arg(&folder);
        output_of(&mut issue).unwrap();
        let read = |path| fs::read_to_string(path).unwrap();
        let policy = read(self.paths.policy());
        let crl = read(self.ca_dir().join("crl.pem"));
        match self.ask(&AdminRequest::Reload { policy, crl }) {
            AdminAnswer::Reloaded(_) => folder,
            other => panic!("{other:?}"),
        }
    }

    /// The one pairing of a channel.
    pub fn pairing(&self, channel: &str) -> Pairing {
        let (_, channel) = self.channel(channel);
        let reader = channel.to[0];
        let vm = self.plan.vm_at(reader.vm).unwrap().name;
        Pairing {
            channel: channel.name,
            reader: SpiffeId {
                domain: self.plan.trust_domain,
                subject: Subject::Service(vm, reader.service),
            },
        }
    }

    /// A channel's kind.
    pub fn kind(&self, channel: &str) -> Kind {
        self.channel(channel).1.kind
    }

    /// Where the data of a channel is in its slice, and how many bytes.
    pub fn range(&self, channel: &str) -> (usize, usize) {
        let (at, _) = self.channel(channel);
        let ranges = self.plan.slices.iter().flat_map(|slice| &slice.ranges);
        let mut ranges = ranges.filter(|range| range.channel == at && range.part == Part::Data);
        let range = ranges.next().unwrap();
        let usize = |number: u64| usize::try_from(number).unwrap();
        (usize(range.offset), usize(range.length))
    }

    fn channel(&self, name: &str) -> (ChannelIndex, &Channel) {
        let mut numbered = (0..).map(ChannelIndex).zip(&self.plan.channels);
        let channel = numbered.find(|(_, channel)| channel.name.as_str() == name);
        channel.unwrap_or_else(|| panic!("the policy has no `{name}`"))
    }

    /// The victim's records about the pairing of a channel, or its end.
    pub fn assert_pairing(&self, channel: &str, decision: &str, blame: &str, reason: &str) {
        let what = format!("channel {channel}");
        let record = self.wait_record(&format!("`{reason}` about {channel}"), |record| {
            record["event"] == "pairing"
                && record["what"] == what
                && record["decision"] == decision
                && record["reason"].as_str().unwrap().contains(reason)
        });
        assert_eq!(record["blame"], blame, "{record}");
        let who = record["who"].as_str().unwrap();
        assert!(who.contains("spiffe://"), "{record}");
    }
}
