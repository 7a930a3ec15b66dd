//! The example policies, compiled and judged by what their comments promise.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use sivshm_abi::grant::{Access, Part};
    use sivshm_abi::name::{ServiceName, VmName};
    use sivshm_policy::plan::{Plan, PlannedGrant, Vm};

    const CAR: &str = include_str!("../../docs/examples/car.toml");
    const JOB: &str = include_str!("../../docs/examples/job.toml");

    fn compile(text: &str) -> Plan {
        sivshm_policy::compile("example.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn vm<'p>(plan: &'p Plan, name: &str) -> &'p Vm {
        plan.vm(VmName::new(name).unwrap()).unwrap().1
    }

    fn grants<'p>(plan: &'p Plan, name: &str, service: &str) -> &'p [PlannedGrant] {
        let service = ServiceName::new(service).unwrap();
        let mut services = vm(plan, name).services.iter();
        &services.find(|found| found.name == service).unwrap().grants
    }

    #[test]
    fn the_job_has_two_slices_for_each_worker() {
        let plan = compile(JOB);
        assert_eq!(plan.vms.len(), 4);
        assert_eq!(plan.slices.len(), 6);
        let manager = vm(&plan, "manager");
        assert_eq!((manager.windows.len(), manager.peers.len()), (6, 3));
        for (at, peer) in manager.peers.iter().enumerate() {
            assert_eq!(usize::from(peer.vector.0), at + 1);
            assert_eq!((peer.gives.len(), peer.takes.len()), (1, 1));
            let back = &plan.vm_at(peer.vm).unwrap().peers[0];
            assert_eq!(back.contract, peer.contract);
            assert_eq!((&back.gives, &back.takes), (&peer.takes, &peer.gives));
        }
        let worker = vm(&plan, "worker-2");
        assert_eq!((worker.windows.len(), worker.peers.len()), (2, 1));
        assert_ne!(
            worker.peers[0].contract,
            vm(&plan, "worker-1").peers[0].contract
        );
        let held: Vec<_> = grants(&plan, "worker-2", "reducer")
            .iter()
            .map(|grant| {
                (
                    grant.part,
                    grant.access,
                    grant.offset,
                    grant.length,
                    grant.peer,
                )
            })
            .collect();
        let page = 4096;
        assert_eq!(
            held,
            [
                (
                    Part::Data,
                    Access::ReadOnly,
                    page,
                    (16 << 20) - page,
                    Some(0)
                ),
                (Part::Ack(0), Access::ReadWrite, 0, page, Some(0)),
                (Part::Data, Access::ReadWrite, page, (1 << 20) - page, None),
                (Part::Ack(0), Access::ReadOnly, 0, page, Some(0)),
            ]
        );
        assert_eq!(grants(&plan, "manager", "mapper").len(), 12);
    }

    #[test]
    fn a_picture_is_written_once_for_all_its_readers() {
        let plan = compile(CAR);
        let camera = vm(&plan, "camera-3");
        assert_eq!(camera.peers.len(), 2);
        let held = grants(&plan, "camera-3", "capture");
        let pictures: Vec<_> = held
            .iter()
            .filter(|grant| grant.part == Part::Data)
            .collect();
        assert_eq!(
            pictures.len(),
            2,
            "the picture it writes and the exposure it reads"
        );
        let acks: Vec<_> = held
            .iter()
            .filter(|grant| grant.access == Access::ReadOnly)
            .collect();
        assert_eq!(acks.len(), 4, "three lines of readers and the exposure");
        assert_eq!(
            vm(&plan, "ivi")
                .windows
                .iter()
                .filter(|w| w.access.writable())
                .count(),
            5
        );
        assert!(vm(&plan, "brake").peers.len() == 2);
    }
}
