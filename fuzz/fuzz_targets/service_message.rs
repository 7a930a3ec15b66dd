//! The stream of messages that a hostile service, or its device process, could send inside TLS.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sivshm_handshake::service::wire::Message;

// A message that is read is the only one with these bytes.
fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((message, used))) = Message::take(rest) {
        assert_eq!(message.to_bytes(), rest[..used]);
        rest = &rest[used..];
    }
});
