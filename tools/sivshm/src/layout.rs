//! Which trust domain a command means, and where its things are.

use std::fs;
use std::path::{Path, PathBuf};

use sivshm_abi::name::{TrustDomain, VmName};
use sivshm_device::paths::Paths;

use crate::failure::{Failure, Outcome, absolute};
use crate::state::State;

/// Options that say where things are, for every command.
#[derive(Clone, Debug, clap::Args)]
pub struct Where {
    /// Directory below which `etc`, `run` and `var` of SIVSHM lie.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Trust domain; needed only where the root has more than one.
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<TrustDomain>,
}

/// The places of one trust domain, those of the supervisor included.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Absolute path of the root directory.
    pub root: PathBuf,
    /// What the device processes know as well.
    pub paths: Paths,
    domain: TrustDomain,
}

impl Layout {
    /// The places of `domain` below `root`.
    ///
    /// # Errors
    /// The root is relative and the current directory is gone.
    pub fn new(root: &Path, domain: TrustDomain) -> Outcome<Self> {
        let root = absolute(root)?;
        let paths = Paths::new(&root, domain);
        Ok(Self {
            root,
            paths,
            domain,
        })
    }

    /// The trust domain.
    pub fn domain(&self) -> TrustDomain {
        self.domain
    }

    /// Socket on which the supervisor takes registrations of VMMs.
    pub fn registrations(&self) -> PathBuf {
        self.paths.run_dir().join("up.sock")
    }

    /// The policy's text as it was when the supervisor read it: every device process gets the same,
    /// also one that is started again after the file was edited.
    pub fn policy_in_use(&self) -> PathBuf {
        self.paths.run_dir().join("policy.toml")
    }

    /// The policy of the last reload, if there was one: device processes that are started again
    /// narrow what they share by it.
    pub fn narrowed(&self) -> PathBuf {
        self.paths.run_dir().join("narrowed.toml")
    }

    /// Users and groups of this run.
    pub fn ids_in_use(&self) -> PathBuf {
        self.paths.run_dir().join("ids.json")
    }

    /// Locked by the supervisor as long as it lives; never removed.
    pub fn lock(&self) -> PathBuf {
        self.paths
            .ids()
            .with_file_name(format!("{}.lock", self.domain))
    }

    /// Log of a supervisor that runs behind.
    pub fn supervisor_log(&self) -> PathBuf {
        // No VM can have this name: names of VMs have no underscore.
        self.paths.log_dir().join("_up.log")
    }

    /// The state of the running supervisor.
    ///
    /// # Errors
    /// None runs, as far as its file tells.
    pub fn running(&self) -> Outcome<State> {
        State::read(&self.paths.supervisor_state())?.ok_or_else(|| self.not_running())
    }

    /// The error of commands that need a running supervisor.
    pub fn not_running(&self) -> Failure {
        Failure::Host(format!(
            "nothing runs for trust domain {} below {}; start it with `sivshm up`",
            self.domain,
            self.root.display()
        ))
    }
}

impl Where {
    /// The trust domain that was named, or the only one that runs below the root, or the only one
    /// that is configured there.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn layout(&self) -> Outcome<Layout> {
        let domain = match self.domain {
            Some(domain) => domain,
            None => only_domain(&self.root)?,
        };
        Layout::new(&self.root, domain)
    }
}

fn only_domain(root: &Path) -> Outcome<TrustDomain> {
    for place in ["run/sivshm", "etc/sivshm"] {
        let domains = domains_in(&root.join(place));
        match domains.as_slice() {
            [] => {}
            [domain] => return Ok(*domain),
            several => {
                let names: Vec<_> = several.iter().map(TrustDomain::as_str).collect();
                return Err(Failure::Usage(format!(
                    "{} has several trust domains ({}); say which with --domain",
                    root.join(place).display(),
                    names.join(", ")
                )));
            }
        }
    }
    Err(Failure::Usage(format!(
        "no trust domain is configured below {}: its policy belongs at etc/sivshm/DOMAIN/policy.toml",
        root.display()
    )))
}

/// Directories whose name is a trust domain, sorted.
fn domains_in(place: &Path) -> Vec<TrustDomain> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let mut domains: Vec<TrustDomain> = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| TrustDomain::new(entry.file_name().to_str()?).ok())
        .collect();
    domains.sort();
    domains
}

/// Parses a VM's name given on the command line.
///
/// # Errors
/// It is no name.
pub fn vm_name(text: &str) -> Outcome<VmName> {
    VmName::new(text).map_err(|error| Failure::Usage(format!("`{text}` is no VM: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(root: &Path) -> Where {
        Where {
            root: root.to_owned(),
            domain: None,
        }
    }

    #[test]
    fn the_only_domain_is_meant_and_a_running_one_comes_first() {
        let root = tempfile::tempdir().unwrap();
        assert!(at(root.path()).layout().is_err());
        fs::create_dir_all(root.path().join("etc/sivshm/a.example")).unwrap();
        assert_eq!(
            at(root.path()).layout().unwrap().domain.as_str(),
            "a.example"
        );
        fs::create_dir_all(root.path().join("etc/sivshm/b.example")).unwrap();
        let error = at(root.path()).layout().unwrap_err().to_string();
        assert!(error.contains("a.example, b.example"), "{error}");
        fs::create_dir_all(root.path().join("run/sivshm/b.example")).unwrap();
        assert_eq!(
            at(root.path()).layout().unwrap().domain.as_str(),
            "b.example"
        );
    }

    #[test]
    fn the_lock_outlives_the_run_directory() {
        let domain = TrustDomain::new("d").unwrap();
        let layout = Layout::new(Path::new("/x"), domain).unwrap();
        assert!(!layout.lock().starts_with(layout.paths.run_dir()));
        assert_eq!(layout.lock(), Path::new("/x/var/lib/sivshm/d.lock"));
    }
}
