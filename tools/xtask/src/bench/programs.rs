//! The programs that are measured, and the one that measures.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sivshm_tests::artifacts::Artifacts;
use sivshm_tests::deployment::Deployment;
use sivshm_tests::job::SERVICE_USER;
use sivshm_tests::process::output_of;

use crate::build;

/// Built programs.
#[derive(Debug)]
pub struct Programs {
    /// Everything of a deployment; the folder of guest programs holds `bench` too.
    pub artifacts: Artifacts,
}

impl Programs {
    /// Builds `bench` beside the guest programs of `artifacts`.
    pub fn build(artifacts: Artifacts) -> Result<Self> {
        build::collect(
            "programs",
            &build::guest_programs(&["sivshm-bench"])?,
            &["bench"],
        )?;
        Ok(Self { artifacts })
    }

    /// The static program of `tests/bench`.
    pub fn bench(&self) -> PathBuf {
        self.artifacts.guest.join("bench")
    }

    /// Runs it on the host and returns its event.
    pub fn run(&self, arguments: &[&str]) -> Result<Value> {
        let text = output_of(Command::new(self.bench()).args(arguments))?;
        Ok(serde_json::from_str(&text)?)
    }
}

/// A command line of `bench` as a service, in place of its VM.
pub fn attached<A: AsRef<OsStr>>(
    deployment: &Deployment,
    vm: &str,
    service: &str,
    arguments: &[A],
) -> Command {
    let mut command = deployment.run(vm);
    command.args(["--attach", "--guest-uid", &SERVICE_USER.to_string()]);
    command.args(["--service", service, "--"]);
    command.arg(deployment.artifacts().guest.join("bench"));
    command.args(arguments);
    command
}

/// Numbers of an event's field.
pub fn numbers(event: &Value, field: &str) -> Result<Vec<f64>> {
    let list = event.get(field).and_then(Value::as_array);
    let list = list.with_context(|| format!("an event without a list `{field}`"))?;
    Ok(list.iter().filter_map(Value::as_f64).collect())
}
