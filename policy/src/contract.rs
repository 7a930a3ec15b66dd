//! Canonical bytes of plans and of the contracts between two VMs, and their digests
//! (`docs/policy.md`, "Canonical bytes").

use std::collections::BTreeSet;

use ring::digest::{Context, SHA256};
use sivshm_abi::directory::SliceId;
use sivshm_abi::grant::{Integrity, Kind, Part};
use sivshm_abi::name::{ServiceName, TrustDomain, VmName};

use crate::plan::{
    Channel, ChannelIndex, Digest, Process, ServiceRef, Slice, Uncontained, VmIndex,
};

/// First field of a contract's canonical bytes.
const CONTRACT_LABEL: &str = "sivshm contract v1";

/// First field of a plan's canonical bytes.
const PLAN_LABEL: &str = "sivshm plan v1";

/// Everything that a policy decides. Windows, peers, vectors and grants follow from it.
///
/// Every index in it and every one given to its functions is one of this very policy.
#[derive(Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) serial: u64,
    /// By index.
    pub(crate) vms: Vec<VmTerms>,
    pub(crate) channels: &'a [Channel],
    pub(crate) slices: &'a [Slice],
}

/// What a policy decides of one VM, its channels apart.
#[derive(Debug)]
pub(crate) struct VmTerms {
    pub(crate) name: VmName,
    pub(crate) uncontained: Uncontained,
    /// Sorted by name.
    pub(crate) services: Vec<(ServiceName, Process)>,
}

impl Terms<'_> {
    /// Digest of everything.
    pub(crate) fn plan_digest(&self) -> Digest {
        let mut to = Encoder::new(PLAN_LABEL);
        self.heading(&mut to);
        to.count(self.vms.len());
        for vm in &self.vms {
            to.text(vm.name.as_str());
            to.text(vm.uncontained.word());
            to.count(vm.services.len());
            for (service, process) in &vm.services {
                to.text(service.as_str());
                to.process(process);
            }
        }
        to.count(self.channels.len());
        for channel in self.channels {
            self.channel(&mut to, channel);
        }
        to.count(self.slices.len());
        for (id, slice) in (0..).zip(self.slices) {
            self.slice(&mut to, SliceId(id), slice);
        }
        to.finish()
    }

    /// Digest of what concerns two VMs: the channels that have an end in each, and the slices that
    /// one of them writes and the other reads. The order of the two does not matter.
    pub(crate) fn contract_digest(
        &self,
        ends: [VmIndex; 2],
        channels: &BTreeSet<ChannelIndex>,
        slices: &BTreeSet<SliceId>,
    ) -> Digest {
        let [first, second] = ends;
        let mut to = Encoder::new(CONTRACT_LABEL);
        self.heading(&mut to);
        to.text(self.vm(first.min(second)));
        to.text(self.vm(first.max(second)));
        to.count(channels.len());
        for index in channels {
            if let Some(channel) = self.channels.get(usize::from(index.0)) {
                self.channel(&mut to, channel);
            }
        }
        to.count(slices.len());
        for id in slices {
            let slice = usize::try_from(id.0)
                .ok()
                .and_then(|at| self.slices.get(at));
            if let Some(slice) = slice {
                self.slice(&mut to, *id, slice);
            }
        }
        to.finish()
    }

    fn heading(&self, to: &mut Encoder) {
        to.text(self.trust_domain.as_str());
        to.int(self.serial);
    }

    fn vm(&self, index: VmIndex) -> &str {
        let vm = self.vms.get(usize::from(index.0));
        vm.map_or("", |vm| vm.name.as_str())
    }

    fn channel(&self, to: &mut Encoder, channel: &Channel) {
        to.text(channel.name.as_str());
        let (kind, slot_bytes, overwrite, integrity) = match channel.kind {
            Kind::Region => ("region", 0, false, Integrity::None),
            Kind::Ring {
                slot_bytes,
                overwrite,
                integrity,
            } => ("ring", slot_bytes, overwrite, integrity),
        };
        to.text(kind);
        to.int(slot_bytes.into());
        to.int(overwrite.into());
        to.text(integrity.word());
        to.int(channel.bytes);
        self.end(to, &channel.from);
        to.count(channel.to.len());
        for reader in &channel.to {
            self.end(to, reader);
        }
    }

    fn end(&self, to: &mut Encoder, end: &ServiceRef) {
        to.text(self.vm(end.vm));
        to.text(end.service.as_str());
        let vm = self.vms.get(usize::from(end.vm.0));
        let process = vm.and_then(|vm| {
            let mut services = vm.services.iter();
            services.find(|(name, _)| *name == end.service)
        });
        if let Some((_, process)) = process {
            to.process(process);
        }
    }

    fn slice(&self, to: &mut Encoder, id: SliceId, slice: &Slice) {
        to.int(id.0.into());
        to.text(self.vm(slice.writer));
        to.count(slice.readers.len());
        for reader in &slice.readers {
            to.text(self.vm(*reader));
        }
        to.int(slice.bytes);
        to.count(slice.ranges.len());
        for range in &slice.ranges {
            let channel = self.channels.get(usize::from(range.channel.0));
            to.text(channel.map_or("", |channel| channel.name.as_str()));
            to.int(match range.part {
                Part::Data => 0,
                Part::Ack(reader) => 1 + u64::from(reader),
            });
            to.int(range.offset);
            to.int(range.length);
        }
    }
}

/// Digests fields, each after its length, so that no two lists of fields have the same bytes.
struct Encoder(Context);

impl Encoder {
    fn new(label: &str) -> Self {
        let mut encoder = Self(Context::new(&SHA256));
        encoder.text(label);
        encoder
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.field(text.as_bytes());
    }

    fn int(&mut self, value: u64) {
        self.field(&value.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.int(count as u64);
    }

    fn process(&mut self, process: &Process) {
        self.int(process.uid.into());
        match process.exe_sha256 {
            Some(digest) => self.field(&digest.0),
            None => self.field(&[]),
        }
    }

    fn finish(self) -> Digest {
        let mut digest = [0; 32];
        let value = self.0.finish();
        for (to, from) in digest.iter_mut().zip(value.as_ref()) {
            *to = *from;
        }
        Digest(digest)
    }
}
