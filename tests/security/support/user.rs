//! Acting as another user of the host.

use std::panic;
use std::thread;

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// A user and its one group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// Runs `act` as this user: on a thread that gives up root, with every capability and every
    /// other group, before it does anything. The kernel keeps credentials for each thread, so
    /// sockets, descriptors in flight and files see this user and nobody else.
    pub fn act<T: Send>(self, act: impl FnOnce() -> T + Send) -> T {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                set_thread_groups(&[]).unwrap();
                set_thread_res_gid(gid, gid, gid).unwrap();
                set_thread_res_uid(uid, uid, uid).unwrap();
                act()
            });
            thread
                .join()
                .unwrap_or_else(|failed| panic::resume_unwind(failed))
        })
    }
}
