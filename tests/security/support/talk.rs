//! TLS over a socket on which descriptors travel, from the impostor's end.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::pki_types::ServerName;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Connection, Error, ServerConfig,
    ServerConnection,
};
use sivshm_handshake::wire::{Message, Told};
use sivshm_hostile::gullible::Gullible;
use sivshm_sys::scm;

use super::identity::Svid;

/// Longest time that an impostor waits for a victim's word: twelve times what a whole handshake may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a conversation ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The victim said no in TLS.
    Alert(AlertDescription),
    /// The victim said no in a message.
    Told(Told),
    /// The victim closed the connection without a reason.
    Closed,
}

/// One connection of an impostor.
#[derive(Debug)]
pub struct Talk {
    socket: UnixStream,
    tls: Connection,
    plain: Vec<u8>,
    /// Descriptors that the victim sent.
    pub received: Vec<OwnedFd>,
    /// Every byte that went to the victim.
    pub sent: Vec<u8>,
}

impl Talk {
    /// Begins as the side that dialed.
    pub fn dial(socket: UnixStream, svid: Option<&Svid>, alpn: &[u8]) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible));
        let mut config = match svid.cloned() {
            Some(Svid { chain, key }) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        config.enable_sni = false;
        let name = ServerName::try_from("victim").unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        Self::new(socket, tls.into())
    }

    /// Begins as the side that was dialed.
    pub fn listen(socket: UnixStream, svid: &Svid, alpn: &[u8]) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let Svid { chain, key } = svid.clone();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(Arc::new(Gullible))
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        config.send_tls13_tickets = 0;
        let tls = ServerConnection::new(Arc::new(config)).unwrap();
        Self::new(socket, tls.into())
    }

    const fn new(socket: UnixStream, tls: Connection) -> Self {
        Self {
            socket,
            tls,
            plain: Vec::new(),
            received: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Goes through TLS's own handshake.
    pub fn shake(&mut self) -> Result<(), End> {
        while self.tls.is_handshaking() {
            self.flush();
            if self.tls.is_handshaking() {
                self.take()?;
            }
        }
        self.flush();
        Ok(())
    }

    /// Says a message. A victim that is gone is noticed by [`Self::hear`].
    pub fn say(&mut self, message: &Message) {
        self.say_bytes(&message.to_bytes());
    }

    /// Says bytes that need not be a message.
    pub fn say_bytes(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
        self.flush();
    }

    /// Says a message with descriptors on its first byte.
    ///
    /// # Errors
    /// `EPERM` if the victim does not take any.
    pub fn give(&mut self, message: &Message, rights: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.tls.writer().write_all(&message.to_bytes()).unwrap();
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        self.send(&bytes, rights)
    }

    /// Sends bytes as they are, with descriptors on the first one.
    ///
    /// # Errors
    /// As [`Self::give`].
    pub fn send(&mut self, bytes: &[u8], rights: &[BorrowedFd<'_>]) -> io::Result<()> {
        let sent = scm::send(&self.socket, bytes, rights)?;
        assert_eq!(sent, bytes.len(), "the victim does not read");
        self.sent.extend(bytes);
        Ok(())
    }

    /// Encrypted bytes that TLS wants to send first, unsent.
    pub fn first_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Waits for the victim's next message.
    pub fn hear(&mut self) -> Result<Message, End> {
        loop {
            if let Some((message, len)) = Message::take(&self.plain).unwrap() {
                self.plain.drain(..len);
                return match message {
                    Message::Refusal(told) => Err(End::Told(told)),
                    message => Ok(message),
                };
            }
            self.take()?;
        }
    }

    /// Waits for the victim's next message for a time.
    pub fn hear_within(&mut self, limit: Duration) -> Option<Result<Message, End>> {
        let whole = Message::take(&self.plain).unwrap().is_some();
        (whole || self.stirs(limit)).then(|| self.hear())
    }

    /// Closes the connection at once, in the middle of whatever.
    pub fn close(&self) {
        self.socket.shutdown(Shutdown::Both).unwrap();
    }

    /// Listens until the victim ends the conversation.
    pub fn end(&mut self) -> End {
        loop {
            if let Err(end) = self.hear() {
                return end;
            }
        }
    }

    fn flush(&mut self) {
        let bytes = self.first_bytes();
        if let Err(error) = self.send(&bytes, &[]) {
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }

    /// Reads once.
    fn take(&mut self) -> Result<(), End> {
        let mut buffer = [0; 64 * 1024];
        let received = loop {
            match scm::receive(&self.socket, &mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(
                        self.stirs(PATIENCE),
                        "the victim is silent for {PATIENCE:?}"
                    );
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(End::Closed);
                }
                received => break received.unwrap(),
            }
        };
        assert!(!received.truncated);
        self.received.extend(received.rights);
        if received.bytes == 0 {
            return Err(End::Closed);
        }
        let mut bytes = &buffer[..received.bytes];
        while !bytes.is_empty() {
            self.tls.read_tls(&mut bytes).unwrap();
            let state = match self.tls.process_new_packets() {
                Ok(state) => state,
                Err(Error::AlertReceived(alert)) => return Err(End::Alert(alert)),
                Err(error) => panic!("the victim's TLS is wrong: {error}"),
            };
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            self.tls.reader().read_exact(&mut plain).unwrap();
            self.plain.extend(plain);
        }
        Ok(())
    }

    /// Whether the victim says anything, or closes, within a time.
    pub fn stirs(&self, within: Duration) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::try_from(within).unwrap()).unwrap() == 1
    }
}
