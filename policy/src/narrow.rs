//! What a newer policy takes from a plan that runs (DESIGN section 9, `docs/policy.md`, "Reload").
//!
//! A running device process can lose channels and can't gain any: memory and windows are made
//! before it confines itself.

use sivshm_abi::grant::Kind;
use sivshm_abi::name::{ServiceName, TrustDomain, VmName};

use crate::plan::{Channel, ChannelIndex, Digest, Plan, Process, Service, ServiceRef, Vm};

/// What a newer policy changes in a running plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Narrowing {
    /// The newer policy's serial number: what counts from now on.
    pub serial: u64,
    /// Its digest.
    pub digest: Digest,
    /// The channels, of the running plan, that are gone from the newer policy or differ in
    /// anything: an end, the process of an end, the kind or the size. They end for good.
    pub ended: Vec<ChannelIndex>,
    /// What the newer policy has and the running plan can't have, in words.
    pub needs_restart: Vec<String>,
}

/// Why a policy can't follow the one that runs. Nothing changes then.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NarrowError {
    /// It is of another trust domain.
    #[error("the policy is of `{0}`, which is not the trust domain that runs")]
    OtherDomain(TrustDomain),
    /// It is an older one.
    #[error(
        "the policy has serial {newer}, and {running} is in use already: a serial never goes down"
    )]
    Older {
        /// Serial in use.
        running: u64,
        /// Serial of the other one.
        newer: u64,
    },
    /// It has the number of the one in use, and another content.
    #[error(
        "the policy in use has serial {serial} too, and another content (digest {running}, this \
         one's is {newer}): count up with every change"
    )]
    SameSerial {
        /// Serial of both.
        serial: u64,
        /// Digest in use.
        running: Digest,
        /// Digest of the other one.
        newer: Digest,
    },
}

impl Plan {
    /// What a newer policy takes from this plan, which runs.
    ///
    /// A plan that has been narrowed before asks [`Narrowing::followed_by`] first: the serial in
    /// use is that of its last narrowing. What ended then stays ended, whatever `newer` says.
    ///
    /// # Errors
    /// `newer` is no newer policy of the same trust domain.
    pub fn narrowed_by(&self, newer: &Self) -> Result<Narrowing, NarrowError> {
        if self.trust_domain != newer.trust_domain {
            return Err(NarrowError::OtherDomain(newer.trust_domain));
        }
        in_order(self.serial, self.digest, newer)?;
        let lost = |channel: &Channel| {
            let counterpart = newer.channel_named(channel.name);
            !counterpart.is_some_and(|(_, new)| same(self, channel, newer, new))
        };
        let numbered = (0..=u16::MAX).map(ChannelIndex).zip(&self.channels);
        let ended = numbered.filter(|(_, channel)| lost(channel));
        Ok(Narrowing {
            serial: newer.serial,
            digest: newer.digest,
            ended: ended.map(|(index, _)| index).collect(),
            needs_restart: self.lacks(newer),
        })
    }

    /// What `newer` has and this plan has not, in words.
    fn lacks(&self, newer: &Self) -> Vec<String> {
        let mut words = Vec::new();
        for vm in &newer.vms {
            match self.vm(vm.name) {
                Some((_, own)) => own.lacks(vm, &mut words),
                None => words.push(format!("VM `{}` is new", vm.name)),
            }
        }
        for channel in &newer.channels {
            let name = channel.name;
            match self.channel_named(name) {
                Some((_, own)) if same(self, own, newer, channel) => {}
                Some(_) => words.push(format!("channel `{name}` is another one")),
                None => words.push(format!("channel `{name}` is new")),
            }
        }
        words
    }
}

impl Vm {
    fn lacks(&self, newer: &Self, words: &mut Vec<String>) {
        let vm = self.name;
        if self.uncontained != newer.uncontained {
            let word = newer.uncontained.word();
            words.push(format!("VM `{vm}` has uncontained = \"{word}\""));
        }
        for Service { name, process, .. } in &newer.services {
            match self.services.iter().find(|own| own.name == *name) {
                Some(own) if own.process == *process => {}
                Some(_) => words.push(format!("service `{vm}/{name}` has another process")),
                None => words.push(format!("service `{vm}/{name}` is new")),
            }
        }
    }
}

