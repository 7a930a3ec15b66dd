//! Ways past a module through a process that holds a session.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, IoSliceMut};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use sivshm_abi::uapi;

use crate::attempt::errno_of;
use crate::device::adopt;
use crate::guest_user::SERVICE;

/// What the service says when it has its channel open.
const OPENED: &str = r#""event":"opened""#;

/// A process of the service that has its channel open and uses it, until this is dropped.
#[derive(Debug)]
pub struct Holder {
    process: Child,
    /// Its number of the session's descriptor.
    session: i32,
    /// Where its own memory begins, that of its program.
    memory: usize,
}

type Way = fn(&Holder) -> nix::Result<()>;

pub const WAYS: [(&str, Way, Errno); 4] = [
    ("locked-ptrace", trace, Errno::EPERM),
    ("locked-proc-mem", proc_mem, Errno::EACCES),
    ("locked-process-vm-readv", vm_read, Errno::EPERM),
    ("locked-pidfd-getfd", steal, Errno::EPERM),
];

impl Holder {
    /// Starts the service by its command line, and returns when it has its channel open.
    pub fn start(service: &[String]) -> nix::Result<Self> {
        let (program, arguments) = service.split_first().ok_or(Errno::EINVAL)?;
        let mut process = Command::new(program)
            .args(arguments)
            .uid(SERVICE)
            .gid(SERVICE)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(errno_of)?;
        let said = process.stdout.take().ok_or(Errno::EPIPE)?;
        let mut said = BufReader::new(said);
        let mut line = String::new();
        while !line.contains(OPENED) {
            line.clear();
            if said.read_line(&mut line).map_err(errno_of)? == 0 {
                return Err(Errno::ESRCH);
            }
        }
        // It goes on until what it says fills the pipe.
        process.stdout = Some(said.into_inner());
        let mut holder = Self {
            process,
            session: 0,
            memory: 0,
        };
        holder.look()?;
        Ok(holder)
    }

    fn pid(&self) -> nix::Result<Pid> {
        let pid = i32::try_from(self.process.id());
        pid.map(Pid::from_raw).map_err(|_| Errno::ESRCH)
    }

    /// Finds what root sees in `/proc`.
    fn look(&mut self) -> nix::Result<()> {
        let proc = format!("/proc/{}", self.process.id());
        let descriptors = fs::read_dir(format!("{proc}/fd")).map_err(errno_of)?;
        let session = descriptors.flatten().find(|entry| {
            fs::read_link(entry.path()).is_ok_and(|file| file.as_os_str() == uapi::DEVICE_PATH)
        });
        let name = session.map(|entry| entry.file_name());
        let number = name.and_then(|name| name.to_str()?.parse().ok());
        self.session = number.ok_or(Errno::EBADF)?;
        let maps = fs::read_to_string(format!("{proc}/maps")).map_err(errno_of)?;
        let first = maps.split('-').next();
        let first = first.and_then(|address| usize::from_str_radix(address, 16).ok());
        self.memory = first.ok_or(Errno::EFAULT)?;
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Stops it, as a debugger does that runs code in it.
fn trace(holder: &Holder) -> nix::Result<()> {
    let pid = holder.pid()?;
    let ptrace = |request: libc::c_uint| {
        // SAFETY: to attach and to detach takes no address.
        let rc = unsafe { libc::syscall(libc::SYS_ptrace, request, pid.as_raw(), 0, 0) };
        Errno::result(rc).map(drop)
    };
    ptrace(libc::PTRACE_ATTACH)?;
    waitpid(pid, None)?;
    ptrace(libc::PTRACE_DETACH)
}

fn proc_mem(holder: &Holder) -> nix::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{}/mem", holder.process.id()));
    let read = file.and_then(|file| file.read_exact_at(&mut [0; 8], holder.memory as u64));
    read.map_err(errno_of)
}

fn vm_read(holder: &Holder) -> nix::Result<()> {
    let mut space = [0_u8; 8];
    let remote = [RemoteIoVec {
        base: holder.memory,
        len: space.len(),
    }];
    process_vm_readv(holder.pid()?, &mut [IoSliceMut::new(&mut space)], &remote).map(drop)
}

/// Takes its descriptor of the session.
fn steal(holder: &Holder) -> nix::Result<()> {
    let call = |number, first: i32, second: i32| {
        // SAFETY: pidfd_open and pidfd_getfd take integers.
        let rc = unsafe { libc::syscall(number, first, second, 0) };
        let descriptor = i32::try_from(Errno::result(rc)?).map_err(|_| Errno::EBADF)?;
        Ok(adopt(descriptor))
    };
    let process = call(libc::SYS_pidfd_open, holder.pid()?.as_raw(), 0)?;
    call(libc::SYS_pidfd_getfd, process.as_raw_fd(), holder.session).map(drop)
}
