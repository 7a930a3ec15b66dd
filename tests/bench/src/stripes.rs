//! The file of the job, cut into stripes as the mapper cuts it.

use std::fs::File;
use std::io::{Read as _, Take};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use sivshm_examples::arguments::byte;

/// Bytes read at a time: the mapper's.
pub const PIECE_BYTES: usize = 256 * 1024;

/// What is counted, and in stripes of which size.
#[derive(Debug, clap::Args)]
pub struct Input {
    /// The file, or a block device that holds it
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Bytes of the file; needed where FILE is a device
    #[arg(long, value_name = "BYTES")]
    input_bytes: Option<u64>,
    /// The byte to count, as 10 or 0x0a
    #[arg(long, value_parser = byte)]
    pub byte: u8,
    /// Longest stripe: what a slice of the job has room for
    #[arg(long, value_name = "BYTES")]
    pub stripe: usize,
}

/// What is left of the file.
#[derive(Debug)]
pub struct Stripes {
    file: Take<File>,
    share: u64,
    piece: Vec<u8>,
}

impl Input {
    /// Opens the file for `workers` workers.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn open(&self, workers: usize) -> Result<Stripes> {
        let file =
            File::open(&self.input).with_context(|| format!("can't open {:?}", self.input))?;
        let total = match self.input_bytes {
            Some(bytes) => bytes,
            None => file.metadata()?.len(),
        };
        let share = total.div_ceil(u64::try_from(workers)?).max(1);
        Ok(Stripes {
            file: file.take(total),
            share: share.min(u64::try_from(self.stripe)?),
            piece: vec![0; PIECE_BYTES],
        })
    }
}

impl Stripes {
    /// Bytes of the next stripe; none are left if 0.
    pub fn next_bytes(&self) -> u64 {
        self.share.min(self.file.limit())
    }

    /// Reads the next stripe and hands its pieces to `sink`.
    ///
    /// # Errors
    /// It can't be read, or what `sink` says.
    pub fn next(&mut self, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut left = usize::try_from(self.next_bytes())?;
        while left > 0 {
            let (piece, _) = self.piece.split_at_mut(PIECE_BYTES.min(left));
            self.file
                .read_exact(piece)
                .context("can't read the input")?;
            sink(piece)?;
            left -= piece.len();
        }
        Ok(())
    }
}
