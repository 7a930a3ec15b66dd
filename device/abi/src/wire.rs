//! Bounded reading and writing of little-endian fields.
//!
//! A [`Reader`] hands out fields and never more than it was given; a [`Writer`] refuses what does
//! not fit. Both are the only way that frames, directory entries and handshake messages are
//! turned into values, so that a length is judged once and in one place.

use core::fmt;

/// Why bytes from the other side are not what they should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// The bytes end inside the field named.
    Truncated(&'static str),
    /// Bytes are left over behind the last field of the thing named.
    Trailing(&'static str),
    /// The field named has a value that it can't have.
    BadValue(&'static str),
    /// The list named is longer than its bound.
    TooMany {
        /// Which list.
        what: &'static str,
        /// Its bound.
        max: usize,
    },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated(what) => write!(f, "the bytes end inside {what}"),
            Self::Trailing(what) => write!(f, "bytes are left over behind {what}"),
            Self::BadValue(what) => write!(f, "{what} has a value that it can't have"),
            Self::TooMany { what, max } => write!(f, "more than {max} {what}"),
        }
    }
}

impl core::error::Error for Malformed {}

/// Reads fields from the front of a byte string.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not read yet.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] naming `what` if fewer are left.
    pub fn bytes(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(Malformed::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] naming `what` if fewer are left.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(Malformed::Truncated(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// As [`Self::array`].
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    /// A 16-bit integer.
    ///
    /// # Errors
    /// As [`Self::array`].
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// A 32-bit integer.
    ///
    /// # Errors
    /// As [`Self::array`].
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A 64-bit integer.
    ///
    /// # Errors
    /// As [`Self::array`].
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Ends the reading: nothing may be left.
    ///
    /// # Errors
    /// [`Malformed::Trailing`] naming `what` if bytes are left.
    pub const fn finish(self, what: &'static str) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Trailing(what))
        }
    }
}

/// A value did not fit the space it was to be written to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NoSpace;

impl fmt::Display for NoSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value does not fit the space it was to be written to")
    }
}

impl core::error::Error for NoSpace {}

/// Writes fields to the front of a byte buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    written: usize,
}

impl<'a> Writer<'a> {
    /// Starts at the front of `buffer`.
    pub const fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, written: 0 }
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn written(&self) -> usize {
        self.written
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`NoSpace`] if they do not fit; nothing is written then.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), NoSpace> {
        let end = self.written.checked_add(bytes.len()).ok_or(NoSpace)?;
        self.buffer
            .get_mut(self.written..end)
            .ok_or(NoSpace)?
            .copy_from_slice(bytes);
        self.written = end;
        Ok(())
    }

    /// Appends one byte.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub fn u8(&mut self, value: u8) -> Result<(), NoSpace> {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a 16-bit integer.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub fn u16(&mut self, value: u16) -> Result<(), NoSpace> {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a 32-bit integer.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub fn u32(&mut self, value: u32) -> Result<(), NoSpace> {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a 64-bit integer.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub fn u64(&mut self, value: u64) -> Result<(), NoSpace> {
        self.bytes(&value.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_never_gives_more_than_it_has() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u16("x"), Ok(0x0201));
        assert_eq!(reader.u16("y"), Err(Malformed::Truncated("y")));
        assert_eq!(reader.clone().finish("z"), Err(Malformed::Trailing("z")));
        assert_eq!(reader.u8("w"), Ok(3));
        assert_eq!(reader.finish("z"), Ok(()));
    }

    #[test]
    fn a_writer_refuses_what_does_not_fit() {
        let mut space = [0; 3];
        let mut writer = Writer::new(&mut space);
        assert_eq!(writer.u16(0x0201), Ok(()));
        assert_eq!(writer.u16(7), Err(NoSpace));
        assert_eq!(writer.u8(3), Ok(()));
        assert_eq!(space, [1, 2, 3]);
    }
}
