//! The command line of `sivshm-ca`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use sivshm_abi::identity::SpiffeId;
use sivshm_abi::name::{ServiceName, TrustDomain, VmName};
use sivshm_ca::profile::{MAX_LEAF_LIFE, MIN_LEAF_LIFE, Reason, Serial};

/// Makes a SIVSHM certificate authority, issues SPIFFE X509-SVIDs from it and revokes them
#[derive(Parser)]
#[command(
    version,
    max_term_width = 100,
    after_long_help = "\
Examples:
  Make the CA of the trust domain car.example:
    sivshm-ca init --domain car.example --dir /etc/sivshm/car.example/ca

  Issue the SVID of the device process of VM ivi, for a day:
    sivshm-ca issue --dir /etc/sivshm/car.example/ca \\
        device ivi --out /etc/sivshm/car.example/vm/ivi

  Issue the SVID of service camera in VM ivi, for an hour:
    sivshm-ca issue --dir /etc/sivshm/car.example/ca --ttl 1h \\
        service ivi camera --out /etc/sivshm/car.example/vm/ivi/svc

  Take the SVIDs of that service back, and have every device process know at once:
    sivshm-ca revoke --dir /etc/sivshm/car.example/ca \\
        --id spiffe://car.example/vm/ivi/svc/camera --reason key-compromise
    cp /etc/sivshm/car.example/ca/crl.pem /etc/sivshm/car.example/crl.pem
    sivshm reload

Exit status:
  0  done
  1  not done: the message says whether the host or the state of the CA is in the way
  2  the command line is wrong; nothing was touched"
)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do
#[derive(Subcommand)]
pub enum Command {
    Init(Init),
    Issue(Issue),
    Revoke(Revoke),
    Crl(Crl),
}

