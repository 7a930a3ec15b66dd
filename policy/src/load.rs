//! Reading a policy from its file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::grammar::MAX_POLICY_BYTES;
use crate::plan::Plan;
use crate::source::PolicyErrors;

/// Why a policy could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The host does not give the file, or it is not text.
    #[error("can't read the policy {}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is there, but it is wrong.
    #[error(transparent)]
    Policy(#[from] PolicyErrors),
}

/// Reads and compiles a policy file.
///
/// # Errors
/// [`LoadError::Read`] is the host's fault, [`LoadError::Policy`] the policy's.
pub fn load(path: &Path) -> Result<Plan, LoadError> {
    let text = read(path).map_err(|source| LoadError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(crate::compile(&path.display().to_string(), &text)?)
}

/// Reads one byte more than a policy may have at most, so that a longer one is noticed.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let most = MAX_POLICY_BYTES as u64 + 1;
    File::open(path)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}
