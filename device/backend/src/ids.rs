//! Users and groups given to VMs, kept across restarts (DESIGN section 5).
//!
//! Each VM has one user for its device process and one user and group for its VMM; each trust
//! domain has one group for its device processes. A number that was ever given to a VM is never
//! given to another one, because something of the first VM may still be alive.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{getegid, geteuid};
use serde::{Deserialize, Serialize};
use sivshm_abi::name::{TrustDomain, VmName};

/// First number given to anybody unless the operator says otherwise: above what distributions give
/// to people and packages, between systemd's dynamic users (61184 to 65519 and above 524288).
pub const FIRST_ID: u32 = 70_000;

/// Numbers in the range from the first: 256 VMs with two numbers each in 50 trust domains fit.
pub const RANGE: u32 = 30_000;

/// Why the users and groups of VMs are not known.
#[derive(Debug, thiserror::Error)]
pub enum IdsError {
    /// The file can't be read or written.
    #[error("host: can't {verb} the file of user ids {path}; check its owner and directory")]
    File {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not what [`IdMap::store`] writes.
    #[error("host: the file of user ids {path} is damaged; restore it, don't delete it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// Every number of the range was given away, or a number above it.
    #[error("host: no user id is left among the {RANGE} from {first}; begin higher")]
    Exhausted {
        /// First number of the range.
        first: u32,
    },
}

/// Users and groups of all VMs of a host.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IdMap {
    domains: BTreeMap<String, DomainIds>,
}

/// Users and groups of one trust domain.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DomainIds {
    /// Group of all device processes.
    pub device_gid: u32,
    vms: BTreeMap<String, VmIds>,
}

/// Users and groups of one VM.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VmIds {
    /// User of its device process.
    pub device_uid: u32,
    /// User of its VMM.
    pub vmm_uid: u32,
    /// Group of its VMM, which its slices belong to.
    pub vmm_gid: u32,
}

impl DomainIds {
    /// The numbers of a VM, if it was given some.
    #[must_use]
    pub fn vm(&self, name: VmName) -> Option<VmIds> {
        self.vms.get(name.as_str()).copied()
    }
}

impl IdMap {
    /// Reads the file; one that does not exist is an empty map.
    ///
    /// # Errors
    /// The file can't be read or is damaged.
    pub fn load(path: &Path) -> Result<Self, IdsError> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other.map_err(file_error("read", path))?,
        };
        serde_json::from_slice(&text).map_err(|source| IdsError::Damaged {
            path: path.to_owned(),
            source,
        })
    }

    /// Replaces the file in one step. Callers that may run at the same time take a lock first.
    ///
    /// # Errors
    /// The directory can't be written.
    pub fn store(&self, path: &Path) -> Result<(), IdsError> {
        let write = || -> io::Result<()> {
            let beside = path.with_extension("new");
            let mut file = fs::File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o644)
                .open(&beside)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&beside, path)
        };
        write().map_err(file_error("write", path))
    }

    /// The numbers of a trust domain, if it was given some.
    #[must_use]
    pub fn domain(&self, domain: TrustDomain) -> Option<&DomainIds> {
        self.domains.get(domain.as_str())
    }

    /// Gives numbers from `first` up to the trust domain and to those of its VMs that have none yet.
    ///
    /// # Errors
    /// [`IdsError::Exhausted`]; the map is not worth storing then.
    pub fn allocate(
        &mut self,
        domain: TrustDomain,
        vms: impl IntoIterator<Item = VmName>,
        first: u32,
    ) -> Result<(), IdsError> {
        let behind = self.highest().map(|id| id.saturating_add(1));
        let mut next = behind.unwrap_or_default().max(first);
        let end = first.saturating_add(RANGE);
        let mut fresh = || {
            let id = next;
            next = id.saturating_add(1);
            if id < end {
                Ok(id)
            } else {
                Err(IdsError::Exhausted { first })
            }
        };
        let ids = match self.domains.entry(domain.as_str().to_owned()) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => new.insert(DomainIds {
                device_gid: fresh()?,
                vms: BTreeMap::new(),
            }),
        };
        for vm in vms {
            if ids.vm(vm).is_none() {
                let (device, vmm) = (fresh()?, fresh()?);
                let numbers = VmIds {
                    device_uid: device,
                    vmm_uid: vmm,
                    vmm_gid: vmm,
                };
                ids.vms.insert(vm.as_str().to_owned(), numbers);
            }
        }
        Ok(())
    }

    /// Development mode: everybody is the current user, so nobody is kept from anybody.
    #[must_use]
    pub fn development(domain: TrustDomain, vms: impl IntoIterator<Item = VmName>) -> Self {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let numbers = VmIds {
            device_uid: uid,
            vmm_uid: uid,
            vmm_gid: gid,
        };
        let vms = vms.into_iter().map(|vm| (vm.as_str().to_owned(), numbers));
        let ids = DomainIds {
            device_gid: gid,
            vms: vms.collect(),
        };
        Self {
            domains: BTreeMap::from([(domain.as_str().to_owned(), ids)]),
        }
    }

    /// The highest number given away.
    fn highest(&self) -> Option<u32> {
        let of_vm = |ids: &VmIds| ids.device_uid.max(ids.vmm_uid).max(ids.vmm_gid);
        let of_domain = |ids: &DomainIds| {
            let vms = ids.vms.values().map(of_vm).max();
            ids.device_gid.max(vms.unwrap_or_default())
        };
        self.domains.values().map(of_domain).max()
    }
}

