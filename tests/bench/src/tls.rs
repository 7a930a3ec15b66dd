//! The bare handshake: mutual TLS 1.3 over a Unix socket, with the key types, the chain length and
//! the settings of the peer handshake, and nothing else of it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream,
};
use serde_json::{Value, json};

use crate::usage::cpu_us;

/// Name in the certificates of both ends.
const NAME: &str = "peer.bench.example";

/// Handshakes before the first that is measured: they warm caches and the allocator.
const WARM_UP: u32 = 20;

/// Bare mutual TLS 1.3 handshakes over a Unix socket, one after another, one thread for each end.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Number of handshakes
    #[arg(long, default_value_t = 200)]
    rounds: u32,
}

/// Runs it: `wall_us` until both ends have the other's `Finished`, `cpu_us` of both ends together.
pub fn run(args: &Args) -> Result<Value> {
    let (client, server) = configs()?;
    let (streams, incoming) = channel::<UnixStream>();
    let acceptor = std::thread::spawn(move || -> Result<()> {
        for mut socket in incoming {
            let mut connection = ServerConnection::new(Arc::clone(&server))?;
            let mut stream = Stream::new(&mut connection, &mut socket);
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    let dial = || -> Result<Duration> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let start = Instant::now();
        streams.send(theirs).context("the accepting end is gone")?;
        let mut connection =
            ClientConnection::new(Arc::clone(&client), ServerName::try_from(NAME)?)?;
        let mut stream = Stream::new(&mut connection, &mut ours);
        // The answer to one byte shows that the other end, too, has finished.
        let mut byte = [0];
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        Ok(start.elapsed())
    };
    for _ in 0..WARM_UP {
        dial()?;
    }
    let before = cpu_us()?;
    let times = (0..args.rounds)
        .map(|_| dial())
        .collect::<Result<Vec<_>>>()?;
    let spent = cpu_us()? - before;
    drop(streams);
    acceptor
        .join()
        .map_err(|_| anyhow::anyhow!("the accepting thread panicked"))??;
    let wall_us: Vec<_> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
    Ok(json!({ "event": "tls", "wall_us": wall_us, "cpu_us": spent / f64::from(args.rounds) }))
}

/// Both ends' settings: TLS 1.3, `ring`, no resumption, no tickets, chains of two certificates below
/// one root, all ECDSA P-256.
fn configs() -> Result<(Arc<ClientConfig>, Arc<ServerConfig>)> {
    let authority = |name: &str| -> Result<CertificateParams> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(params)
    };
    let root_key = KeyPair::generate()?;
    let root_params = authority("root.bench.example")?;
    let mut roots = RootCertStore::empty();
    roots.add(root_params.self_signed(&root_key)?.der().clone())?;
    let root = Issuer::new(root_params, root_key);
    let key = KeyPair::generate()?;
    let params = authority("intermediate.bench.example")?;
    let intermediate = params.signed_by(&key, &root)?.der().clone();
    let issuer = Issuer::new(params, key);
    let leaf = || -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec![NAME.to_owned()])?;
        let leaf = params.signed_by(&key, &issuer)?.der().clone();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok((vec![leaf, intermediate.clone()], key.into()))
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots);
    let (chain, key) = leaf()?;
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(Arc::clone(&roots))
        .with_client_auth_cert(chain, key)?;
    client.resumption = Resumption::disabled();
    let (chain, key) = leaf()?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    Ok((Arc::new(client), Arc::new(server)))
}
