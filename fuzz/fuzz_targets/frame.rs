//! The control memory as a hostile guest or host could fill it: frames, grants, the directory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sivshm_abi::directory::{DirectoryHead, WindowEntry};
use sivshm_abi::frame::{FrameHeader, LONGEST_PAYLOAD_BYTES, Payload};
use sivshm_abi::wire::{Reader, Writer};

fuzz_target!(|bytes: &[u8]| {
    frame(bytes);
    let mut from = Reader::new(bytes);
    if DirectoryHead::read(&mut from).is_ok() {
        while WindowEntry::read(&mut from).is_ok() {}
    }
});

/// A payload that is read can be written, within its bound, and is read again as the same.
fn frame(bytes: &[u8]) {
    let Some((header, payload)) = bytes.split_first_chunk() else {
        return;
    };
    let Ok(header) = FrameHeader::from_bytes(header) else {
        return;
    };
    let Ok(read) = Payload::read(header.kind, payload) else {
        return;
    };
    let mut space = [0; LONGEST_PAYLOAD_BYTES];
    let mut writer = Writer::new(&mut space);
    read.write(&mut writer)
        .expect("the payload is within its bound");
    let written = writer.written();
    assert_eq!(Payload::read(header.kind, &space[..written]), Ok(read));
}
