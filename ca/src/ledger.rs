//! The ledger: one line for each certificate that was ever issued or revoked and for each
//! revocation list, on the disk before any of them leaves the CA.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::files::{Context, FileError};
use crate::profile::{Reason, Serial, Validity};

/// One line of the ledger: a JSON object whose `kind` says which.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// A certificate was issued.
    Issued(Record),
    /// A certificate was revoked.
    Revoked(Revocation),
    /// A revocation list was made.
    Crl(CrlRecord),
}

/// What the ledger says of one certificate.
#[derive(Clone, Debug, Deserialize, Serialize)]
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

/// What the ledger says of one revocation.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Revocation {
    /// Serial number of the certificate.
    pub serial: Serial,
    /// Its one URI.
    pub spiffe_id: String,
    /// When it was revoked.
    #[serde(with = "time::serde::rfc3339")]
    pub revoked: OffsetDateTime,
    /// Why.
    pub reason: Reason,
    /// Serial number of the certificate that signed it, and signs the list that it is on.
    pub issuer: Serial,
}

/// What the ledger says of one revocation list.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CrlRecord {
    /// Serial number of the certificate that signed it.
    pub issuer: Serial,
    /// Its number: each list of a signer has a larger one than the last.
    pub number: u64,
    /// First second of its life.
    #[serde(with = "time::serde::rfc3339")]
    pub this_update: OffsetDateTime,
    /// Last second of its life.
    #[serde(with = "time::serde::rfc3339")]
    pub next_update: OffsetDateTime,
    /// How many certificates are on it.
    pub entries: usize,
}

impl CrlRecord {
    pub(crate) fn new(issuer: Serial, number: u64, life: Validity, entries: usize) -> Self {
        Self {
            issuer,
            number,
            this_update: life.not_before,
            next_update: life.not_after,
            entries,
        }
    }
}

impl Entry {
    /// The entry as its line, newline included.
    ///
    /// # Errors
    /// A date that RFC 3339 can't write: a year beyond 9999.
    pub fn to_line(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self).map(|json| json + "\n")
    }
}

/// The ledger of an existing CA, open for reading and appending only.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
}

/// A ledger that no other process changes for now.
#[derive(Debug)]
pub struct LockedLedger<'a>(&'a Ledger);

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

    /// Waits until no other process holds the ledger, and holds it.
    ///
    /// # Errors
    /// The host refused.
    pub fn lock(&self) -> Result<LockedLedger<'_>, FileError> {
        self.file.lock().context("lock the ledger", &self.path)?;
        Ok(LockedLedger(self))
    }
}

impl LockedLedger<'_> {
    /// Appends entries and returns once they are on the disk.
    ///
    /// A crash in the middle leaves a line without its end: the record of something that never
    /// left. The next entry begins on a line of its own, and nothing is ever cut off.
    ///
    /// # Errors
    /// The host refused; what the entries record must not leave then.
    pub fn append(&self, entries: &[Entry]) -> Result<(), FileError> {
        self.try_append(entries)
            .context("write the ledger", &self.0.path)
    }

    fn try_append(&self, entries: &[Entry]) -> io::Result<()> {
        let lines = entries.iter().map(Entry::to_line);
        let lines = lines.collect::<Result<String, _>>()?;
        let mut file = &self.0.file;
        let length = file.seek(SeekFrom::End(0))?;
        let mut last = [b'\n'];
        if length > 0 {
            file.seek(SeekFrom::Start(length - 1))?;
            file.read_exact(&mut last)?;
        }
        let separator = if last == [b'\n'] { "" } else { "\n" };
        file.write_all(format!("{separator}{lines}").as_bytes())?;
        file.sync_all()
    }

    /// Shows every entry, the oldest first. Lines that a crash tore are left out.
    ///
    /// # Errors
    /// The host refused, or a line is no entry and was not torn either: who knows what it said?
    pub fn for_each(&self, see: impl FnMut(Entry)) -> Result<(), FileError> {
        self.try_for_each(see)
            .context("read the ledger", &self.0.path)
    }

    fn try_for_each(&self, mut see: impl FnMut(Entry)) -> io::Result<()> {
        let mut file = &self.0.file;
        file.seek(SeekFrom::Start(0))?;
        for (number, line) in (1..).zip(BufReader::new(file).split(b'\n')) {
            match serde_json::from_slice(&line?) {
                Ok(entry) => see(entry),
                Err(torn) if torn.is_eof() => {}
                Err(_) => {
                    let what = format!("line {number} is no entry: restore it from its backup");
                    return Err(io::Error::other(what));
                }
            }
        }
        Ok(())
    }
}

impl Drop for LockedLedger<'_> {
    fn drop(&mut self) {
        // The lock ends with the file at the latest.
        let _ = self.0.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry::Issued(Record {
            serial: Serial::random().unwrap(),
            spiffe_id: "spiffe://car.example".into(),
            not_before: OffsetDateTime::UNIX_EPOCH,
            not_after: OffsetDateTime::UNIX_EPOCH,
            key_sha256: "00".into(),
            issuer: Serial::random().unwrap(),
        })
    }

    fn serials(path: &Path) -> Result<Vec<Serial>, FileError> {
        let mut serials = Vec::new();
        Ledger::open(path)?.lock()?.for_each(|entry| {
            if let Entry::Issued(record) = entry {
                serials.push(record.serial);
            }
        })?;
        Ok(serials)
    }

    #[test]
    fn a_torn_line_is_kept_and_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        let (first, second) = (entry(), entry());
        let lines = [&first, &second].map(|entry| entry.to_line().unwrap());
        let whole = lines[1].trim_end();
        for cut in 0..whole.len() {
            let torn = format!("{}{}", lines[0], whole.get(..cut).unwrap());
            std::fs::write(&path, &torn).unwrap();
            let ledger = Ledger::open(&path).unwrap();
            ledger
                .lock()
                .unwrap()
                .append(std::slice::from_ref(&second))
                .unwrap();
            let separator = if cut == 0 { "" } else { "\n" };
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text, format!("{torn}{separator}{}", lines[1]));
            assert_eq!(serials(&path).unwrap().len(), 2, "{text}");
        }
    }

    #[test]
    fn a_line_that_was_changed_is_an_error_and_not_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        let line = entry().to_line().unwrap();
        for changed in [
            line.replace("issued", "unknown"),
            line.replace("serial", "cereal"),
            line.replace('"', "'"),
            "\0\0\0\n".to_owned(),
        ] {
            std::fs::write(&path, format!("{line}{changed}{line}")).unwrap();
            let error = serials(&path).unwrap_err();
            assert!(error.source.to_string().contains("line 2"), "{error:?}");
        }
    }

    #[test]
    fn a_missing_ledger_is_not_made_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        assert!(Ledger::open(&path).is_err());
        assert!(!path.exists());
    }
}
