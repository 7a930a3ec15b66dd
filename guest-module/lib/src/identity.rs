//! What a service authenticates with: its SVID, its key, and what it trusts (DESIGN section 12,
//! `docs/identity.md`).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::SystemTime;

use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::name::{ServiceName, VmName};
use sivshm_handshake::Credentials;
use zeroize::Zeroizing;

use crate::attached::{self, ATTACH_VARIABLE};
use crate::error::{BadPeers, Error};

/// Where a guest keeps what its services authenticate with.
const FOLDER: &str = "/etc/sivshm";

/// Longest file that is read: four certificates of 4 KiB each in PEM, or the roots of a trust
/// domain, or a revocation list of some thousand entries.
const MAX_FILE_BYTES: usize = 256 * 1024;

/// The identity of a service: `spiffe://DOMAIN/vm/VM/svc/SERVICE`.
///
/// The key is read once and stays in this process: no message carries it.
#[derive(Clone, Debug)]
pub struct Identity {
    credentials: Credentials,
}

impl Identity {
    /// Loads the identity from PEM files: the SVID with its intermediates, its key, and the trust
    /// bundle.
    ///
    /// # Errors
    /// [`Error::Identity`]
    pub fn load(svid: &Path, key: &Path, bundle: &Path) -> Result<Self, Error> {
        Self::judge(
            || svid.display().to_string(),
            &read_file(svid)?,
            &read_file(key)?,
            &read_file(bundle)?,
        )
    }

    /// Refuses peers whose SVIDs are on a certificate revocation list, in PEM. The device processes
    /// do so anyway, with a newer list perhaps.
    ///
    /// # Errors
    /// [`Error::Identity`] if the list can't be read, has expired, or is another CA's.
    pub fn with_crl(&self, crl: &Path) -> Result<Self, Error> {
        self.with_crl_pem(|| crl.display().to_string(), &read_file(crl)?)
    }

    /// Loads the identity of a service where the system keeps it: in an attached process what
    /// `sivshm run --service` has passed, else `/etc/sivshm/svc/NAME.pem` and `.key`, with
    /// `/etc/sivshm/bundle.pem` and, if it exists, `/etc/sivshm/crl.pem`.
    ///
    /// # Errors
    /// [`Error::Identity`]; also if the SVID is another service's.
    pub fn named(service: &str) -> Result<Self, Error> {
        let name = ServiceName::new(service)?;
        match std::env::var(ATTACH_VARIABLE) {
            Ok(text) => Self::attached(&text)?.expect_name(name),
            Err(_) => Self::in_folder(Path::new(FOLDER), name),
        }
    }

    /// The identity, if it is that of a service of this name.
    fn expect_name(self, name: ServiceName) -> Result<Self, Error> {
        match self.id().subject {
            Subject::Service(_, own) if own == name => Ok(self),
            _ => Err(Error::Identity {
                place: self.id().to_string(),
                source: format!("it is not service `{name}`, which was asked for").into(),
            }),
        }
    }

    fn in_folder(folder: &Path, name: ServiceName) -> Result<Self, Error> {
        let file = |suffix: &str| folder.join("svc").join(format!("{name}.{suffix}"));
        let identity = Self::load(&file("pem"), &file("key"), &folder.join("bundle.pem"))?;
        let identity = identity.expect_name(name)?;
        let crl = folder.join("crl.pem");
        let there = crl.try_exists().map_err(|source| Error::Identity {
            place: crl.display().to_string(),
            source: source.into(),
        })?;
        if there {
            identity.with_crl(&crl)
        } else {
            Ok(identity)
        }
    }

    /// Reads what an attached process was given.
    fn attached(text: &str) -> Result<Self, Error> {
        let place = || ATTACH_VARIABLE.to_owned();
        let refused = |source: io::Error| Error::Identity {
            place: place(),
            source: source.into(),
        };
        let given = attached::identity(text, MAX_FILE_BYTES).map_err(refused)?;
        let identity = Self::judge(place, &given.svid, &given.key, &given.bundle)?;
        match given.crl {
            Some(crl) => identity.with_crl_pem(place, &crl),
            None => Ok(identity),
        }
    }

