//! The job's copies and its count in one thread of one process: nobody to share with, nobody to
//! wait for.

use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sivshm_examples::count::count;
use sivshm_examples::protocol::CHUNK_BYTES;

use crate::stripes::Input;

/// Copies a file stripe by stripe into memory and out again, and counts a byte in it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    input: Input,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Value> {
    let mut stripes = args.input.open(1)?;
    let mut stripe = vec![0; args.input.stripe];
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut bytes, mut found) = (0, 0);
    let start = Instant::now();
    while stripes.next_bytes() > 0 {
        let mut filled = 0;
        stripes.next(|piece| {
            let room = stripe.get_mut(filled..filled + piece.len());
            room.context("a stripe too long")?.copy_from_slice(piece);
            filled += piece.len();
            Ok(())
        })?;
        for part in stripe.split_at(filled).0.chunks(CHUNK_BYTES) {
            let (chunk, _) = chunk.split_at_mut(part.len());
            chunk.copy_from_slice(part);
            found += count(chunk, args.input.byte);
        }
        bytes += u64::try_from(filled)?;
    }
    let elapsed_ms = start.elapsed().as_secs_f64() * 1e3;
    Ok(json!({ "event": "result", "bytes": bytes, "count": found, "elapsed_ms": elapsed_ms }))
}