fn file_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdsError {
    let path = path.to_owned();
    move |source| IdsError::File { verb, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[&str]) -> Vec<VmName> {
        of.iter().map(|name| VmName::new(name).unwrap()).collect()
    }

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::new(name).unwrap()
    }

    #[test]
    fn nobody_shares_a_number_even_across_trust_domains() {
        let mut map = IdMap::default();
        map.allocate(domain("a"), names(&["x", "y"]), FIRST_ID)
            .unwrap();
        map.allocate(domain("b"), names(&["x"]), FIRST_ID).unwrap();
        let mut all = Vec::new();
        for ids in map.domains.values() {
            all.push(ids.device_gid);
            all.extend(ids.vms.values().flat_map(|vm| [vm.device_uid, vm.vmm_uid]));
        }
        all.sort_unstable();
        assert_eq!(all, (FIRST_ID..FIRST_ID + 8).collect::<Vec<_>>());
    }

    #[test]
    fn a_vm_keeps_its_numbers_and_a_new_one_gets_fresh_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.json");
        let mut map = IdMap::load(&path).unwrap();
        map.allocate(domain("a"), names(&["x", "gone"]), FIRST_ID)
            .unwrap();
        map.store(&path).unwrap();
        let mut later = IdMap::load(&path).unwrap();
        assert_eq!(later, map);
        later
            .allocate(domain("a"), names(&["new", "x"]), FIRST_ID)
            .unwrap();
        let ids = later.domain(domain("a")).unwrap();
        let vm = |name: &str| ids.vm(VmName::new(name).unwrap()).unwrap();
        assert_eq!(
            Some(vm("x")),
            map.domain(domain("a")).unwrap().vm(names(&["x"])[0])
        );
        assert!(vm("new").device_uid > vm("gone").vmm_uid);
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.json");
        fs::write(&path, "{}").unwrap();
        assert!(matches!(IdMap::load(&path), Err(IdsError::Damaged { .. })));
    }

    #[test]
    fn numbers_run_out_with_an_error() {
        let mut map = IdMap::default();
        let many = (0..16_000).map(|n| VmName::new(&format!("v{n}")).unwrap());
        assert!(matches!(
            map.allocate(domain("a"), many, FIRST_ID),
            Err(IdsError::Exhausted { first: FIRST_ID })
        ));
        map.allocate(domain("b"), [], 200_000).unwrap();
        assert_eq!(map.domain(domain("b")).unwrap().device_gid, 200_000);
    }
}