    fn judge(
        place: impl Fn() -> String,
        svid: &[u8],
        key: &Zeroizing<Vec<u8>>,
        bundle: &[u8],
    ) -> Result<Self, Error> {
        let credentials = Credentials::load_service(svid, key, bundle, SystemTime::now());
        Ok(Self {
            credentials: credentials.map_err(|source| Error::Identity {
                place: place(),
                source: source.into(),
            })?,
        })
    }

    fn with_crl_pem(&self, place: impl Fn() -> String, crl: &[u8]) -> Result<Self, Error> {
        let credentials = self.credentials.with_crl(crl, SystemTime::now());
        Ok(Self {
            credentials: credentials.map_err(|source| Error::Identity {
                place: place(),
                source: source.into(),
            })?,
        })
    }

    /// The SPIFFE ID.
    #[must_use]
    pub const fn id(&self) -> SpiffeId {
        self.credentials.id()
    }

    pub(crate) const fn credentials(&self) -> &Credentials {
        &self.credentials
    }
}

/// Another service of a service's trust domain, by its name, `VM/SERVICE`, or its whole SPIFFE ID.
pub(crate) fn service(text: &str, own: SpiffeId) -> Result<SpiffeId, Error> {
    let wrong = || Error::Peers(BadPeers::NoService(text.to_owned()));
    let id = match text.split_once('/') {
        Some((vm, service)) if !text.contains(':') => SpiffeId {
            domain: own.domain,
            subject: Subject::Service(
                VmName::new(vm).map_err(|_| wrong())?,
                ServiceName::new(service).map_err(|_| wrong())?,
            ),
        },
        _ => SpiffeId::parse(text).map_err(|_| wrong())?,
    };
    match id.subject {
        Subject::Service(..) if id != own && id.domain == own.domain => Ok(id),
        _ => Err(wrong()),
    }
}

/// A file's bytes, wiped when they are dropped: one of the files is the key.
fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let read = |path| -> io::Result<Zeroizing<Vec<u8>>> {
        // Never grown, so that no copy is left behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES + 1));
        let limit = u64::try_from(MAX_FILE_BYTES + 1).map_err(io::Error::other)?;
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        if bytes.len() > MAX_FILE_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    };
    read(path).map_err(|source| Error::Identity {
        place: path.display().to_string(),
        source: source.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Ca, device, service as id};

    #[test]
    fn a_service_is_found_by_its_name_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut ca = Ca::new();
        let mapper = id("manager", "mapper");
        ca.issue(mapper).write(folder.path(), "mapper");
        let load = |name: &str| Identity::in_folder(folder.path(), name.parse().unwrap());
        assert_eq!(load("mapper").unwrap().id(), mapper);
        let missing = load("reducer").unwrap_err();
        assert!(missing.to_string().contains("svc/reducer.pem"), "{missing}");

        // The name of a file is not what makes a service.
        for suffix in ["pem", "key"] {
            let [from, to] = ["mapper", "reducer"].map(|name| format!("svc/{name}.{suffix}"));
            std::fs::copy(folder.path().join(from), folder.path().join(to)).unwrap();
        }
        assert!(load("reducer").is_err());
        ca.issue(device("manager")).write(folder.path(), "device");
        assert!(load("device").is_err());
    }

    #[test]
    fn a_revocation_list_that_is_none_is_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        Ca::new()
            .issue(id("manager", "mapper"))
            .write(folder.path(), "mapper");
        std::fs::write(folder.path().join("crl.pem"), "no list").unwrap();
        let refused = Identity::in_folder(folder.path(), "mapper".parse().unwrap()).unwrap_err();
        assert!(refused.to_string().contains("crl.pem"), "{refused}");
    }

    #[test]
    fn peers_are_named_in_short_or_whole() {
        let own = id("manager", "mapper");
        let reducer = id("worker-1", "reducer");
        assert_eq!(service("worker-1/reducer", own).unwrap(), reducer);
        assert_eq!(service(&reducer.to_string(), own).unwrap(), reducer);
        let device = device("worker-1").to_string();
        for bad in [
            "",
            "reducer",
            "worker-1/",
            "a/b/c",
            "A/b",
            "spiffe://x",
            "manager/mapper",
            "spiffe://other.example/vm/worker-1/svc/reducer",
            &device,
        ] {
            let refused = service(bad, own);
            assert!(
                matches!(refused, Err(Error::Peers(BadPeers::NoService(_)))),
                "{bad}"
            );
        }
    }
}
