//! The machine that a caller drives, on both sides and to the end of the link.

use std::mem;
use std::time::{Instant, SystemTime};

use sivshm_abi::name::{ChannelName, VmName};
use sivshm_abi::wire::Malformed;

use crate::credentials::Credentials;
use crate::identity::Party;
use crate::limits::HANDSHAKE_TIMEOUT;
use crate::link::LinkId;
use crate::refusal::Refusal;
use crate::service;
use crate::step::{ExpectTls, Intent, Outbox, Role, State, VerifiedPeer};
use crate::terms::{Arrived, LinkTerms, PeerUid, Received};
use crate::tls::{ALPN, Tls, TlsFault};
use crate::wire::{HEADER_BYTES, Hello, Message};

/// What the caller has to do, in the order given.
#[derive(Debug)]
pub enum Action<T> {
    /// Send bytes.
    Send(Vec<u8>),
    /// The peer proved to be the device process of this VM: look at `SO_PEERCRED` and call
    /// [`PeerHandshake::admit`]. Nothing goes on before that.
    CheckPeer {
        /// The VM that the peer's SVID names.
        vm: VmName,
    },
    /// Let the socket take descriptors (`SO_PASSRIGHTS`); this many will come.
    AllowRights {
        /// Entries of the peer's manifest.
        count: usize,
    },
    /// Let the socket take no descriptor any more: all have come.
    DenyRights,
    /// Send bytes with these descriptors attached, in one `sendmsg` that starts at the first byte:
    /// the descriptors go with that byte, and whatever part of the bytes is left over goes later
    /// without any.
    SendRights {
        /// One `rights` message.
        bytes: Vec<u8>,
        /// Clones of the originals; at most [`crate::limits::MAX_RIGHTS_PER_MESSAGE`].
        rights: Vec<T>,
    },
    /// Both sides have everything.
    Established(Established<T>),
    /// The peer's operator ended this channel: revoke it here too.
    Revoke(ChannelName),
    /// The peer passed on a message of the service handshake.
    Service(service::wire::Message),
    /// The peer left in good order. The machine is over.
    Bye,
}

/// A link, complete.
#[derive(Debug)]
pub struct Established<T> {
    /// Who is at the other end.
    pub peer: VerifiedPeer,
    /// The link's identifier.
    pub link: LinkId,
    /// Identifier of the peer's run.
    pub instance: [u8; 16],
    /// What the peer gave, in the order that the terms expected.
    pub objects: Vec<Received<T>>,
}

/// One side of a connection between two device processes: the handshake, and after it the messages
/// of the established link.
///
/// `T` is a descriptor, or whatever stands for one; the machine clones it once, to hand the copy
/// out for sending (`Rc<OwnedFd>` fits). After a refusal the machine holds none.
#[derive(Debug)]
pub struct PeerHandshake<T> {
    tls: Tls,
    /// Decrypted bytes that are no whole message yet.
    inbox: Vec<u8>,
    state: State<T>,
    deadline: Instant,
    /// Bytes for a peer that has been refused.
    last_words: Vec<u8>,
}

impl<T: Clone> PeerHandshake<T> {
    /// Dials the device process of `vm`: the VM whose name sorts first does. The action returned
    /// sends the first bytes.
    ///
    /// `connection` is any number that this run of the device process has not used with `vm`.
    /// Certificates are judged at `wall`; `now` starts the deadline.
    ///
    /// # Errors
    /// [`Refusal::Tls`] if TLS can't be set up, which is this host's fault.
    pub fn dial(
        credentials: &Credentials,
        vm: VmName,
        connection: u64,
        wall: SystemTime,
        now: Instant,
    ) -> Result<(Self, Action<T>), Refusal> {
        let mut tls = Tls::dial(credentials, ALPN, Party::Device(vm), wall)?;
        let hello = Action::Send(tls.flush());
        Ok((Self::new(tls, Role::Dialer { connection }, now), hello))
    }

    /// Listens to whoever dialed; their SVID says who that is.
    ///
    /// # Errors
    /// As [`Self::dial`].
    pub fn accept(
        credentials: &Credentials,
        wall: SystemTime,
        now: Instant,
    ) -> Result<Self, Refusal> {
        let tls = Tls::accept(credentials, ALPN, Party::AnyDevice, wall)?;
        Ok(Self::new(tls, Role::Listener, now))
    }

    fn new(tls: Tls, role: Role, now: Instant) -> Self {
        Self {
            tls,
            inbox: Vec::new(),
            state: State::Tls(ExpectTls { role }),
            deadline: now + HANDSHAKE_TIMEOUT,
            last_words: Vec::new(),
        }
    }

