//! The ledger: one line for each certificate that was ever issued, on the disk before the
//! certificate leaves the CA.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use time::OffsetDateTime;

use crate::files::{Context, FileError};
use crate::profile::Serial;

/// What the ledger says of one certificate. Written as one JSON object on one line.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Serial number.
    pub serial: Serial,
    /// The one URI of the certificate.
    pub spiffe_id: String,
    /// First second of its life.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// Last second of its life.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// SHA-256 of its public key, in hexadecimal.
    pub key_sha256: String,
    /// Serial number of the certificate that signed it; its own for the root.
    pub issuer: Serial,
}

impl Record {
    /// The record as the line that the ledger holds, newline included.
    ///
    /// # Errors
    /// A date that RFC 3339 can't write: a year beyond 9999.
    pub fn to_line(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self).map(|json| json + "\n")
    }
}

/// The ledger of an existing CA, open for appending only.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
}

impl Ledger {
    /// Opens an existing ledger. A CA whose ledger is gone issues nothing.
    ///
    /// # Errors
    /// It is missing, or the host refused.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(path)
            .context("open the ledger", path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Appends a record and returns once it is on the disk.
    ///
    /// A crash in the middle leaves a line without its end: the record of a certificate that
    /// never left. The next record begins on a line of its own, and nothing is ever cut off.
    ///
    /// # Errors
    /// The host refused; the certificate must not leave then.
    pub fn append(&mut self, record: &Record) -> Result<(), FileError> {
        self.try_append(record)
            .context("write the ledger", &self.path)
    }

    fn try_append(&mut self, record: &Record) -> io::Result<()> {
        let line = record.to_line()?;
        self.file.lock()?;
        let written = self.try_write(&line);
        self.file.unlock()?;
        written
    }

    fn try_write(&mut self, line: &str) -> io::Result<()> {
        let length = self.file.seek(SeekFrom::End(0))?;
        let mut last = [b'\n'];
        if length > 0 {
            self.file.seek(SeekFrom::Start(length - 1))?;
            self.file.read_exact(&mut last)?;
        }
        let separator = if last == [b'\n'] { "" } else { "\n" };
        self.file
            .write_all(format!("{separator}{line}").as_bytes())?;
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            serial: Serial::random().unwrap(),
            spiffe_id: "spiffe://car.example".into(),
            not_before: OffsetDateTime::UNIX_EPOCH,
            not_after: OffsetDateTime::UNIX_EPOCH,
            key_sha256: "00".into(),
            issuer: Serial::random().unwrap(),
        }
    }

    #[test]
    fn a_torn_line_is_kept_and_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        let (first, second) = (record(), record());
        let torn = format!("{}{{\"serial\":\"4", first.to_line().unwrap());
        std::fs::write(&path, &torn).unwrap();
        Ledger::open(&path).unwrap().append(&second).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!("{torn}\n{}", second.to_line().unwrap())
        );
    }

    #[test]
    fn a_missing_ledger_is_not_made_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        assert!(Ledger::open(&path).is_err());
        assert!(!path.exists());
    }
}
