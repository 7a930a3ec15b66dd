//! What mapper and reducer say to each other. Integers are little-endian.

/// Bytes in front of a stripe: the byte to count, and seven of padding. A message without a header
/// ends the job.
pub const HEADER_BYTES: usize = 8;

/// Bytes that a reducer copies out and counts at a time: half of a small second-level cache.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Name of the channel that carries stripes to worker `number`.
#[must_use]
pub fn job_channel(number: u16) -> String {
    format!("job-{number}")
}

/// Name of the channel that carries worker `number`'s answers.
#[must_use]
pub fn result_channel(number: u16) -> String {
    format!("result-{number}")
}

/// Name of the service that maps, in any VM.
pub const MAPPER: &str = "mapper";

/// Name of the service that reduces, in every worker's VM.
pub const REDUCER: &str = "reducer";

/// The mapper as a reducer expects it.
pub const MANAGER: &str = "manager/mapper";

/// Worker `number`'s reducer as the mapper expects it.
#[must_use]
pub fn reducer(number: u16) -> String {
    format!("{}/{REDUCER}", worker(number))
}

/// Name of worker `number`'s VM.
#[must_use]
pub fn worker(number: u16) -> String {
    format!("worker-{number}")
}

/// The header of a stripe.
#[must_use]
pub const fn header(wanted: u8) -> [u8; HEADER_BYTES] {
    [wanted, 0, 0, 0, 0, 0, 0, 0]
}

/// A reducer's answer to one stripe.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Number of the message that held the stripe.
    pub round: u64,
    /// How often the byte was in it.
    pub count: u64,
    /// Bytes of the stripe.
    pub bytes: u64,
}

impl Answer {
    /// Bytes of an answer.
    pub const BYTES: usize = 24;

    /// The answer's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let fields = [self.round, self.count, self.bytes];
        for (place, field) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *place = field.to_le_bytes();
        }
        bytes
    }

    /// Reads an answer.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let (fields, _) = bytes.as_chunks::<8>();
        let mut fields = fields.iter().map(|field| u64::from_le_bytes(*field));
        let mut next = || fields.next().unwrap_or_default();
        Self {
            round: next(),
            count: next(),
            bytes: next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_survives_its_bytes() {
        let answer = Answer {
            round: 1,
            count: u64::MAX,
            bytes: 1 << 40,
        };
        assert_eq!(Answer::from_bytes(&answer.to_bytes()), answer);
        assert_eq!(answer.to_bytes()[..2], [1, 0]);
    }
}
