//! Binding a device process's four sockets (DESIGN sections 5 and 15).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use nix::sys::socket::{UnixAddr, bind};
use nix::sys::stat::{Mode as Permissions, umask};
use nix::unistd::geteuid;
use sivshm_abi::name::VmName;
use sivshm_sys::socket::{self, MAX_PATH_BYTES, PassRights, PassRightsSupport};

use crate::held::Listeners;
use crate::ids::VmIds;
use crate::paths::{Paths, SocketDir};

/// Why a socket was not bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The path does not fit a socket address.
    #[error(
        "host: the socket path {path} is longer than {MAX_PATH_BYTES} bytes; use a shorter --root"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The directory could be changed by somebody else, who could then stand in for a peer.
    #[error("host: {path} must belong to the user who starts us and be writable by nobody else")]
    Exposed {
        /// The directory.
        path: PathBuf,
    },
    /// Something that is no socket is in the way.
    #[error("host: {path} is there and is no socket; remove it")]
    Occupied {
        /// What is in the way.
        path: PathBuf,
    },
    /// The host refuses.
    #[error("host: can't bind {path}; `sivshm up` makes its directory")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Who may connect to a socket.
struct Door {
    owner: u32,
    group: u32,
    mode: u32,
}

/// Binds all four. Nobody can connect yet: the process listens once it is the device user, because
/// peers see the user that it was when it listened. Descriptors from strangers are refused from the
/// first moment, if the kernel can do that.
///
/// # Errors
/// The first socket that could not be bound.
pub fn bind_all(
    paths: &Paths,
    vm: VmName,
    ids: VmIds,
    device_gid: u32,
) -> Result<Listeners, ListenError> {
    let (me, my_group) = (geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let only = |owner, group| Door {
        owner,
        group,
        mode: 0o600,
    };
    let open = |of: SocketDir, door: &Door| {
        let path = paths.socket(of, vm);
        check_place(&paths.socket_dir(of), &path, me)?;
        bind_one(&path, door).map_err(|source| ListenError::Refused { path, source })
    };
    Ok(Listeners {
        peer: open(
            SocketDir::Peer,
            &Door {
                owner: me,
                group: device_gid,
                mode: 0o660,
            },
        )?,
        port: open(SocketDir::Port, &only(ids.vmm_uid, ids.vmm_gid))?,
        launch: open(SocketDir::Launch, &only(me, my_group))?,
        admin: open(SocketDir::Admin, &only(me, my_group))?,
    })
}

/// Looks at a socket's directory and takes away what an earlier run of this VM has left there.
fn check_place(directory: &Path, path: &Path, me: u32) -> Result<(), ListenError> {
    if path.as_os_str().len() > MAX_PATH_BYTES {
        return Err(ListenError::TooLong { path: path.into() });
    }
    let refused = |source| ListenError::Refused {
        path: path.into(),
        source,
    };
    let folder = fs::symlink_metadata(directory).map_err(refused)?;
    if !folder.is_dir() || folder.uid() != me || folder.mode() & 0o022 != 0 {
        return Err(ListenError::Exposed {
            path: directory.into(),
        });
    }
    match fs::symlink_metadata(path) {
        Ok(stale) if stale.file_type().is_socket() => fs::remove_file(path).map_err(refused),
        Ok(_) => Err(ListenError::Occupied { path: path.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refused(error)),
    }
}

fn bind_one(path: &Path, door: &Door) -> io::Result<OwnedFd> {
    let listener = socket::stream()?;
    if socket::set_pass_rights(&listener, PassRights::Refuse)? == PassRightsSupport::No {
        tracing::warn!(
            "this kernel (before 6.16) can't refuse descriptors; the modes of the socket \
             directories are the bound"
        );
    }
    let address = UnixAddr::new(path)?;
    // The socket appears with no right for anybody else; the process has one thread.
    let before = umask(Permissions::from_bits_truncate(0o177));
    let bound = bind(listener.as_raw_fd(), &address);
    umask(before);
    bound?;
    chown(path, Some(door.owner), Some(door.group))?;
    fs::set_permissions(path, fs::Permissions::from_mode(door.mode))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sivshm_abi::name::TrustDomain;

    fn place() -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path(), TrustDomain::new("t").unwrap());
        for of in SocketDir::ALL {
            fs::create_dir_all(paths.socket_dir(of)).unwrap();
        }
        (root, paths)
    }

    fn bind(paths: &Paths) -> Result<Listeners, ListenError> {
        let (uid, gid) = (geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let ids = VmIds {
            device_uid: uid,
            vmm_uid: uid,
            vmm_gid: gid,
        };
        bind_all(paths, VmName::new("a").unwrap(), ids, gid)
    }

    fn mode(paths: &Paths, of: SocketDir) -> u32 {
        let path = paths.socket(of, VmName::new("a").unwrap());
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn sockets_are_open_to_those_who_need_them() {
        let (_root, paths) = place();
        bind(&paths).unwrap();
        assert_eq!(mode(&paths, SocketDir::Peer), 0o660);
        for of in [SocketDir::Port, SocketDir::Launch, SocketDir::Admin] {
            assert_eq!(mode(&paths, of), 0o600);
        }
    }

    #[test]
    fn an_earlier_run_is_replaced_and_another_file_is_not() {
        let (_root, paths) = place();
        drop(bind(&paths).unwrap());
        bind(&paths).unwrap();
        let path = paths.socket(SocketDir::Port, VmName::new("a").unwrap());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(matches!(bind(&paths), Err(ListenError::Occupied { .. })));
        assert!(path.exists());
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let (_root, paths) = place();
        let peers = paths.socket_dir(SocketDir::Peer);
        fs::set_permissions(&peers, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(bind(&paths), Err(ListenError::Exposed { .. })));
    }

    #[test]
    fn a_path_that_fits_no_socket_is_refused_by_its_length() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(100));
        let paths = Paths::new(&deep, TrustDomain::new("t").unwrap());
        assert!(matches!(bind(&paths), Err(ListenError::TooLong { .. })));
    }
}
