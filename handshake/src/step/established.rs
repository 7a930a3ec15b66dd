//! The established link: it brings revocations and the service handshake, until one side leaves.

use sivshm_abi::name::ChannelName;

use super::{Outbox, State};
use crate::peer::Action;
use crate::service::wire::Message;

pub(super) fn on_revoke<T>(channel: ChannelName, outbox: &mut Outbox<T>) -> State<T> {
    outbox.ask(Action::Revoke(channel));
    State::Established
}

pub(super) fn on_service<T>(message: Box<Message>, outbox: &mut Outbox<T>) -> State<T> {
    outbox.ask(Action::Service(*message));
    State::Established
}

pub(super) fn on_bye<T>(outbox: &mut Outbox<T>) -> State<T> {
    outbox.ask(Action::Bye);
    State::Ended
}
