//! Reading a policy file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use sivshm_policy::MAX_POLICY_BYTES;
use sivshm_policy::plan::Plan;

use crate::failure::{Failure, Outcome};

/// Reads and compiles a policy; gives its text too, because what was compiled is what is kept.
///
/// # Errors
/// The file can't be read, or the policy is refused; with everything that is wrong.
pub fn compile(path: &Path) -> Outcome<(String, Plan)> {
    let text = read(path).map_err(Failure::on("read the policy", path))?;
    let plan = sivshm_policy::compile(&path.display().to_string(), &text)
        .map_err(|errors| Failure::Policy(format!("the policy is refused\n{errors}")))?;
    Ok((text, plan))
}

/// Reads one byte more than a policy may have at most, so that a longer one is noticed.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let most = MAX_POLICY_BYTES as u64 + 1;
    File::open(path)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}