impl Narrowing {
    /// Whether a policy may follow the one that this narrowing comes from.
    ///
    /// # Errors
    /// It is older, or has its serial and another content.
    pub fn followed_by(&self, newer: &Plan) -> Result<(), NarrowError> {
        in_order(self.serial, self.digest, newer)
    }
}

fn in_order(serial: u64, digest: Digest, newer: &Plan) -> Result<(), NarrowError> {
    if newer.serial < serial {
        return Err(NarrowError::Older {
            running: serial,
            newer: newer.serial,
        });
    }
    if newer.serial == serial && newer.digest != digest {
        return Err(NarrowError::SameSerial {
            serial,
            running: digest,
            newer: newer.digest,
        });
    }
    Ok(())
}

/// Whether two channels of one name, of two plans, are the same in everything but their place in
/// memory.
fn same(plan: &Plan, channel: &Channel, other_plan: &Plan, other: &Channel) -> bool {
    let meaning = Meaning::of(plan, channel);
    meaning.is_some() && meaning == Meaning::of(other_plan, other)
}

/// A channel without the numbers of its plan.
#[derive(Debug, Eq, PartialEq)]
struct Meaning {
    from: End,
    /// Sorted by name, as the plan's VMs are.
    to: Vec<End>,
    kind: Kind,
    bytes: u64,
}

#[derive(Debug, Eq, PartialEq)]
struct End {
    vm: VmName,
    service: ServiceName,
    process: Process,
}

impl Meaning {
    fn of(plan: &Plan, channel: &Channel) -> Option<Self> {
        let readers = channel.to.iter().map(|reader| End::of(plan, reader));
        Some(Self {
            from: End::of(plan, &channel.from)?,
            to: readers.collect::<Option<_>>()?,
            kind: channel.kind,
            bytes: channel.bytes,
        })
    }
}

