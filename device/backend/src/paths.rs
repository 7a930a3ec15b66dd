//! Where everything of a trust domain lies below a root directory (DESIGN section 15).

use std::path::{Path, PathBuf};

use sivshm_abi::name::{ServiceName, TrustDomain, VmName};

/// The places of one trust domain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Paths {
    run: PathBuf,
    config: PathBuf,
    state: PathBuf,
    log: PathBuf,
}

/// One of the four directories of sockets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SocketDir {
    /// For other VMs' device processes.
    Peer,
    /// For the VM's own VMM.
    Port,
    /// For whoever starts the VMM.
    Launch,
    /// For operators.
    Admin,
}

impl SocketDir {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Peer, Self::Port, Self::Launch, Self::Admin];

    const fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Port => "port",
            Self::Launch => "launch",
            Self::Admin => "admin",
        }
    }
}

/// File name of a VM's socket in each [`SocketDir`].
#[must_use]
pub fn socket_name(vm: VmName) -> String {
    format!("{vm}.sock")
}

impl Paths {
    /// The places of `domain` below `root`, which is `/` on a production host.
    #[must_use]
    pub fn new(root: &Path, domain: TrustDomain) -> Self {
        let below = |place: &str| root.join(place).join(domain.as_str());
        Self {
            run: below("run/sivshm"),
            config: below("etc/sivshm"),
            state: root.join("var/lib/sivshm"),
            log: below("var/log/sivshm"),
        }
    }

    /// The directory of sockets and of the supervisor's state; gone after a boot.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// A directory of sockets.
    #[must_use]
    pub fn socket_dir(&self, of: SocketDir) -> PathBuf {
        self.run.join(of.name())
    }

    /// A VM's socket.
    #[must_use]
    pub fn socket(&self, of: SocketDir, vm: VmName) -> PathBuf {
        self.socket_dir(of).join(socket_name(vm))
    }

    /// The supervisor's state: which processes serve which VM.
    #[must_use]
    pub fn supervisor_state(&self) -> PathBuf {
        self.run.join("state.json")
    }

    /// Users and groups given to VMs: one file for all trust domains of the host, because two
    /// domains must not share a user.
    #[must_use]
    pub fn ids(&self) -> PathBuf {
        self.state.join("ids.json")
    }

    /// The policy file, unless another one is named.
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        self.config.join("policy.toml")
    }

    /// The directory of the certification authority.
    #[must_use]
    pub fn ca_dir(&self) -> PathBuf {
        self.config.join("ca")
    }

    /// The trust bundle, PEM.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.config.join("bundle.pem")
    }

    /// The revocation lists, PEM.
    #[must_use]
    pub fn crl(&self) -> PathBuf {
        self.config.join("crl.pem")
    }

    /// The directory of a VM's device SVID and key.
    #[must_use]
    pub fn vm_dir(&self, vm: VmName) -> PathBuf {
        self.config.join("vm").join(vm.as_str())
    }

    /// A device process's SVID with its chain, PEM.
    #[must_use]
    pub fn device_chain(&self, vm: VmName) -> PathBuf {
        self.vm_dir(vm).join("device.pem")
    }

    /// A device process's key, PKCS#8 PEM, mode 0600.
    #[must_use]
    pub fn device_key(&self, vm: VmName) -> PathBuf {
        self.vm_dir(vm).join("device.key")
    }

    /// A service's SVID with its chain, PEM.
    #[must_use]
    pub fn service_chain(&self, vm: VmName, service: ServiceName) -> PathBuf {
        self.vm_dir(vm).join(format!("svc/{service}.pem"))
    }

    /// A service's key, PKCS#8 PEM, mode 0600.
    #[must_use]
    pub fn service_key(&self, vm: VmName, service: ServiceName) -> PathBuf {
        self.vm_dir(vm).join(format!("svc/{service}.key"))
    }

    /// The directory of logs and audit files.
    #[must_use]
    pub fn log_dir(&self) -> &Path {
        &self.log
    }

    /// A device process's audit file.
    #[must_use]
    pub fn audit(&self, vm: VmName) -> PathBuf {
        self.log.join(format!("{vm}.audit.jsonl"))
    }

    /// A device process's log.
    #[must_use]
    pub fn log(&self, vm: VmName) -> PathBuf {
        self.log.join(format!("{vm}.log"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_below_the_root() {
        let paths = Paths::new(Path::new("/x"), TrustDomain::new("car.example").unwrap());
        let vm = VmName::new("ivi").unwrap();
        assert_eq!(
            paths.socket(SocketDir::Peer, vm),
            Path::new("/x/run/sivshm/car.example/peer/ivi.sock")
        );
        assert_eq!(
            paths.audit(vm),
            Path::new("/x/var/log/sivshm/car.example/ivi.audit.jsonl")
        );
        assert_eq!(paths.crl(), Path::new("/x/etc/sivshm/car.example/crl.pem"));
        assert_eq!(paths.ids(), Path::new("/x/var/lib/sivshm/ids.json"));
        let service = ServiceName::new("camera").unwrap();
        assert_eq!(
            paths.service_key(vm, service),
            Path::new("/x/etc/sivshm/car.example/vm/ivi/svc/camera.key")
        );
    }
}
