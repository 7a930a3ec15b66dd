//! The counting job on host processes that stand in for VMs, beside the same copies and the same
//! count in one thread.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::job::Job;

use super::programs::Programs;
use super::sample::Samples;
use crate::report::{fresh, whole};

/// The byte that is counted.
pub const BYTE: u8 = b'e';

/// Size of a worker's slice, in the policy's notation.
pub const SLICE: &str = "16MiB";

/// Room in such a slice for a stripe: a page for the region's head, one for the manager's line of
/// the answers, and a header are not the stripe's.
pub const STRIPE_BYTES: usize = (16 << 20) - 2 * 4096 - 8;

/// Bytes that the job counts here: enough rounds through every slice that their number, and not
/// the first touch of their pages, decides.
const INPUT_BYTES: usize = 512 << 20;

/// Numbers of workers.
const WORKERS: [u16; 2] = [1, 3];

/// Throughputs.
#[derive(Debug, Serialize)]
pub struct Report {
    bytes: u64,
    /// One thread, in MB/s.
    local_mb_s: Samples,
    jobs: Vec<Throughput>,
}

/// The job with a number of workers.
#[derive(Debug, Serialize)]
struct Throughput {
    workers: u16,
    mb_s: Samples,
}

/// Measures one thread and the job in turns.
pub fn measure(programs: &Programs, input: &Path, rounds: u32) -> Result<Report> {
    let folder = tempfile::Builder::new().prefix("sivshm-bench-").tempdir()?;
    // The mapper reads it under its VM's own user.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let input = repeated(input, folder.path())?;
    let path = input.to_str().context("a path that is not UTF-8")?;
    let byte = BYTE.to_string();
    let (mut bytes, mut local_mb_s) = (0, Vec::new());
    let mut jobs = Vec::new();
    for workers in WORKERS {
        let job = Job {
            workers,
            input: input.clone(),
            byte: BYTE,
            mode: "interrupt".to_owned(),
            slice_size: SLICE.to_owned(),
        };
        let mut deployment = Deployment::new(&programs.artifacts, &job.policy(), None)?;
        deployment.up()?;
        let mut mb_s = Vec::new();
        let stripe = STRIPE_BYTES.to_string();
        for _ in 0..rounds {
            let local = programs.run(&[
                "count", "--input", path, "--byte", &byte, "--stripe", &stripe,
            ])?;
            local_mb_s.push(throughput(&local)?);
            let shared = job.on_host(&deployment, &mut |_| {})?.result;
            mb_s.push(throughput(&shared)?);
            ensure!(
                whole(&local, "count")? == whole(&shared, "count")?,
                "the job and one thread differ"
            );
            bytes = whole(&local, "bytes")?;
        }
        deployment.down()?;
        jobs.push(Throughput {
            workers,
            mb_s: mb_s.into_iter().collect(),
        });
    }
    Ok(Report {
        bytes,
        local_mb_s: local_mb_s.into_iter().collect(),
        jobs,
    })
}

/// Megabytes a second that a `result` event states.
pub fn throughput(result: &Value) -> Result<f64> {
    let bytes = result.get("bytes").and_then(Value::as_f64);
    let elapsed_ms = result.get("elapsed_ms").and_then(Value::as_f64);
    let (bytes, elapsed_ms) = bytes.zip(elapsed_ms).context("a result without its time")?;
    Ok(bytes / elapsed_ms / 1e3)
}

/// A file of at least [`INPUT_BYTES`] that repeats `input`.
fn repeated(input: &Path, folder: &Path) -> Result<PathBuf> {
    let bytes = std::fs::read(input).with_context(|| format!("can't read {}", input.display()))?;
    ensure!(!bytes.is_empty(), "{} is empty", input.display());
    let path = folder.join("input");
    let mut file = File::create(&path)?;
    for _ in 0..INPUT_BYTES.div_ceil(bytes.len()) {
        file.write_all(&bytes)?;
    }
    Ok(path)
}

impl Report {
    /// Prints throughputs and ratios.
    pub fn print(&self) {
        let mut table = fresh(["the job on host processes", "MB/s", "of one thread"]);
        let local = &self.local_mb_s;
        table.add_row(["one thread, no sharing", &local.to_string(), "1.00"]);
        for Throughput { workers, mb_s } in &self.jobs {
            table.add_row([
                format!("mapper and reducers: {workers}"),
                mb_s.to_string(),
                format!("{:.2}", mb_s.ratio(local)),
            ]);
        }
        println!("\n{table}");
    }
}