/// Make a CA: a root, an intermediate, their CRLs and the ledger
///
/// The root lives 10 years, the intermediate 30 days; leaves can be issued while the intermediate
/// lives. The directory appears whole or not at all; an existing CA is never overwritten. If the
/// command is interrupted, what it leaves is a directory `.NAME.RANDOM` beside the place, which can
/// be removed.
///
/// Hand out DIR/bundle.pem, the trust bundle, and DIR/crl.pem, the CRLs, to every device
/// process. Move DIR/root.key off the machine: issuing and revoking do not need it. Anyone who reads DIR/intermediate.key can speak for every
/// party of the domain until the intermediate ends.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_long_help = "\
Example:
  sivshm-ca init --domain car.example --dir /etc/sivshm/car.example/ca"
)]
pub struct Init {
    /// Trust domain: a-z, 0-9, `.`, `-`, `_`, at most 63 bytes
    #[arg(long, value_name = "DOMAIN")]
    pub domain: TrustDomain,
    /// Directory of the new CA; it must not exist or be empty
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Issue a certificate with a fresh key to a device process or a service
///
/// Every certificate is recorded in DIR/ledger.jsonl, on the disk, before it is written to OUTDIR.
/// A certificate and key of the same name in OUTDIR are replaced.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  sivshm-ca issue --dir ca device ivi --out vm/ivi
      writes vm/ivi/device.pem and vm/ivi/device.key
  sivshm-ca issue --dir ca --ttl 1h --json service ivi camera --out vm/ivi/svc
      writes vm/ivi/svc/camera.pem and vm/ivi/svc/camera.key, prints the ledger's record")]
pub struct Issue {
    /// Directory of the CA
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Life of the certificate, 1h to 24h, as a number with h, m or s; it ends with the
    /// intermediate if that is sooner
    ///
    /// A device process reads its certificate once, when it starts, so a short life means
    /// restarting it; a long one gives a thief of the key more time.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_life)]
    pub ttl: Duration,
    /// Print the ledger's record and the paths written as one JSON object
    #[arg(long)]
    pub json: bool,
    /// To whom
    #[command(subcommand)]
    pub party: Party,
}

/// To whom a certificate is issued
#[derive(Subcommand)]
pub enum Party {
    /// The device process of a VM: spiffe://DOMAIN/vm/VM/device
    Device {
        /// Name of the VM in the policy
        vm: VmName,
        /// Directory for device.pem (certificate and intermediate) and device.key (PKCS#8, 0600)
        #[arg(long, value_name = "OUTDIR")]
        out: PathBuf,
    },
    /// A service in a VM: spiffe://DOMAIN/vm/VM/svc/SERVICE
    Service {
        /// Name of the VM in the policy
        vm: VmName,
        /// Name of the service in the policy
        service: ServiceName,
        /// Directory for SERVICE.pem (certificate and intermediate) and SERVICE.key (PKCS#8, 0600)
        #[arg(long, value_name = "OUTDIR")]
        out: PathBuf,
    },
}

/// Revoke certificates of device processes and services
///
/// Records the revocation in DIR/ledger.jsonl, on the disk, and then replaces DIR/crl.pem by a CRL
/// that has it. Nobody knows of it before that file is handed out: copy it to where device processes
/// read it and run `sivshm reload`. They end what stands on a revoked certificate.
///
/// A certificate that was revoked before stays revoked as it was; the CRL is made anew all the same,
/// so a revocation that was interrupted is completed by repeating it. There is no way back: issue a
/// new certificate. The intermediate can't be revoked, as that takes the root's key: make a new CA.
#[derive(clap::Args)]
#[command(
    group = clap::ArgGroup::new("which").required(true).args(["serial", "id"]),
    after_long_help = "\
Examples:
  sivshm-ca revoke --dir ca --serial 4af81c6f5c7a0c6e1d1f3a8d2b9e0471
      one certificate; its number is in the ledger, in what `issue` prints, and in
      `openssl x509 -noout -serial -in camera.pem`
  sivshm-ca revoke --dir ca --id spiffe://car.example/vm/ivi/svc/camera --reason key-compromise
      all certificates that this service ever got

Exit status:
  0  revoked, now or before, and the CRL is in its place
  1  not done, or the CRL not written: the message says which
  2  the command line is wrong; nothing was touched"
)]
pub struct Revoke {
    /// Directory of the CA
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Serial number of the one certificate, hexadecimal, with or without colons
    #[arg(long, value_name = "HEX")]
    pub serial: Option<Serial>,
    /// Party whose certificates to revoke, all that were ever issued to it
    #[arg(long, value_name = "SPIFFE-ID", value_parser = SpiffeId::parse)]
    pub id: Option<SpiffeId>,
    /// Why; it is in the CRL, for people and tools that read it
    #[arg(long, value_name = "REASON", default_value = "unspecified", value_parser = reasons())]
    pub reason: Reason,
    /// Print what was revoked, now and before, and the CRL's record as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Make the CRL anew
///
/// Replaces DIR/crl.pem by a CRL of all that the ledger says is revoked, with the next number. This
/// is needed only if that file is lost or an interrupted `revoke` left an old one: the CRL lives as
/// long as the intermediate, and `init` and `revoke` make it by themselves.
///
/// The file has two CRLs: the root's, made by `init`, which says that the intermediate stands, and the
/// intermediate's, which says which leaves do not.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  sivshm-ca crl --dir ca
      puts a new CRL at ca/crl.pem
  sivshm-ca crl --dir ca --out /etc/sivshm/car.example/crl.pem && sivshm reload
      puts it to where device processes read it, too, and has them read it")]
pub struct Crl {
    /// Directory of the CA
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// File to replace by the CRL, beside DIR/crl.pem
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print the CRL's record and its paths as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Reads the word of a reason.
fn reasons() -> impl TypedValueParser<Value = Reason> {
    let words = Reason::ALL.iter().map(|reason| reason.word());
    PossibleValuesParser::new(words).try_map(|word| {
        let mut reasons = Reason::ALL.iter();
        reasons
            .find(|reason| reason.word() == word)
            .copied()
            .ok_or("no such reason")
    })
}

fn parse_life(text: &str) -> Result<Duration, String> {
    let seconds = |number: &str, unit: u64| number.parse::<u64>().ok()?.checked_mul(unit);
    let parsed = match text.char_indices().next_back() {
        Some((at, 'h')) => text.get(..at).and_then(|number| seconds(number, 3600)),
        Some((at, 'm')) => text.get(..at).and_then(|number| seconds(number, 60)),
        Some((at, 's')) => text.get(..at).and_then(|number| seconds(number, 1)),
        _ => None,
    };
    parsed
        .map(Duration::from_secs)
        .filter(|life| *life >= MIN_LEAF_LIFE && *life <= MAX_LEAF_LIFE)
        .ok_or_else(|| "write a time between 1h and 24h, such as 24h, 90m or 3600s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn lives_are_read_in_hours_minutes_and_seconds() {
        for (text, seconds) in [("1h", 3600), ("24h", 86400), ("90m", 5400), ("3601s", 3601)] {
            assert_eq!(parse_life(text), Ok(Duration::from_secs(seconds)));
        }
    }

    #[test]
    fn lives_out_of_bounds_or_shape_are_refused() {
        for text in [
            "",
            "h",
            "24",
            "25h",
            "59m",
            "1d",
            "-1h",
            "1é",
            "18446744073709551615h",
        ] {
            assert!(parse_life(text).is_err(), "{text} was accepted");
        }
    }
}
