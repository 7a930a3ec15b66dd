//! Fields that several messages have in common.

use sivshm_abi::grant::{Integrity, Kind};
use sivshm_abi::identity::{SpiffeId, Subject};
use sivshm_abi::wire::{Malformed, Reader};

const KIND_REGION: u8 = 1;
const KIND_RING: u8 = 2;

/// Bytes of a channel's kind with its integrity.
pub(super) const KIND_BYTES: usize = 1 + 4 + 1 + 1;

/// Appends a text of at most 255 bytes with its length.
pub(crate) fn write_text(to: &mut Vec<u8>, text: &str) {
    // Labels are short, and a SPIFFE ID has at most MAX_SPIFFE_ID_BYTES.
    to.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    to.extend(text.as_bytes());
}

fn read_text<'a>(from: &mut Reader<'a>, what: &'static str) -> Result<&'a str, Malformed> {
    let length = from.u8(what)?.into();
    std::str::from_utf8(from.bytes(length, what)?).map_err(|_| Malformed::BadValue(what))
}

/// Reads a text that has to be this one.
pub(super) fn read_label(
    from: &mut Reader<'_>,
    label: &str,
    what: &'static str,
) -> Result<(), Malformed> {
    if read_text(from, what)? == label {
        Ok(())
    } else {
        Err(Malformed::BadValue(what))
    }
}

pub(super) fn write_id(to: &mut Vec<u8>, id: SpiffeId) {
    write_text(to, &id.to_string());
}

/// Reads the SPIFFE ID of a service.
pub(super) fn read_id(from: &mut Reader<'_>, what: &'static str) -> Result<SpiffeId, Malformed> {
    match read_party(from, what)? {
        id @ SpiffeId {
            subject: Subject::Service(..),
            ..
        } => Ok(id),
        _ => Err(Malformed::BadValue(what)),
    }
}

/// Reads the SPIFFE ID of a service or a device process.
pub(super) fn read_party(from: &mut Reader<'_>, what: &'static str) -> Result<SpiffeId, Malformed> {
    SpiffeId::parse(read_text(from, what)?).map_err(|_| Malformed::BadValue(what))
}

/// Appends kind, slot size, overwrite flag and integrity, as a `GRANT` frame numbers them.
pub(super) fn write_kind(to: &mut Vec<u8>, kind: Kind) {
    let (code, slot_bytes, overwrite, integrity) = match kind {
        Kind::Region => (KIND_REGION, 0_u32, false, Integrity::None),
        Kind::Ring {
            slot_bytes,
            overwrite,
            integrity,
        } => (KIND_RING, slot_bytes, overwrite, integrity),
    };
    to.push(code);
    to.extend(slot_bytes.to_le_bytes());
    to.push(overwrite.into());
    to.push(integrity.code());
}

pub(super) fn read_kind(from: &mut Reader<'_>, what: &'static str) -> Result<Kind, Malformed> {
    let (code, slot_bytes) = (from.u8(what)?, from.u32(what)?);
    let (overwrite, integrity) = (from.u8(what)?, Integrity::from_code(from.u8(what)?)?);
    match (code, slot_bytes, overwrite, integrity) {
        (KIND_REGION, 0, 0, Integrity::None) => Ok(Kind::Region),
        (KIND_RING, 1.., 0 | 1, _) => Ok(Kind::Ring {
            slot_bytes,
            overwrite: overwrite == 1,
            integrity,
        }),
        _ => Err(Malformed::BadValue(what)),
    }
}
