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

/// Seconds that the maker of a socket wants its last holder to wait: no longer than the test has to,
/// and longer than any pause of a loaded machine.
const LINGER: [u16; 2] = [2, 60];

fn main() {
    let waits = |seconds: u16| {
        let (socket, _taker) = lingering(seconds);
        let began = Instant::now();
        drop(socket);
        began.elapsed() >= Duration::from_secs(seconds.into())
    };
    let [short, long] = LINGER;
    assert!(waits(short), "the socket does no harm");

    let tick = Tick::install().unwrap();
    let ticking = tick.start().unwrap();
    assert!(!waits(long), "the tick ends no wait");
    drop(ticking);
    assert!(waits(short), "the tick goes on");
}

/// A socket with more to send than its other end takes, and that end.
fn lingering(seconds: u16) -> (TcpStream, TcpStream) {
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
        l_linger: seconds.into(),
    };
    setsockopt(&socket, sockopt::Linger, &linger).unwrap();
    (socket, taker)
}
