//! What a reload refuses: the operator's tool and the supervisor, before real device processes.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::{Command, Output};
    use std::time::Duration;

    use anyhow::{Context as _, Result};
    use nix::sys::signal::Signal;
    use serde_json::Value;
    use sivshm_tests::artifacts::Artifacts;
    use sivshm_tests::deployment::Deployment;
    use sivshm_tests::process::output_of;

    /// Longest time for the supervisor to say what came of a reload.
    const RELOAD_LIMIT: Duration = Duration::from_secs(30);

    fn policy(serial: u32) -> String {
        format!(
            "version = 1\ntrust_domain = \"reload.example\"\nserial = {serial}\n\
             [[vm]]\nname = \"alpha\"\n[[vm]]\nname = \"beta\"\n"
        )
    }

    /// Hands out the CA's next revocation list.
    fn next_list(deployment: &Deployment) -> Result<()> {
        let etc = deployment.etc();
        let mut ca = Command::new(deployment.artifacts().bin.join("sivshm-ca"));
        ca.arg("crl").arg("--dir").arg(etc.join("ca"));
        output_of(ca.arg("--out").arg(etc.join("crl.pem"))).map(drop)
    }

    fn reload(deployment: &Deployment) -> Result<Output> {
        Ok(deployment.command("reload").output()?)
    }

    /// The serial of the policy that each device process has in force.
    fn serials(deployment: &Deployment) -> Result<Vec<u64>> {
        let status = deployment.status()?;
        let vms = status["vms"].as_array().context("VMs")?;
        let serial = |vm: &Value| vm["device"]["policy_serial"].as_u64();
        vms.iter()
            .map(serial)
            .collect::<Option<_>>()
            .context("serials")
    }

    /// The last thing that the operator was told, by the audit.
    fn last_word(audit: &Path) -> Result<Value> {
        let text = fs::read_to_string(audit)?;
        let records = text.lines().map(serde_json::from_str::<Value>);
        let records = records.collect::<Result<Vec<_>, _>>()?;
        let mut admin = records
            .into_iter()
            .filter(|record| record["event"] == "admin");
        admin.next_back().context("a record of the operator")
    }

    #[test]
    fn an_older_revocation_list_is_refused_and_changes_nothing() {
        let run = || -> Result<()> {
            let artifacts = Artifacts::from_env()?;
            let mut deployment = Deployment::new(&artifacts, &policy(1), None)?;
            let etc = deployment.etc();
            let old = fs::read(etc.join("crl.pem"))?;
            deployment.up()?;
            next_list(&deployment)?;
            assert!(reload(&deployment)?.status.success());

            // Even with a newer policy: the reload is refused as a whole.
            fs::write(etc.join("crl.pem"), &old)?;
            fs::write(etc.join("policy.toml"), policy(2))?;
            let refused = reload(&deployment)?;
            let said = String::from_utf8_lossy(&refused.stderr);
            assert_eq!(refused.status.code(), Some(3), "{said}");
            let reason = "host: the revocation list of `O=reload.example, CN=SIVSHM intermediate` ";
            let numbers = "has number 1, which is older than number 2 in force; \
                           hand out the CA's newest list";
            let nothing = "; nothing was changed anywhere";
            for words in [reason, numbers, nothing] {
                assert!(said.contains(words), "{said}");
            }
            assert_eq!(serials(&deployment)?, [1, 1]);
            let word = last_word(&deployment.log_dir().join("alpha.audit.jsonl"))?;
            assert_eq!(
                (&word["decision"], &word["blame"]),
                (&"deny".into(), &"host".into())
            );
            assert!(
                word["reason"]
                    .as_str()
                    .is_some_and(|why| why.contains(numbers)),
                "{word}"
            );

            // The supervisor does the same by itself.
            let supervisor = deployment.supervisor().context("the supervisor")?;
            supervisor.signal(Signal::SIGHUP)?;
            supervisor.wait_for("its refusal", RELOAD_LIMIT, |line| {
                (line.text.contains("reload: ") && line.text.contains(numbers)).then_some(())
            })?;
            assert_eq!(serials(&deployment)?, [1, 1]);

            next_list(&deployment)?;
            assert!(reload(&deployment)?.status.success());
            assert_eq!(serials(&deployment)?, [2, 2]);
            deployment.down()
        };
        run().unwrap();
    }
}
