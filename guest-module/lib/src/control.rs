//! The control thread of a session: it drives the handshake with this VM's device process and with
//! the peers' services, and keeps the list of grants.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use sivshm_abi::limits::SESSION_CREDIT_BYTES;
use sivshm_handshake::TlsFault;
use sivshm_handshake::service::{ServiceClient, ServiceFault};

use crate::backend::Awaited;
use crate::desk::Desk;
use crate::error::Error;

/// How long the reason of a session's end may come behind the end of its TLS connection. The device
/// process says both at once.
const REASON_WITHIN: Duration = Duration::from_secs(1);

/// A session's desk and the thread behind it. Dropping the last owner ends both.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    pub(crate) fn start(desk: Desk, client: ServiceClient) -> io::Result<Self> {
        let desk = Arc::new(desk);
        let driven = Arc::clone(&desk);
        let thread = std::thread::Builder::new()
            .name("sivshm-control".to_owned())
            .spawn(move || Driver::new(&driven, client).run())?;
        Ok(Self {
            desk,
            thread: Some(thread),
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.desk.close();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// What the thread works with.
struct Driver<'a> {
    desk: &'a Desk,
    /// Gone once it or the session is of no use any more.
    client: Option<ServiceClient>,
    /// Bytes that the device process has not taken yet.
    unsent: Vec<u8>,
    /// What to make of the end of the TLS connection, if no reason comes until then.
    hung_up: Option<(Instant, ServiceFault)>,
    /// Whether the session lives.
    live: bool,
}

impl<'a> Driver<'a> {
    const fn new(desk: &'a Desk, client: ServiceClient) -> Self {
        Self {
            desk,
            client: Some(client),
            unsent: Vec::new(),
            hung_up: None,
            live: true,
        }
    }

    fn run(mut self) {
        while !self.desk.is_closing() {
            let done = self.turn().and_then(|()| {
                self.desk.backend.sleep(Awaited {
                    news: self.live,
                    room: self.live && !self.unsent.is_empty(),
                    left: self.left(),
                })
            });
            if done.is_err() {
                self.desk.lost();
                return;
            }
        }
    }

    /// Time until the client has to do something by itself.
    fn left(&self) -> Option<Duration> {
        let deadline = match (&self.hung_up, &self.client) {
            (Some((until, _)), _) => Some(*until),
            (None, client) => client.as_ref()?.deadline(),
        };
        Some(deadline?.saturating_duration_since(Instant::now()))
    }

    /// Does everything that there is to do.
    fn turn(&mut self) -> Result<(), Error> {
        if !self.live {
            return Ok(());
        }
        if let Err(fault) = self.order() {
            self.give_up(fault);
        }
        self.send()?;
        let open = self.receive()?;
        self.send()?;
        if let Some(client) = &self.client {
            self.desk.note_stages(client);
        }
        let (status, granted) = self.desk.backend.list()?;
        self.desk.note_list(status, granted);
        if !open {
            // The list has said why.
            self.desk.lost();
            (self.client, self.hung_up, self.live) = (None, None, false);
        }
        if let Some((_, fault)) = self.hung_up.take_if(|(until, _)| *until <= Instant::now()) {
            self.desk.failed(fault);
        }
        Ok(())
    }

    fn order(&mut self) -> Result<(), ServiceFault> {
        let Some(client) = &mut self.client else {
            return Ok(());
        };
        let now = Instant::now();
        self.desk.deliver(client, now)?;
        client.on_time(now)
    }

    /// Gives the device process what it takes.
    fn send(&mut self) -> Result<(), Error> {
        if let Some(client) = &mut self.client {
            self.unsent.append(&mut client.outgoing());
        }
        while !self.unsent.is_empty() {
            match self.desk.backend.write(&self.unsent)? {
                0 => break,
                taken => drop(self.unsent.drain(..taken)),
            }
        }
        Ok(())
    }

    /// Takes what the device process has sent. Whether more can come.
    fn receive(&mut self) -> Result<bool, Error> {
        let mut space = [0; SESSION_CREDIT_BYTES];
        loop {
            let bytes = match self.desk.backend.read(&mut space)? {
                None => return Ok(true),
                Some(0) => return Ok(false),
                Some(count) => space.get(..count).unwrap_or_default(),
            };
            let Some(client) = &mut self.client else {
                continue;
            };
            match client.receive(bytes, SystemTime::now(), Instant::now()) {
                Ok(events) => events.into_iter().for_each(|event| self.desk.tell(event)),
                Err(fault) => self.give_up(fault),
            }
        }
    }

    /// The handshake is over; what it still has to say goes out.
    fn give_up(&mut self, fault: ServiceFault) {
        if let Some(mut client) = self.client.take() {
            self.unsent.append(&mut client.farewell());
        }
        match fault {
            // The session ends, and why comes next.
            ServiceFault::Tls(TlsFault::Closed) => {
                self.hung_up = Some((Instant::now() + REASON_WITHIN, fault));
            }
            fault => self.desk.failed(fault),
        }
    }
}
