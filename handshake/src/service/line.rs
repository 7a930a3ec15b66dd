//! One end of a session's connection: TLS, the messages in it, and what is not sent yet.

use std::mem;

use super::fault::ServiceFault;
use super::wire::{Message, MessageType};
use crate::identity::VerifiedIdentity;
use crate::tls::{Tls, TlsFault};

/// Who is at this end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    Service,
    Device,
}

impl Side {
    fn takes(self, kind: MessageType) -> bool {
        match self {
            Self::Service => kind.goes_down(),
            Self::Device => kind.goes_up(),
        }
    }

    const fn waiting(self) -> &'static str {
        match self {
            Self::Service => "a device process's message",
            Self::Device => "a service's message",
        }
    }
}

/// What came through.
#[derive(Debug)]
pub(super) enum Heard {
    /// The other end has proved who it is. Comes once, before every message.
    Authenticated(VerifiedIdentity),
    /// A message that the other end may say.
    Message(Message),
}

/// See the module. After an error it takes nothing and says nothing any more.
#[derive(Debug)]
pub(super) struct Line {
    tls: Tls,
    side: Side,
    state: State,
    /// Whether the other end has said that nothing more will come.
    closed: bool,
    /// Decrypted bytes that are no whole message yet.
    inbox: Vec<u8>,
    /// Encrypted bytes that are not taken yet.
    outbox: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Unproved,
    Live,
    Ended,
}

impl Line {
    pub(super) const fn new(tls: Tls, side: Side) -> Self {
        Self {
            tls,
            side,
            state: State::Unproved,
            closed: false,
            inbox: Vec::new(),
            outbox: Vec::new(),
        }
    }

    /// Whether the other end is authenticated and there.
    pub(super) fn is_live(&self) -> bool {
        self.state == State::Live
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Takes bytes from the front of `bytes` until something has come through; none if they are used
    /// up before.
    ///
    /// # Errors
    /// Anything that is not as it has to be, and that the other end has left.
    pub(super) fn hear(&mut self, bytes: &mut &[u8]) -> Result<Option<Heard>, ServiceFault> {
        if self.state == State::Ended {
            return Err(ServiceFault::Ended);
        }
        let heard = self.take(bytes);
        if heard.is_err() {
            self.state = State::Ended;
        }
        heard
    }

    fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Heard>, ServiceFault> {
        loop {
            if let Some((message, len)) = Message::take(&self.inbox)? {
                self.inbox.drain(..len);
                let (got, waiting) = (message.kind(), self.side.waiting());
                return match self.side.takes(got) {
                    true => Ok(Some(Heard::Message(message))),
                    false => Err(ServiceFault::OutOfTurn { got, waiting }),
                };
            }
            if self.closed {
                return Err(TlsFault::Closed.into());
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            self.closed = !self.tls.read(bytes, &mut self.inbox)?;
            if self.state == State::Unproved
                && let Some(identity) = self.tls.authenticated()?
            {
                self.state = State::Live;
                return Ok(Some(Heard::Authenticated(identity)));
            }
        }
    }

    /// Says a message; [`Self::outgoing`] has its bytes.
    ///
    /// # Errors
    /// [`ServiceFault::Ended`] unless the other end is authenticated and there.
    pub(super) fn say(&mut self, message: &Message) -> Result<(), ServiceFault> {
        if self.state != State::Live {
            return Err(ServiceFault::Ended);
        }
        let bytes = self.tls.write(&message.to_bytes())?;
        self.outbox.extend(bytes);
        Ok(())
    }

    /// The bytes to send since the last call.
    pub(super) fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = mem::take(&mut self.outbox);
        bytes.append(&mut self.tls.flush());
        bytes
    }

    /// Ends it, and gives the last bytes to send: those not taken yet, TLS's alert if there was a
    /// fault, and TLS's own end.
    pub(super) fn farewell(&mut self) -> Vec<u8> {
        self.state = State::Ended;
        let mut bytes = mem::take(&mut self.outbox);
        bytes.append(&mut self.tls.farewell(None));
        bytes
    }
}
