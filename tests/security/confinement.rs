//! Device processes as they run under `sivshm up`, seen from outside (DESIGN section 5; invariants
//! I2, I6 and I8). How one ends that does what it must not do is tested in `device/sys/tests`,
//! under the same filter.

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::os::unix::fs::FileTypeExt as _;
    use std::process::Command;
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};

    use anyhow::{Context as _, Result, bail};
    use nix::unistd::geteuid;
    use serde_json::Value;
    use sivshm_abi::name::VmName;
    use sivshm_policy::plan::{Plan, Vm, VmIndex};
    use sivshm_tests::artifacts::Artifacts;
    use sivshm_tests::attack::{Attack, assert_blocked, attacks};
    use sivshm_tests::deployment::{Deployment, PLAIN_USER};
    use sivshm_tests::descriptors::{self, Descriptor, Object};
    use sivshm_tests::job::Job;
    use sivshm_tests::process::Process;

    /// Longest time for anything here that is waited for.
    const LIMIT: Duration = Duration::from_secs(60);

    /// More descriptors than any device process of four VMs needs.
    const MANY_FILES: u64 = 1024;

    /// The VM whose VMM runs while its device process is looked at.
    const WITH_VMM: &str = "worker-1";

    /// All device processes of one deployment.
    struct Scene {
        plan: Plan,
        development: bool,
        devices: BTreeMap<String, Device>,
        supervisor: Vec<Descriptor>,
    }

    /// What was seen of one device process.
    struct Device {
        process: u32,
        /// The user that `sivshm up` said.
        user: u64,
        status: BTreeMap<String, String>,
        limits: String,
        maps: String,
        mounts: Vec<String>,
        root: BTreeSet<String>,
        only_sockets: bool,
        /// Names of those of its namespaces that are the host's.
        shared_namespaces: Vec<&'static str>,
        descriptors: Vec<Descriptor>,
        /// What another process of its user got.
        attacks: Vec<Attack>,
    }

    /// Production and development mode; empty, with the reason printed, without root.
    fn scenes() -> &'static [Scene] {
        static SCENES: OnceLock<Result<Vec<Scene>>> = OnceLock::new();
        let scenes = SCENES.get_or_init(|| {
            if !geteuid().is_root() {
                eprintln!("skipped: only root can look at a confined process");
                return Ok(Vec::new());
            }
            Ok(vec![scene(None)?, scene(Some(PLAIN_USER))?])
        });
        match scenes {
            Ok(scenes) => scenes,
            Err(error) => panic!("{error:?}"),
        }
    }

    fn devices() -> impl Iterator<Item = (&'static Scene, &'static String, &'static Device)> {
        let scenes = scenes().iter();
        scenes.flat_map(|scene| {
            scene
                .devices
                .iter()
                .map(move |(vm, device)| (scene, vm, device))
        })
    }

    fn scene(user: Option<u32>) -> Result<Scene> {
        let job = Job {
            workers: 3,
            input: "/dev/null".into(),
            byte: 0,
            mode: "interrupt".to_owned(),
            slice_size: "256KiB".to_owned(),
        };
        let plan = sivshm_policy::compile("job", &job.policy())?;
        let mut deployment = Deployment::new(&Artifacts::from_env()?, &job.policy(), user)?;
        deployment.up()?;
        let hostile = deployment.artifacts().guest.join("hostile");
        let mut command = deployment.run(WITH_VMM);
        command
            .args(["--attach", "--"])
            .arg(&hostile)
            .args(["vmm", "hold"]);
        let mut vmm = Process::start(WITH_VMM, command)?;
        vmm.wait_event("holding", LIMIT)?;
        let (status, users) = (settled(&deployment)?, users(&mut deployment)?);
        let mut devices = BTreeMap::new();
        for line in vms(&status) {
            let name = line["name"].as_str().context("a VM without a name")?;
            let process = u32::try_from(line["device_pid"].as_u64().context("no device")?)?;
            let user = *users.get(name).context("a VM without a user")?;
            let other = twin(&hostile, process, user)?;
            devices.insert(name.to_owned(), Device::look(process, user, other)?);
        }
        let supervisor = u32::try_from(status["supervisor"].as_u64().context("no supervisor")?)?;
        let supervisor = descriptors::of(supervisor)?;
        drop(vmm);
        deployment.down()?;
        Ok(Scene {
            plan,
            development: user.is_some(),
            devices,
            supervisor,
        })
    }

    /// The status once every link is there and the launched VMM is connected.
    fn settled(deployment: &Deployment) -> Result<Value> {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            let status = deployment.status()?;
            let linked = |vm: &Value| {
                let peers = vm["device"]["peers"].as_array();
                peers.is_some_and(|peers| peers.iter().all(|peer| !peer["link"].is_null()))
            };
            let port = |vm: &Value| vm["device"]["vmm"]["port"] == true;
            if vms(&status).iter().all(linked) && vms(&status).iter().any(port) {
                return Ok(status);
            }
        }
        bail!("the device processes did not find each other")
    }

    fn vms(status: &Value) -> &[Value] {
        status["vms"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The user of each VM's device process, as `sivshm up` says.
    fn users(deployment: &mut Deployment) -> Result<BTreeMap<String, u64>> {
        let up = deployment.supervisor().context("not up")?;
        let ready = up.lines().iter().find_map(|line| {
            let ready: Value = serde_json::from_str(&line.text).ok()?;
            ready.get("ready_ms").is_some().then_some(ready)
        });
        let ready = ready.context("`sivshm up` said nothing")?;
        let users = vms(&ready).iter().filter_map(|vm| {
            let name = vm["name"].as_str()?.to_owned();
            Some((name, vm["device_uid"].as_u64()?))
        });
        Ok(users.collect())
    }

    /// Has a process of the same user try to look into a device process.
    fn twin(hostile: &std::path::Path, process: u32, user: u64) -> Result<Vec<Attack>> {
        let mut command = Command::new("setpriv");
        let (reuid, regid) = (format!("--reuid={user}"), format!("--regid={user}"));
        command.args([reuid.as_str(), regid.as_str(), "--clear-groups", "--"]);
        command
            .arg(hostile)
            .args(["device-user", &process.to_string()]);
        let mut twin = Process::start("another process of the device user", command)?;
        let status = twin.finish(LIMIT)?;
        if !status.success() {
            bail!("{status}\n{}", twin.tail());
        }
        Ok(attacks(twin.lines()))
    }

    impl Device {
        fn look(process: u32, user: u64, attacks: Vec<Attack>) -> Result<Self> {
            let proc = |file: &str| format!("/proc/{process}/{file}");
            let read = |file: &str| {
                fs::read_to_string(proc(file)).with_context(|| format!("can't read {file}"))
            };
            let status = read("status")?;
            let fields = status.lines().filter_map(|line| line.split_once(':'));
            let mut root = BTreeSet::new();
            let mut only_sockets = true;
            for entry in fs::read_dir(proc("root/"))? {
                let entry = entry?;
                only_sockets &= entry.file_type()?.is_socket();
                root.insert(entry.file_name().to_string_lossy().into_owned());
            }
            let mut shared_namespaces = Vec::new();
            for name in ["mnt", "net", "ipc", "uts", "cgroup", "user"] {
                let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{name}"));
                if of(&process.to_string())? == of("self")? {
                    shared_namespaces.push(name);
                }
            }
            Ok(Self {
                process,
                user,
                status: fields
                    .map(|(k, v)| (k.to_owned(), v.trim().to_owned()))
                    .collect(),
                limits: read("limits")?,
                maps: read("maps")?,
                mounts: read("mountinfo")?.lines().map(str::to_owned).collect(),
                root,
                only_sockets,
                shared_namespaces,
                descriptors: descriptors::of(process)?,
                attacks,
            })
        }

        /// Soft and hard bound of a resource.
        fn bound(&self, resource: &str) -> Option<(&str, &str)> {
            let line = self
                .limits
                .lines()
                .find_map(|line| line.strip_prefix(resource))?;
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?))
        }

        /// Slices that it holds.
        fn slices(&self) -> BTreeSet<u32> {
            let numbers =
                self.descriptors
                    .iter()
                    .filter_map(|descriptor| match descriptor.object {
                        Object::Slice(number) => Some(number),
                        _ => None,
                    });
            numbers.collect()
        }

        /// Doorbells that it holds, by the kernel's number.
        fn doorbells(&self) -> BTreeSet<u64> {
            let numbers =
                self.descriptors
                    .iter()
                    .filter_map(|descriptor| match descriptor.object {
                        Object::Doorbell(number) => Some(number),
                        _ => None,
                    });
            numbers.collect()
        }
    }

    impl Scene {
        fn vm(&self, name: &str) -> (VmIndex, &Vm) {
            self.plan.vm(VmName::new(name).unwrap()).unwrap()
        }

        /// The object that is slice `number`: what its writer's device process can write.
        fn identity(&self, number: u32) -> (u64, u64) {
            let writer = self.plan.slices[number as usize].writer;
            let writer = self.plan.vm_at(writer).unwrap().name.to_string();
            let mut held = self.devices[&writer].descriptors.iter();
            let own = held.find(|held| held.object == Object::Slice(number) && !held.read_only);
            own.expect("a writer without its slice").identity
        }

        /// What the plan has the device process of a VM hold of slices: object, identity, whether
        /// read-only.
        fn planned_slices(&self, name: &str) -> Vec<(Object, (u64, u64), bool)> {
            let (me, vm) = self.vm(name);
            let mut planned = Vec::new();
            for (number, slice) in (0..).zip(&self.plan.slices) {
                let object = || (Object::Slice(number), self.identity(number));
                if slice.writer == me {
                    planned.push((object().0, object().1, false));
                    let readers = slice.readers.iter();
                    planned.extend(readers.map(|_| (object().0, object().1, true)));
                }
                let takes = vm
                    .peers
                    .iter()
                    .filter(|peer| peer.takes.iter().any(|s| s.0 == number));
                planned.extend(takes.map(|_| (object().0, object().1, true)));
            }
            planned.sort();
            planned
        }
    }

    #[test]
    fn no_capability_no_group_and_no_new_privilege_is_left() {
        for (scene, vm, device) in devices() {
            let field = |name: &str| device.status[name].as_str();
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(field(set), "0000000000000000", "{vm} {set}");
            }
            assert_eq!(field("NoNewPrivs"), "1", "{vm}");
            assert_eq!(field("Seccomp"), "2", "{vm}: a filter");
            assert_eq!(field("Threads"), "1", "{vm}");
            assert_eq!(field("Groups"), "", "{vm}");
            let user = device.user.to_string();
            assert_eq!(field("Uid"), [user.as_str(); 4].join("\t"), "{vm}");
            assert_ne!(user, "0", "{vm}");
            let groups: BTreeSet<_> = field("Gid").split('\t').collect();
            assert!(
                groups.len() == 1 && !groups.contains("0"),
                "{vm}: {groups:?}"
            );
            let users: BTreeSet<_> = scene.devices.values().map(|device| device.user).collect();
            let expected = if scene.development {
                1
            } else {
                scene.devices.len()
            };
            assert_eq!(users.len(), expected, "a user for each device process");
        }
    }

    #[test]
    fn the_root_directory_shows_peers_sockets_only() {
        for (scene, vm, device) in devices() {
            let sockets = scene
                .devices
                .keys()
                .map(|vm| format!("{vm}.sock"))
                .collect();
            assert_eq!(device.root, sockets, "{vm}");
            assert!(device.only_sockets, "{vm}");
            let [mount] = device.mounts.as_slice() else {
                panic!("{vm} sees mounts {:?}", device.mounts);
            };
            assert!(
                mount.contains(" / ro,nosuid,nodev,noexec,"),
                "{vm}: {mount}"
            );
        }
    }

    #[test]
    fn namespaces_are_not_the_hosts() {
        for (scene, vm, device) in devices() {
            let shared: &[&str] = if scene.development { &[] } else { &["user"] };
            assert_eq!(device.shared_namespaces, shared, "{vm}");
        }
    }

    #[test]
    fn resources_are_bounded() {
        for (_, vm, device) in devices() {
            for nothing in ["Max core file size", "Max processes", "Max locked memory"] {
                assert_eq!(device.bound(nothing), Some(("0", "0")), "{vm} {nothing}");
            }
            for bounded in ["Max open files", "Max address space", "Max data size"] {
                let (soft, hard) = device.bound(bounded).unwrap();
                assert_eq!(soft, hard, "{vm} {bounded}");
                assert!(soft.parse::<u64>().is_ok(), "{vm} {bounded} {soft}");
            }
            let (files, _) = device.bound("Max open files").unwrap();
            assert!(files.parse::<u64>().unwrap() < MANY_FILES, "{vm}: {files}");
        }
    }

    /// It is not dumpable: to others it belongs to root.
    #[test]
    fn a_process_of_the_same_user_can_not_look_into_it() {
        for (_, _, device) in devices() {
            for what in [
                "trace",
                "copy-memory",
                "open-memory",
                "list-descriptors",
                "open-descriptor",
                "enter-root",
                "take-descriptor",
            ] {
                let name = format!("{what}-of-device-of-the-same-user");
                assert_blocked(&device.attacks, &name);
            }
        }
    }

    #[test]
    fn i6_a_device_process_maps_the_control_memory_and_no_other_shared_memory() {
        for (_, vm, device) in devices() {
            let shared: Vec<_> = device
                .maps
                .lines()
                .filter(|line| line.contains("memfd:") || line.contains("s 0"))
                .collect();
            let [control] = shared.as_slice() else {
                panic!("{vm} maps {shared:?}");
            };
            assert!(control.contains(" rw-s "), "{vm}: {control}");
            assert!(control.contains("/memfd:sivshm-control"), "{vm}: {control}");
        }
    }

    #[test]
    fn i2_a_device_process_holds_the_slices_of_its_plan_and_no_other() {
        for (scene, vm, device) in devices() {
            let slices = device
                .descriptors
                .iter()
                .filter_map(|held| match held.object {
                    Object::Slice(_) => Some((held.object.clone(), held.identity, held.read_only)),
                    _ => None,
                });
            let mut slices: Vec<_> = slices.collect();
            slices.sort();
            assert_eq!(slices, scene.planned_slices(vm), "{vm}");
        }
    }

    #[test]
    fn i2_a_device_process_holds_nothing_that_its_plan_does_not_name() {
        for (scene, vm, device) in devices() {
            let (_, planned) = scene.vm(vm);
            let peers = planned.peers.len();
            let mut others = Vec::new();
            let (mut control, mut doorbells, mut sockets) = (0, 0, 0);
            for held in &device.descriptors {
                match &held.object {
                    Object::Slice(_) => {}
                    Object::Control => control += 1,
                    Object::Doorbell(_) => doorbells += 1,
                    Object::Socket => sockets += 1,
                    Object::Other(link) => others.push(link.clone()),
                }
            }
            assert_eq!(control, 1, "{vm}");
            // The kick, vector 0, and with each peer one of its own and one of the peer's.
            assert_eq!(doorbells, 2 + 2 * peers, "{vm}: doorbells");
            // Four listeners, a link with each peer, the supervisor's watch for guests that are not
            // contained, and a launch and a port connection.
            let vmm = if vm == WITH_VMM { 2 } else { 0 };
            assert_eq!(sockets, 5 + peers + vmm, "{vm}: sockets");
            for end in [".log", ".audit.jsonl"] {
                let file = format!("/{vm}{end}");
                let at = others.iter().position(|link| link.ends_with(&file));
                others.remove(at.unwrap_or_else(|| panic!("{vm} has no {end}: {others:?}")));
            }
            others.sort();
            let expected = [
                "/dev/null".to_owned(),
                "/dev/null".to_owned(),
                format!("/proc/{}/fdinfo", device.process),
                "anon_inode:[eventpoll]".to_owned(),
                "anon_inode:[signalfd]".to_owned(),
                // Says that the host's clock was set.
                "anon_inode:[timerfd]".to_owned(),
            ];
            assert_eq!(others, expected, "{vm}");
        }
    }

    /// Two device processes share one doorbell each way if they are peers, and nothing otherwise.
    #[test]
    fn i2_doorbells_are_shared_by_peers_only() {
        for (scene, vm, device) in devices() {
            let (_, planned) = scene.vm(vm);
            for (other_vm, other) in scene.devices.iter().filter(|(other, _)| *other != vm) {
                let (other_index, _) = scene.vm(other_vm);
                let peers = planned.peers.iter().any(|peer| peer.vm == other_index);
                let shared = device.doorbells().intersection(&other.doorbells()).count();
                assert_eq!(shared, if peers { 2 } else { 0 }, "{vm} and {other_vm}");
            }
        }
    }

    #[test]
    fn i8_no_process_holds_slices_of_vms_that_it_does_not_serve() {
        for scene in scenes() {
            for (vm, device) in &scene.devices {
                let (_, planned) = scene.vm(vm);
                let windows = planned
                    .windows
                    .iter()
                    .map(|window| window.slice.0)
                    .collect();
                assert_eq!(device.slices(), windows, "{vm}");
                assert!(device.slices().len() < scene.plan.slices.len() || vm == "manager");
            }
            let centre = scene.supervisor.iter();
            let shared = centre.filter(|held| {
                matches!(
                    held.object,
                    Object::Slice(_) | Object::Control | Object::Doorbell(_)
                )
            });
            assert_eq!(
                shared.count(),
                0,
                "the supervisor holds shared memory or doorbells"
            );
        }
    }

    /// One writer: of each slice exactly one device process holds a writable descriptor.
    #[test]
    fn i1_of_each_slice_one_device_process_holds_a_writable_descriptor() {
        for scene in scenes() {
            let mut writers = BTreeMap::<_, Vec<_>>::new();
            for (vm, device) in &scene.devices {
                for held in &device.descriptors {
                    if let (Object::Slice(number), false) = (&held.object, held.read_only) {
                        writers.entry(*number).or_default().push(vm.as_str());
                    }
                }
            }
            let planned = (0..).zip(&scene.plan.slices).map(|(number, slice)| {
                let writer = scene.plan.vm_at(slice.writer).unwrap();
                (number, vec![writer.name.as_str()])
            });
            assert_eq!(writers, planned.collect());
        }
    }
}
