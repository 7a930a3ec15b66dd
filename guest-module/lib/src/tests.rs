//! What tests of several modules need.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::TrustDomain;
use sivshm_ca::Authority;
use sivshm_ca::authority::BUNDLE;
use sivshm_handshake::Credentials;
use tempfile::TempDir;
use zeroize::Zeroizing;

/// Life of a leaf.
const LIFE: Duration = Duration::from_hours(1);

/// A CA of the trust domain `car.example`.
pub(crate) struct Ca {
    folder: TempDir,
    authority: Authority,
}

/// A leaf, in PEM.
pub(crate) struct Leaf {
    pub(crate) svid: Vec<u8>,
    pub(crate) key: Zeroizing<Vec<u8>>,
    pub(crate) bundle: Vec<u8>,
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new("car.example").unwrap()
}

/// The service of a VM.
pub(crate) fn service(vm: &str, name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://car.example/vm/{vm}/svc/{name}")).unwrap()
}

/// The device process of a VM.
pub(crate) fn device(vm: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://car.example/vm/{vm}/device")).unwrap()
}

impl Ca {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("ca");
        let authority = Authority::init(&place, &domain(), SystemTime::now()).unwrap();
        Self { folder, authority }
    }

    pub(crate) fn issue(&mut self, id: SpiffeId) -> Leaf {
        let issued = self.authority.issue(&id, LIFE, SystemTime::now()).unwrap();
        Leaf {
            svid: issued.chain_pem.into_bytes(),
            key: Zeroizing::new(issued.key_pem.as_bytes().to_vec()),
            bundle: std::fs::read(self.folder.path().join("ca").join(BUNDLE)).unwrap(),
        }
    }
}

impl Leaf {
    /// A device process's credentials.
    pub(crate) fn device(&self, vm: &str) -> Credentials {
        let vm = vm.parse().unwrap();
        let now = SystemTime::now();
        Credentials::load(domain(), vm, &self.svid, &self.key, &self.bundle, now).unwrap()
    }

    /// A service's credentials.
    pub(crate) fn service(&self) -> Credentials {
        let now = SystemTime::now();
        Credentials::load_service(&self.svid, &self.key, &self.bundle, now).unwrap()
    }

    /// Writes SVID, key and bundle to a folder as a guest keeps them.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> [PathBuf; 3] {
        let services = folder.join("svc");
        std::fs::create_dir_all(&services).unwrap();
        let files = [
            services.join(format!("{name}.pem")),
            services.join(format!("{name}.key")),
            folder.join("bundle.pem"),
        ];
        for (path, bytes) in files.iter().zip([&self.svid, &*self.key, &self.bundle]) {
            std::fs::write(path, bytes).unwrap();
        }
        files
    }
}
