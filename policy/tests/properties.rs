//! What holds for every plan, whatever the policy (DESIGN section 3, `docs/policy.md`).
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use proptest::sample::Index;
    use sivshm_abi::channel::slot_count;
    use sivshm_abi::grant::{Access, INTEGRITIES, Kind, Part};
    use sivshm_abi::limits::{MAX_SLICE_BYTES, PAGE_BYTES};
    use sivshm_policy::compile;
    use sivshm_policy::plan::{Channel, ChannelIndex, Plan, ServiceRef, Uncontained, VmIndex};

    const HEAD: &str = "version = 1\ntrust_domain = \"t.example\"\nserial = 3\n";

    const SERVICES: usize = 2;

    #[derive(Clone, Debug)]
    struct ChannelSpec {
        from: (Index, usize),
        to: Vec<(Index, usize)>,
        size_bits: u32,
        slot: Option<u32>,
        integrity: Index,
    }

    fn channel() -> impl Strategy<Value = ChannelSpec> {
        let end = || (any::<Index>(), 0..SERVICES);
        let slot = prop::option::of(1_u32..1000);
        let readers = prop::collection::vec(end(), 1..5);
        (end(), readers, 13_u32..20, slot, any::<Index>()).prop_map(
            |(from, to, size_bits, slot, integrity)| ChannelSpec {
                from,
                to,
                size_bits,
                slot,
                integrity,
            },
        )
    }

    /// The tables of a valid policy.
    fn tables() -> impl Strategy<Value = Vec<String>> {
        (2_usize..7, prop::collection::vec(channel(), 0..12)).prop_map(|(vms, channels)| {
            let mut tables = Vec::new();
            for vm in 0..vms {
                let what = Uncontained::ALL[vm % Uncontained::ALL.len()].word();
                tables.push(format!(
                    "[[vm]]\nname = \"v-{vm}\"\nuncontained = \"{what}\"\n"
                ));
                for service in 0..SERVICES {
                    tables.push(format!(
                        "[[service]]\nvm = \"v-{vm}\"\nname = \"s-{service}\"\n\
                         process = {{ uid = {service} }}\n"
                    ));
                }
            }
            for (number, spec) in channels.iter().enumerate() {
                tables.extend(spec.table(number, vms));
            }
            tables
        })
    }

    impl ChannelSpec {
        /// The table; none if no end is in another VM than the writer.
        fn table(&self, number: usize, vms: usize) -> Option<String> {
            let place = |end: &(Index, usize)| (end.0.index(vms), end.1);
            let from = place(&self.from);
            let to: BTreeSet<_> = self
                .to
                .iter()
                .map(place)
                .filter(|to| to.0 != from.0)
                .collect();
            let to: Vec<_> = to
                .iter()
                .map(|(vm, s)| format!("\"v-{vm}/s-{s}\""))
                .collect();
            let kind = match self.slot {
                Some(slot) => {
                    // `aead` is the last of them and not for several readers.
                    let suites = INTEGRITIES.len() - usize::from(to.len() > 1);
                    let (_, _, word) = INTEGRITIES[self.integrity.index(suites)];
                    format!("kind = \"ring\"\nslot = \"{slot}B\"\nintegrity = \"{word}\"")
                }
                None => "kind = \"region\"".to_owned(),
            };
            (!to.is_empty()).then(|| {
                format!(
                    "[[channel]]\nname = \"c-{number}\"\nfrom = \"v-{}/s-{}\"\nto = [{}]\n{kind}\n\
                     size = \"{}B\"\n",
                    from.0,
                    from.1,
                    to.join(", "),
                    1_u64 << self.size_bits
                )
            })
        }
    }

    fn plan(tables: &[String]) -> Plan {
        let text = format!("{HEAD}{}", tables.concat());
        compile("p.toml", &text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
    }

    proptest! {
        #[test]
        fn the_order_of_the_file_changes_nothing(
            (tables, shuffled) in tables().prop_flat_map(|t| (Just(t.clone()), Just(t).prop_shuffle())),
        ) {
            prop_assert_eq!(plan(&tables), plan(&shuffled));
        }

        #[test]
        fn i1_one_writer_for_every_page_that_is_granted(tables in tables()) {
            let plan = plan(&tables);
            let mut writers = BTreeMap::new();
            for (index, vm) in plan.vms.iter().enumerate() {
                for grant in vm.services.iter().flat_map(|service| &service.grants) {
                    let window = vm.windows[usize::from(grant.window)];
                    let slice = plan.slice(window.slice).unwrap();
                    if grant.access.writable() {
                        prop_assert_eq!(window.access, Access::ReadWrite);
                        prop_assert_eq!(usize::from(slice.writer.0), index);
                        for page in (grant.offset..grant.offset + grant.length).step_by(4096) {
                            let first = writers.insert((window.slice, page), (index, grant.channel));
                            prop_assert_eq!(first, None, "two grants write one page");
                        }
                    }
                }
                for window in &vm.windows {
                    let slice = plan.slice(window.slice).unwrap();
                    prop_assert_eq!(window.access.writable(), usize::from(slice.writer.0) == index);
                }
            }
        }

        #[test]
        fn ranges_are_pages_of_their_slice_without_overlap(tables in tables()) {
            let plan = plan(&tables);
            for slice in &plan.slices {
                prop_assert!(slice.bytes.is_power_of_two() && slice.bytes <= MAX_SLICE_BYTES);
                prop_assert!(!slice.readers.contains(&slice.writer));
                prop_assert!(slice.readers.is_sorted_by(|a, b| a < b));
                let mut end = 0;
                for range in &slice.ranges {
                    prop_assert!(range.offset >= end && range.length > 0);
                    prop_assert_eq!((range.offset % PAGE_BYTES, range.length % PAGE_BYTES), (0, 0));
                    end = range.offset + range.length;
                    let kind = plan.channel(range.channel).unwrap().kind;
                    if let (Part::Data, Kind::Ring { slot_bytes, integrity, .. }) = (range.part, kind) {
                        prop_assert!(slot_count(range.length, slot_bytes, integrity).is_some());
                    }
                }
                prop_assert!(end <= slice.bytes);
            }
            let sharing: BTreeSet<_> = plan.slices.iter().map(|s| (s.writer, &s.readers)).collect();
            prop_assert_eq!(sharing.len(), plan.slices.len(), "two slices could be one");
        }

        #[test]
        fn i2_no_vm_has_a_window_without_a_grant(tables in tables()) {
            let plan = plan(&tables);
            for vm in &plan.vms {
                let grants = vm.services.iter().flat_map(|service| &service.grants);
                let used: BTreeSet<_> = grants.map(|grant| grant.window).collect();
                let all: BTreeSet<_> = (0_u16..).zip(&vm.windows).map(|(at, _)| at).collect();
                prop_assert_eq!(used, all);
            }
        }

        #[test]
        fn every_end_of_every_channel_has_its_grants(tables in tables()) {
            let plan = plan(&tables);
            let held = |end: &sivshm_policy::plan::ServiceRef, channel: usize| {
                let vm = plan.vm_at(end.vm).unwrap();
                let service = vm.services.iter().find(|s| s.name == end.service).unwrap();
                let grants = service.grants.iter().filter(|g| usize::from(g.channel.0) == channel);
                let facts = grants.map(|g| {
                    let slice = plan.slice(vm.windows[usize::from(g.window)].slice).unwrap();
                    let in_plan = slice.ranges.iter().any(|range| {
                        (range.channel, range.part) == (g.channel, g.part)
                            && (range.offset, range.length) == (g.offset, g.length)
                    });
                    assert!(in_plan, "{g:?}");
                    let peer = g.peer.map(|peer| vm.peers[usize::from(peer)].vm);
                    (g.part, g.access, peer)
                });
                facts.collect::<Vec<_>>()
            };
            for (index, channel) in plan.channels.iter().enumerate() {
                let mut expected = vec![(Part::Data, Access::ReadWrite, None)];
                for (number, reader) in (0..).zip(&channel.to) {
                    expected.push((Part::Ack(number), Access::ReadOnly, Some(reader.vm)));
                    let readers = vec![
                        (Part::Data, Access::ReadOnly, Some(channel.from.vm)),
                        (Part::Ack(number), Access::ReadWrite, Some(channel.from.vm)),
                    ];
                    prop_assert_eq!(held(reader, index), readers);
                }
                prop_assert_eq!(held(&channel.from, index), expected);
            }
        }

        #[test]
        fn links_are_the_same_from_both_ends(tables in tables()) {
            let plan = plan(&tables);
            let mut contracts = BTreeSet::new();
            for (index, vm) in (0..).map(VmIndex).zip(&plan.vms) {
                prop_assert!(vm.peers.is_sorted_by(|a, b| a.vm < b.vm));
                prop_assert!(vm.windows.is_sorted_by(|a, b| a.slice < b.slice));
                for (number, peer) in (1..).zip(&vm.peers) {
                    prop_assert_eq!(peer.vector.0, number);
                    let other = plan.vm_at(peer.vm).unwrap();
                    let back = other.peers.iter().find(|peer| peer.vm == index).unwrap();
                    prop_assert_eq!(back.contract, peer.contract);
                    prop_assert_eq!(&back.gives, &peer.takes);
                    prop_assert_eq!(&back.takes, &peer.gives);
                    prop_assert!(!peer.gives.is_empty() && !peer.takes.is_empty());
                    if index < peer.vm {
                        prop_assert!(contracts.insert(peer.contract.0), "two equal contracts");
                    }
                }
            }
        }

        #[test]
        fn a_never_rule_holds_or_the_policy_is_refused(
            tables in tables(),
            from in 0_usize..2,
            to in 0_usize..2,
        ) {
            let breaks = plan(&tables).channels.iter().any(|channel| {
                let reads = channel.to.iter().any(|reader| usize::from(reader.vm.0) == to);
                usize::from(channel.from.vm.0) == from && reads
            });
            let rule = format!("[[never]]\nfrom = \"v-{from}\"\nto = \"v-{to}\"\nreason = \"r\"\n");
            let refused = compile("p", &format!("{HEAD}{}{rule}", tables.concat())).is_err();
            prop_assert_eq!(refused, breaks);
        }

        #[test]
        fn any_change_of_a_channel_changes_the_digests_of_its_link_only(tables in tables()) {
            let before = plan(&tables);
            let mut changed = tables.clone();
            let Some(table) = changed.iter_mut().find(|table| table.contains("kind = \"region\"")) else {
                return Ok(());
            };
            *table = table.replace("\"region\"", "\"ring\"\nslot = \"64B\"");
            let after = plan(&changed);
            prop_assert_ne!(before.digest, after.digest);
            let differs = |channel: &(_, _)| channel.0 != channel.1;
            let channel = before.channels.iter().zip(&after.channels).find(differs).unwrap().0;
            for (index, (old, new)) in before.vms.iter().zip(&after.vms).enumerate() {
                for (peer, now) in old.peers.iter().zip(&new.peers) {
                    let pair = [index, usize::from(peer.vm.0)];
                    let writes = pair.contains(&usize::from(channel.from.vm.0));
                    let reads = channel.to.iter().any(|to| pair.contains(&usize::from(to.vm.0)));
                    prop_assert_eq!(peer.contract != now.contract, writes && reads);
                }
            }
        }

        #[test]
        fn a_narrowing_keeps_what_the_newer_policy_grants_and_nothing_else(
            tables in tables(),
            edits in prop::collection::vec((any::<Index>(), 0..3_u8), 0..6),
        ) {
            let running = plan(&tables);
            let mut edited = tables.clone();
            let mut touched = BTreeSet::new();
            for (at, edit) in edits {
                let table = &mut edited[at.index(tables.len())];
                // Removing a VM or service would break what refers to it.
                if !table.starts_with("[[channel]]") {
                    continue;
                }
                touched.insert(at.index(tables.len()));
                match edit {
                    0 => table.push_str("# said again\n"),
                    1 => *table = table.replace("s-0", "s-?").replace("s-1", "s-0").replace("s-?", "s-1"),
                    _ => table.clear(),
                }
            }
            let later = HEAD.replace("serial = 3", "serial = 4");
            let newer = compile("p.toml", &format!("{later}{}", edited.concat())).unwrap();
            let narrowing = running.narrowed_by(&newer).unwrap();
            // In names: the two plans have different numbers.
            let meaning = |plan: &Plan, channel: &Channel| {
                let end = |end: &ServiceRef| {
                    let vm = plan.vm_at(end.vm).unwrap();
                    let process = vm.services.iter().find(|s| s.name == end.service).unwrap().process;
                    (vm.name, end.service, process)
                };
                let to: Vec<_> = channel.to.iter().map(end).collect();
                (channel.name, end(&channel.from), to, channel.kind, channel.bytes)
            };
            let granted: Vec<_> = newer.channels.iter().map(|c| meaning(&newer, c)).collect();
            for (index, channel) in (0..).map(ChannelIndex).zip(&running.channels) {
                let kept = !narrowing.ended.contains(&index);
                prop_assert_eq!(kept, granted.contains(&meaning(&running, channel)), "{:?}", channel);
            }
            prop_assert!(narrowing.ended.len() <= touched.len());
            let again = newer.narrowed_by(&newer).unwrap();
            prop_assert_eq!((again.ended, again.needs_restart), (vec![], vec![]));
            prop_assert!(newer.narrowed_by(&running).is_err());
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = compile("p", &text).map_err(|errors| errors.to_string());
        }

        #[test]
        fn mutated_policies_never_panic_and_errors_have_places(
            tables in tables(),
            edits in prop::collection::vec((any::<Index>(), "[a-z0-9{}\\[\\]\"=.*/ \n-]{0,3}"), 1..4),
        ) {
            let mut text: Vec<char> = format!("{HEAD}{}", tables.concat()).chars().collect();
            for (at, new) in edits {
                let at = at.index(text.len());
                text.splice(at..=at, new.chars());
            }
            let text: String = text.into_iter().collect();
            if let Err(errors) = compile("p", &text) {
                prop_assert!(!errors.diagnostics.is_empty());
                for error in &errors.diagnostics {
                    prop_assert!(error.place.line <= text.matches('\n').count() + 1);
                    prop_assert!(error.place.marked <= error.place.text.chars().count());
                }
                prop_assert!(errors.to_string().contains("nothing of this file is used"));
            }
        }
    }

    #[test]
    fn every_vm_of_the_largest_policy_can_talk_to_every_other() {
        let mut text = format!(
            "{HEAD}[[vm]]\nname = \"v-{{0..255}}\"\n[[service]]\nvm = \"v-{{n}}\"\nname = \"s\"\n\
             process = {{ uid = 1 }}\n"
        );
        for (from, to) in (0..256).flat_map(|from| (0..256).map(move |to| (from, to))) {
            if from != to {
                text += &format!(
                    "[[channel]]\nname = \"c-{from}-{to}\"\nfrom = \"v-{from}/s\"\n\
                     to = [\"v-{to}/s\"]\nkind = \"region\"\nsize = \"8KiB\"\n"
                );
            }
        }
        let plan = compile("p.toml", &text).unwrap();
        assert_eq!(plan.channels.len(), 256 * 255);
        for vm in &plan.vms {
            assert_eq!((vm.peers.len(), vm.windows.len()), (255, 510));
            assert_eq!(vm.services[0].grants.len(), 1020);
        }
    }
}
