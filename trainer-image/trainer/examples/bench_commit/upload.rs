//! The upload of a checkpoint by the sidecar's own client, over TLS on loopback, to a server that keeps nothing: what the provider's
//! relay does with the bytes is not the training node's.
use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use muster_proof::Digest;
use muster_trainer::checkpoint::{MANIFEST_FILE, Manifest};
use muster_trainer::relay::{Options, Relay};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A client of a server that runs as long as the process.
pub fn client(dir: &Path) -> Result<Relay> {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0")?);
    let relay = format!("https://{}", listener.local_addr()?);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = config.clone();
            // A client that has gone away is nothing to tell.
            thread::spawn(move || serve(stream, config).ok());
        }
    });
    let token_file = dir.join("token");
    std::fs::write(&token_file, "token")?;
    Ok(Relay::new(&Options { relay, relay_ca: cert.pem(), token_file })?)
}

/// As the sidecar uploads: the files, then the manifest.
pub fn checkpoint(relay: &Relay, dir: &Path, manifest: &Manifest) -> Result<()> {
    let bytes = manifest.to_bytes()?;
    std::fs::write(dir.join(MANIFEST_FILE), &bytes)?;
    let files = manifest.files().iter().map(|file| (file.sha256, file.path.as_str()));
    for (digest, name) in files.chain([(Digest::of(&bytes), MANIFEST_FILE)]) {
        let answer = relay.put_blob(&digest, &File::open(dir.join(name))?)?;
        if answer.status != 204 {
            return Err(answer.unexpected().into());
        }
    }
    Ok(())
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>) -> Result<()> {
    let mut tls = BufReader::new(StreamOwned::new(ServerConnection::new(config)?, stream));
    loop {
        let mut length = None;
        loop {
            let mut line = String::new();
            if tls.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = Some(value.parse()?);
                }
                Some(_) => {}
                None if line.trim_end().is_empty() => break,
                None => {} // the request line
            }
        }
        io::copy(&mut (&mut tls).take(length.ok_or("a body without a length")?), &mut io::sink())?;
        tls.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        tls.get_mut().flush()?;
    }
}