impl End {
    fn of(plan: &Plan, end: &ServiceRef) -> Option<Self> {
        let vm = plan.vm_at(end.vm)?;
        let mut services = vm.services.iter();
        let service = services.find(|service| service.name == end.service)?;
        Some(Self {
            vm: vm.name,
            service: service.name,
            process: service.process,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: &str = include_str!("../../docs/examples/car.toml");

    fn plan(text: &str) -> Plan {
        crate::compile("p.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The running policy with its serial counted up and one text replaced by another.
    fn changed(old: &str, new: &str) -> Plan {
        assert!(RUNNING.contains(old), "{old}");
        plan(
            &RUNNING
                .replacen("serial = 7", "serial = 8", 1)
                .replacen(old, new, 1),
        )
    }

    /// Names of the channels that end, and what needs a restart.
    fn narrowing(newer: &Plan) -> (Vec<String>, Vec<String>) {
        let running = plan(RUNNING);
        let Narrowing {
            serial,
            digest,
            ended,
            needs_restart,
        } = running.narrowed_by(newer).unwrap();
        assert_eq!((serial, digest), (newer.serial, newer.digest));
        let name = |index: &ChannelIndex| running.channel(*index).unwrap().name.to_string();
        (ended.iter().map(name).collect(), needs_restart)
    }

    #[test]
    fn the_same_policy_takes_nothing() {
        assert_eq!(narrowing(&plan(RUNNING)), (vec![], vec![]));
        let later = RUNNING.replace("serial = 7", "serial = 9");
        assert_eq!(narrowing(&plan(&later)), (vec![], vec![]));
    }

    #[test]
    fn a_channel_that_differs_in_anything_ends() {
        let pictures = ["picture-1", "picture-2", "picture-3", "picture-4"];
        for (old, new, ended, more) in [
            (
                "size = \"64KiB\"",
                "size = \"128KiB\"",
                &["brake-command"][..],
                0,
            ),
            ("slot = \"96B\"", "slot = \"97B\"", &["brake-command"], 0),
            ("integrity = \"aead\"", "", &["brake-command"], 0),
            (
                "integrity = \"aead\"",
                "overflow = \"overwrite\"",
                &["brake-command"],
                0,
            ),
            (
                "[\"assist/planner\", \"ivi/screen\"]",
                "[\"assist/planner\"]",
                &["brake-state"],
                0,
            ),
            ("\"assist/recorder\", ", "", &pictures, 0),
            (
                "uid = 990",
                "uid = 991",
                &["brake-command", "brake-state"],
                1,
            ),
            (
                "uid = 990 ",
                &format!("uid = 990, exe_sha256 = \"{}\"", "ab".repeat(32)),
                &["brake-command", "brake-state"],
                1,
            ),
        ] {
            let (lost, words) = narrowing(&changed(old, new));
            assert_eq!(lost, ended, "{new}");
            assert_eq!(words.len(), ended.len() + more, "{new}: {words:?}");
            let another = format!("channel `{}` is another one", ended[0]);
            assert!(words.contains(&another), "{words:?}");
        }
    }

    /// Everything of the VM that is gone moves to other places, numbers of slices and windows too.
    #[test]
    fn what_is_gone_ends_and_nothing_else() {
        let fewer = RUNNING
            .replace("camera-{1..4}", "camera-{2..4}")
            .replace("serial = 7", "serial = 70");
        let (ended, words) = narrowing(&plan(&fewer));
        assert_eq!(ended, ["exposure", "picture-1"]);
        assert_eq!(words, ["channel `exposure` is another one"]);
    }

    #[test]
    fn what_is_new_needs_a_restart() {
        let newer = changed(
            "[[service]]",
            "[[vm]]\nname = \"radio\"\n[[service]]\nvm = \"brake\"\nname = \"log\"\n\
             process = { uid = 7 }\n[[channel]]\nname = \"a\"\nfrom = \"brake/log\"\n\
             to = [\"ivi/screen\"]\nkind = \"region\"\nsize = \"8KiB\"\n[[service]]",
        );
        let (ended, words) = narrowing(&newer);
        assert_eq!(ended, [""; 0]);
        assert_eq!(
            words,
            [
                "service `brake/log` is new",
                "VM `radio` is new",
                "channel `a` is new"
            ]
        );
        let (ended, words) = narrowing(&changed("uncontained = \"end-vmm\" ", "#"));
        assert_eq!(ended, [""; 0]);
        assert_eq!(words, ["VM `ivi` has uncontained = \"show\""]);
    }

    #[test]
    fn a_policy_that_is_not_newer_is_refused() {
        let running = plan(RUNNING);
        let older = plan(&RUNNING.replace("serial = 7", "serial = 6"));
        assert_eq!(
            running.narrowed_by(&older),
            Err(NarrowError::Older {
                running: 7,
                newer: 6
            })
        );
        let other = plan(&RUNNING.replace("uid = 990", "uid = 991"));
        assert!(matches!(
            running.narrowed_by(&other),
            Err(NarrowError::SameSerial { serial: 7, .. })
        ));
        let foreign = plan(&RUNNING.replace("car.example", "bus.example"));
        assert!(matches!(
            running.narrowed_by(&foreign),
            Err(NarrowError::OtherDomain(_))
        ));
    }

    /// The plan that runs is still the first one; the serial that counts is the last one's.
    #[test]
    fn a_narrowed_plan_does_not_go_back() {
        let running = plan(RUNNING);
        let at = |serial: &str| plan(&RUNNING.replace("serial = 7", serial));
        let narrowing = running.narrowed_by(&at("serial = 9")).unwrap();
        assert!(running.narrowed_by(&at("serial = 8")).is_ok());
        assert!(matches!(
            narrowing.followed_by(&at("serial = 8")),
            Err(NarrowError::Older { running: 9, .. })
        ));
        assert_eq!(narrowing.followed_by(&at("serial = 9")), Ok(()));
        assert_eq!(narrowing.followed_by(&at("serial = 10")), Ok(()));
    }
}
