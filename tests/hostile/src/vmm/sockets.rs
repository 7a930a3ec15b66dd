//! The sockets of device processes, supervisor and other VMMs.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;

use nix::errno::Errno;

use super::port::hear;
use crate::attempt::{attempt, errno_of};
use crate::report::{Got, attack};

/// Tries to connect to every socket that is not the port of this VM.
pub fn run(run_dir: &Path, vm: &str, other: &str) {
    let connect = |path: &Path| attempt(|| UnixStream::connect(path).map(drop).map_err(errno_of));
    let socket = |folder: &str, vm: &str| run_dir.join(folder).join(format!("{vm}.sock"));
    let granted = connect(&socket("port", vm));
    let refused = |name: &str, path: &Path| {
        let wanted = Got::Errno(Errno::EACCES);
        attack(
            &format!("connect-to-{name}"),
            wanted,
            connect(path),
            granted,
        );
    };
    refused("another-port", &socket("port", other));
    for folder in ["peer", "launch", "admin"] {
        refused(&format!("own-{folder}"), &socket(folder, vm));
        refused(&format!("another-{folder}"), &socket(folder, other));
    }
    refused("supervisor", &run_dir.join("up.sock"));
}

/// Says what a child of the launched process gets of the own port, while nobody has it.
pub fn child_on_port(port: &Path) -> Got {
    attempt(|| greeting(port))
}

/// Reports that, and takes the port again that this process has by now.
pub fn port_is_taken(port: &Path, child: Got) {
    // The launched process has heard its whole set-up.
    let granted = Got::Success;
    let wanted = Got::Errno(Errno::ENOTCONN);
    attack("port-from-another-process", wanted, child, granted);
    attack("port-twice", wanted, greeting(port).into(), granted);
}

/// Connects, and hears the first message.
fn greeting(port: &Path) -> nix::Result<()> {
    let socket = UnixStream::connect(port).map_err(errno_of)?;
    hear(&socket).map(drop)
}

/// Listens on an abstract name that follows from a process identifier.
pub fn listen_abstract(process: u32) -> nix::Result<UnixListener> {
    abstract_name(process)
        .and_then(|name| UnixListener::bind_addr(&name))
        .map_err(errno_of)
}

/// Connects to the abstract socket of another VMM.
pub fn connect_abstract(other: u32) -> nix::Result<()> {
    let own = listen_abstract(std::process::id())?;
    let connect = |process| {
        attempt(|| {
            let connected = abstract_name(process).and_then(|name| UnixStream::connect_addr(&name));
            connected.map(drop).map_err(errno_of)
        })
    };
    let granted = connect(std::process::id());
    drop(own);
    let wanted = Got::Errno(Errno::EPERM);
    attack(
        "connect-to-abstract-socket",
        wanted,
        connect(other),
        granted,
    );
    Ok(())
}

fn abstract_name(process: u32) -> std::io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("sivshm-hostile-{process}"))
}
