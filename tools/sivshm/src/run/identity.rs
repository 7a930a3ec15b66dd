//! What an attached program proves itself by as a service, opened before root is left.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use serde::Serialize;
use sivshm_abi::name::{ServiceName, VmName};

use crate::failure::{Failure, Outcome};
use crate::layout::Layout;

/// Open files of a service's identity.
#[derive(Debug)]
pub struct Identity {
    svid: File,
    key: File,
    bundle: File,
    crl: File,
}

/// Their numbers, as the program is told them.
#[derive(Debug, Serialize)]
pub struct Numbers {
    svid: i32,
    key: i32,
    bundle: i32,
    crl: i32,
}

impl Identity {
    /// Opens what a service of a VM proves itself by, and what it checks others by.
    ///
    /// # Errors
    /// A file is missing or can't be opened.
    pub fn open(layout: &Layout, vm: VmName, service: ServiceName) -> Outcome<Self> {
        let paths = &layout.paths;
        let (svid, key) = (
            paths.service_chain(vm, service),
            paths.service_key(vm, service),
        );
        let folder = svid.parent().unwrap_or(&svid).display();
        let ca = paths.ca_dir();
        let ca = ca.display();
        let issue = format!(
            "issue it with `sivshm-ca issue --dir {ca} service {vm} {service} --out {folder}`"
        );
        let of_ca = |name: &str| format!("it is {ca}/{name}, which `sivshm-ca init` made");
        Ok(Self {
            svid: open(&svid, "SVID", &issue)?,
            key: open(&key, "key", &issue)?,
            bundle: open(&paths.bundle(), "trust bundle", &of_ca("bundle.pem"))?,
            crl: open(&paths.crl(), "CRL", &of_ca("crl.pem"))?,
        })
    }

    /// The descriptors' numbers, which exec keeps.
    pub fn numbers(&self) -> Numbers {
        Numbers {
            svid: self.svid.as_raw_fd(),
            key: self.key.as_raw_fd(),
            bundle: self.bundle.as_raw_fd(),
            crl: self.crl.as_raw_fd(),
        }
    }

    /// The descriptors that the program inherits.
    pub fn into_descriptors(self) -> [OwnedFd; 4] {
        [self.svid, self.key, self.bundle, self.crl].map(OwnedFd::from)
    }
}

/// Opens one file; `remedy` says how it comes to be there.
fn open(path: &Path, what: &str, remedy: &str) -> Outcome<File> {
    match File::open(path) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::Host(format!(
            "there is no {what} at {}: {remedy}",
            path.display()
        ))),
        Err(error) => Err(Failure::on("open", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sivshm_abi::name::TrustDomain;

    #[test]
    fn a_missing_file_is_named_with_what_makes_it() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path(), TrustDomain::new("a.example").unwrap()).unwrap();
        let (vm, service) = (
            VmName::new("ivi").unwrap(),
            ServiceName::new("camera").unwrap(),
        );
        let etc = root.path().join("etc/sivshm/a.example");
        std::fs::create_dir_all(etc.join("vm/ivi/svc")).unwrap();
        for (name, remedy) in [
            ("vm/ivi/svc/camera.pem", "ca service ivi camera --out"),
            ("vm/ivi/svc/camera.key", "ca service ivi camera --out"),
            ("bundle.pem", "ca/bundle.pem, which `sivshm-ca init`"),
            ("crl.pem", "ca/crl.pem, which `sivshm-ca init`"),
        ] {
            let said = Identity::open(&layout, vm, service)
                .unwrap_err()
                .to_string();
            let path = etc.join(name);
            assert!(said.contains(&path.display().to_string()), "{said}");
            assert!(said.contains(remedy), "{said}");
            std::fs::write(path, name).unwrap();
        }
        let identity = Identity::open(&layout, vm, service).unwrap();
        let Numbers {
            svid,
            key,
            bundle,
            crl,
        } = identity.numbers();
        let numbers = [svid, key, bundle, crl];
        let texts =
            numbers.map(|fd| std::fs::read_to_string(format!("/proc/self/fd/{fd}")).unwrap());
        assert_eq!(
            texts,
            [
                "vm/ivi/svc/camera.pem",
                "vm/ivi/svc/camera.key",
                "bundle.pem",
                "crl.pem"
            ]
        );
        assert_eq!(
            identity.into_descriptors().map(|fd| fd.as_raw_fd()),
            numbers
        );
    }
}