    /// Takes what one `recvmsg` brought.
    ///
    /// # Errors
    /// Anything that is not as it has to be. The machine is over then: it has dropped every
    /// descriptor, and [`Self::last_words`] has what the peer is told.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        rights: Vec<Arrived<T>>,
    ) -> Result<Vec<Action<T>>, Refusal> {
        self.drive(|machine, outbox| {
            machine.state.take_rights(rights)?;
            machine.take_bytes(bytes, outbox)
        })
    }

    /// Answers [`Action::CheckPeer`]: `found` is what `SO_PEERCRED` says about the socket, `planned`
    /// the uid that the plan gives the device process of that VM, or none if the plan has no link
    /// with it. Only if both are the same is `grant` asked for the terms of the link.
    ///
    /// # Errors
    /// As [`Self::receive`]; [`Refusal::OutOfTurn`] is impossible here, [`Refusal::Ended`] means
    /// that nobody asked.
    pub fn admit(
        &mut self,
        found: PeerUid,
        planned: Option<PeerUid>,
        grant: impl FnOnce(&VerifiedPeer) -> LinkTerms<T>,
    ) -> Result<Vec<Action<T>>, Refusal> {
        self.drive(|machine, outbox| {
            let State::Admission(step) = mem::take(&mut machine.state) else {
                return Err(Refusal::Ended);
            };
            machine.state = step.on_peer_uid(found, planned, grant, outbox)?;
            machine.advance(outbox)
        })
    }

    /// Tells the peer that this side's operator ended a channel; none while no link is established.
    #[must_use]
    pub fn revoke(&mut self, channel: ChannelName) -> Option<Vec<u8>> {
        self.say(&Message::Revoke(channel))
    }

    /// Passes a message of the service handshake; none while no link is established.
    #[must_use]
    pub fn pass(&mut self, message: &service::wire::Message) -> Option<Vec<u8>> {
        self.say(&Message::Service(Box::new(message.clone())))
    }

    fn say(&mut self, message: &Message) -> Option<Vec<u8>> {
        let State::Established = self.state else {
            return None;
        };
        self.tls.write(&message.to_bytes()).ok()
    }

    /// Leaves in good order, at any time, and gives the last bytes to send.
    #[must_use]
    pub fn bye(mut self) -> Vec<u8> {
        self.tls.farewell(Some(&Message::Bye.to_bytes()))
    }

    /// When the handshake has to be complete; none once it is, or the machine is over.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Established | State::Ended => None,
            _ => Some(self.deadline),
        }
    }

    /// Judges the deadline.
    ///
    /// # Errors
    /// [`Refusal::Timeout`] if it has passed; the machine is over then, as with [`Self::receive`].
    pub fn expired(&mut self, now: Instant) -> Result<(), Refusal> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        let waiting = self.state.waiting();
        self.drive(|_, _| Err(Refusal::Timeout { waiting }))
            .map(drop)
    }

    /// What is left to send to a peer that was refused: TLS's alert, or a reason code. Send it if
    /// the socket takes it at once, then close.
    #[must_use]
    pub fn last_words(self) -> Vec<u8> {
        self.last_words
    }

    /// Runs one entry point; an error ends the machine.
    fn drive(
        &mut self,
        entry: impl FnOnce(&mut Self, &mut Outbox<T>) -> Result<(), Refusal>,
    ) -> Result<Vec<Action<T>>, Refusal> {
        if let State::Ended = self.state {
            return Err(Refusal::Ended);
        }
        let mut outbox = Outbox(Vec::new());
        let result = entry(self, &mut outbox).and_then(|()| self.seal(outbox));
        if let Err(refusal) = &result {
            self.state = State::Ended;
            self.inbox = Vec::new();
            let told = refusal.told().map(|told| Message::Refusal(told).to_bytes());
            self.last_words = self.tls.farewell(told.as_deref());
        }
        result
    }

    /// Encrypts what is to be said, behind what TLS has to say by itself.
    fn seal(&mut self, outbox: Outbox<T>) -> Result<Vec<Action<T>>, Refusal> {
        let mut actions = Vec::new();
        let bytes = self.tls.flush();
        if !bytes.is_empty() {
            actions.push(Action::Send(bytes));
        }
        for intent in outbox.0 {
            actions.push(match intent {
                Intent::Say(message) => Action::Send(self.tls.write(&message.to_bytes())?),
                Intent::Give(message, rights) => Action::SendRights {
                    bytes: self.tls.write(&message.to_bytes())?,
                    rights,
                },
                Intent::Ask(action) => action,
            });
        }
        Ok(actions)
    }

    fn take_bytes(&mut self, mut bytes: &[u8], outbox: &mut Outbox<T>) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            let open = self.tls.read(&mut bytes, &mut self.inbox)?;
            self.advance(outbox)?;
            match self.state {
                State::Ended => return Ok(()),
                _ if !open => return Err(TlsFault::Closed.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Lets the state machine go as far as what has come allows.
    fn advance(&mut self, outbox: &mut Outbox<T>) -> Result<(), Refusal> {
        loop {
            self.state = match mem::take(&mut self.state) {
                State::Tls(step) => match self.tls.authenticated()? {
                    Some(identity) => step.on_authenticated(identity, outbox),
                    None => {
                        self.state = State::Tls(step);
                        return Ok(());
                    }
                },
                State::Admission(step) => {
                    self.state = State::Admission(step);
                    return if self.inbox.len() > MAX_WAITING_BYTES {
                        Err(Refusal::Malformed(Malformed::TooMany {
                            what: "bytes before this side's `hello`",
                            max: MAX_WAITING_BYTES,
                        }))
                    } else {
                        Ok(())
                    };
                }
                State::Ended => return Ok(()),
                state => match Message::take(&self.inbox)? {
                    Some((message, len)) => {
                        self.inbox.drain(..len);
                        state.on_message(message, outbox)?
                    }
                    None => {
                        self.state = state;
                        return Ok(());
                    }
                },
            };
        }
    }
}

/// Most bytes that a peer may have sent before it knows this side's `hello`: its own.
const MAX_WAITING_BYTES: usize = HEADER_BYTES + Hello::BYTES;
