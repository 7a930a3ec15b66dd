//! `sivshm up --detach`: the same command again, behind.

use std::env;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio};

use nix::unistd::{dup2_stdout, setsid};

use super::{DEVELOPMENT, Ready};
use crate::failure::{Failure, Outcome};
use crate::layout::Layout;
use crate::log::last_lines;

/// How many lines of the log are shown when the background process fails.
const SHOWN_LINES: usize = 8;

/// Starts this command again in the background and waits until it is ready.
///
/// # Errors
/// It ended instead; with the end of its log.
pub fn behind(layout: &Layout) -> Outcome<Ready> {
    let log_path = layout.supervisor_log();
    let folder = layout.paths.log_dir();
    std::fs::create_dir_all(folder).map_err(Failure::on("create", folder))?;
    let log = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(Failure::on("open", &log_path))?;
    let earlier = log.metadata().map_or(0, |metadata| metadata.len());
    let program = env::current_exe().map_err(Failure::to("find this program"))?;
    let arguments = env::args_os().skip(1).filter(|word| word != "--detach");
    let mut child = Command::new(&program)
        .args(arguments)
        .arg("--detached")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(Failure::on("start", &program))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .map_err(Failure::to("wait for the background process"))?;
    }
    if let Ok(ready) = serde_json::from_str::<Ready>(&line) {
        if ready.development {
            eprintln!("sivshm: {DEVELOPMENT}");
        }
        return Ok(ready);
    }
    let status = child
        .wait()
        .map_err(Failure::to("wait for the background process"))?;
    let report = format!(
        "it did not get ready; {} ends with:\n{}",
        log_path.display(),
        last_lines(&log_path, earlier, SHOWN_LINES)
    );
    Err(match status.code() {
        Some(2) => Failure::Policy(report),
        Some(3) => Failure::Refused {
            who: "the background process".into(),
            reason: report,
        },
        _ => Failure::Host(report),
    })
}

/// In the background process: begins a session of its own, so that no terminal's end reaches it.
///
/// # Errors
/// The process leads a group already, which a freshly started one never does.
pub fn begin() -> Outcome {
    setsid().map_err(Failure::to("begin a session"))?;
    Ok(())
}

/// In the background process: lets go of the starter's pipe, which is how the starter's own
/// standard output can end.
///
/// # Errors
/// There is no `/dev/null`.
pub fn let_go() -> Outcome {
    let null = File::options()
        .write(true)
        .open("/dev/null")
        .map_err(Failure::to("open /dev/null"))?;
    dup2_stdout(&null).map_err(Failure::to("let go of standard output"))
}
