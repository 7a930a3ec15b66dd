//! A descriptor whose maker wants its last holder to wait does not make a ticking process wait.
//!
//! Ticks go to a process of one thread, and a test harness has several.
#![expect(
    clippy::unwrap_used,
    reason = "a test without a harness: an assertion that unwraps is still an assertion"
)]

use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use sivshm_sys::tick::Tick;

/// Seconds that the maker of a socket wants its last holder to wait.
const LINGER: u16 = 2;

fn main() {
    let wanted = Duration::from_secs(LINGER.into());
    let waited = |drop_it: &dyn Fn(TcpStream)| {
        let (socket, _taker) = lingering();
        let began = Instant::now();
        drop_it(socket);
        began.elapsed()
    };
    assert!(waited(&drop) >= wanted, "the socket does no harm");

    let tick = Tick::install().unwrap();
    let ticking = tick.start().unwrap();
    assert!(waited(&drop) < wanted / 4, "the tick ends no wait");
    drop(ticking);
    assert!(waited(&drop) >= wanted, "the tick goes on");
}

/// A socket with more to send than its other end takes, and that end.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (taker, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let full = loop {
        if let Err(full) = socket.write(&[0; 64 * 1024]) {
            break full;
        }
    };
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: LINGER.into(),
    };
    setsockopt(&socket, sockopt::Linger, &linger).unwrap();
    (socket, taker)
}
