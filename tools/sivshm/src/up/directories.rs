//! The directories of a run, with the modes of DESIGN section 15.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use sivshm_device::paths::SocketDir;

use crate::failure::{Failure, Outcome};
use crate::layout::Layout;

/// Mode of a directory that everybody may pass and only its owner may list.
const PASS: u32 = 0o711;
/// Mode of a directory for its owner only.
const OWNER: u32 = 0o700;
/// Mode of a directory that its group may pass too.
const GROUP_PASS: u32 = 0o710;

/// Makes the directories of logs and of this run; those of sockets are empty afterwards.
///
/// `device_gid` is the group of device processes; none in development mode.
///
/// # Errors
/// A directory can't be made, or VMs' users could not reach their sockets below the root.
pub fn make(layout: &Layout, device_gid: Option<u32>) -> Outcome {
    let paths = &layout.paths;
    directory(paths.log_dir(), OWNER)?;
    let run = paths.run_dir();
    if run.exists() {
        fs::remove_dir_all(run).map_err(Failure::on("clear", run))?;
    }
    directory(run, PASS)?;
    for of in SocketDir::ALL {
        let path = paths.socket_dir(of);
        let mode = match of {
            SocketDir::Peer => GROUP_PASS,
            SocketDir::Port => PASS,
            SocketDir::Launch | SocketDir::Admin => OWNER,
        };
        directory(&path, mode)?;
        if let (SocketDir::Peer, Some(gid)) = (of, device_gid) {
            chown(&path, None, Some(gid)).map_err(Failure::on("change the group of", &path))?;
        }
    }
    match device_gid {
        Some(_) => reachable(run),
        None => Ok(()),
    }
}

/// Makes a directory with exactly this mode, whatever the umask; missing parents are passable.
fn directory(path: &Path, mode: u32) -> Outcome {
    let mut missing: Vec<_> = path.ancestors().take_while(|at| !at.exists()).collect();
    while let Some(at) = missing.pop() {
        fs::create_dir(at).map_err(Failure::on("create", at))?;
        set_mode(at, 0o755)?;
    }
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> Outcome {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Failure::on("set the mode of", path))
}

/// Checks that any user may pass every directory above `path`.
fn reachable(path: &Path) -> Outcome {
    for at in path.ancestors() {
        let mode = at.metadata().map_err(Failure::on("look at", at))?.mode();
        if mode & 0o001 == 0 {
            return Err(Failure::Usage(format!(
                "VMs run as users of their own and can't pass {at}: choose another --root, or \
                 `chmod o+x {at}`",
                at = at.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sivshm_abi::name::TrustDomain;

    fn layout(root: &Path) -> Layout {
        Layout::new(root, TrustDomain::new("car.example").unwrap()).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn modes_are_those_of_the_design() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        make(&layout, None).unwrap();
        let paths = &layout.paths;
        assert_eq!(mode(paths.run_dir()), 0o711);
        assert_eq!(mode(&paths.socket_dir(SocketDir::Peer)), 0o710);
        assert_eq!(mode(&paths.socket_dir(SocketDir::Port)), 0o711);
        assert_eq!(mode(&paths.socket_dir(SocketDir::Launch)), 0o700);
        assert_eq!(mode(&paths.socket_dir(SocketDir::Admin)), 0o700);
        assert_eq!(mode(paths.log_dir()), 0o700);
        assert_eq!(mode(&root.path().join("run/sivshm")), 0o755);
    }

    #[test]
    fn a_socket_of_an_earlier_run_is_gone_and_its_logs_are_not() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        make(&layout, None).unwrap();
        let stale = layout.paths.socket_dir(SocketDir::Port).join("a.sock");
        let log = layout.paths.log_dir().join("a.log");
        fs::write(&stale, "").unwrap();
        fs::write(&log, "x").unwrap();
        make(&layout, None).unwrap();
        assert!(!stale.exists() && log.exists());
    }

    #[test]
    fn a_root_that_other_users_cannot_pass_is_refused() {
        let root = tempfile::tempdir().unwrap();
        set_mode(root.path(), 0o700).unwrap();
        let error = reachable(root.path()).unwrap_err();
        assert!(matches!(error, Failure::Usage(_)), "{error}");
    }
}
