//! The handshake: who is there, and does it train the same?
//!
//! ```text
//! hello = "muster.peer/1" || u32 rank || u32 workers || u64 start step || 32 training digest
//! ```
//!
//! Integers are little-endian. TLS comes first and proves the other end's key; then both ends send hello. Its rank must
//! be that of the key, the rest is compared.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use muster_proof::Digest;
use rustls::{AlertDescription, CertificateError, Connection};

use super::Error;
use super::duplex::{Incoming, Outgoing, split};
use super::tls::Keys;
use crate::protocol::Peer;

const MAGIC: &[u8; 13] = b"muster.peer/1";
/// Bytes of a hello.
pub const HELLO: usize = 13 + 4 + 4 + 8 + 32;

/// How long a stranger may take for its handshake.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What all workers of a run must agree on, and which of them this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// This worker.
    pub rank: u32,
    /// How many there are.
    pub workers: u32,
    /// The state the run starts from.
    pub step: u64,
    /// What is trained.
    pub training_digest: Digest,
}

impl Identity {
    /// As a hello.
    pub fn to_hello(&self) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        bytes[..13].copy_from_slice(MAGIC);
        bytes[13..17].copy_from_slice(&self.rank.to_le_bytes());
        bytes[17..21].copy_from_slice(&self.workers.to_le_bytes());
        bytes[21..29].copy_from_slice(&self.step.to_le_bytes());
        bytes[29..].copy_from_slice(self.training_digest.as_bytes());
        bytes
    }

    /// Out of a hello; `None` for bytes that are none.
    pub fn from_hello(bytes: &[u8; HELLO]) -> Option<Self> {
        let mut digest = [0; 32];
        digest.copy_from_slice(&bytes[29..]);
        bytes.starts_with(MAGIC).then(|| Self {
            rank: u32_at(bytes, 13),
            workers: u32_at(bytes, 17),
            step: u64::from(u32_at(bytes, 21)) | u64::from(u32_at(bytes, 25)) << 32,
            training_digest: Digest::from_bytes(digest),
        })
    }
}

fn u32_at(bytes: &[u8; HELLO], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Why a stranger is not a peer.
#[derive(Debug)]
pub(super) enum Refused {
    /// Not even a stranger: nothing came, or the connection broke.
    Io(io::Error),
    /// No worker of this run.
    NotProven(String),
    /// A worker of this run that runs something else: a defect of the parent that the person must see.
    Differs(Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        match tls_error(&error) {
            Some(tls) => Self::NotProven(why(tls)),
            None => Self::Io(error),
        }
    }
}

impl From<rustls::Error> for Refused {
    fn from(error: rustls::Error) -> Self {
        Self::NotProven(why(&error))
    }
}

/// What TLS says, if it was TLS that failed.
pub(super) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What a failed handshake means here.
fn why(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
            "its key is not the one in the list of peers".into()
        }
        rustls::Error::NoCertificatesPresented => "it shows no key".into(),
        rustls::Error::AlertReceived(AlertDescription::AccessDenied) => {
            "it does not find this worker's key in its list of peers".into()
        }
        rustls::Error::InvalidMessage(_)
        | rustls::Error::InappropriateMessage { .. }
        | rustls::Error::PeerIncompatible(_) => "it does not speak this protocol (TLS 1.3)".into(),
        other => other.to_string(),
    }
}

/// A proven peer.
pub(super) struct Proven {
    pub rank: u32,
    pub stream: TcpStream,
    pub incoming: Incoming,
    pub outgoing: Outgoing,
}

/// Calls a peer over a fresh connection.
pub(super) fn call(stream: TcpStream, keys: &Keys, me: &Identity, peer: &Peer) -> Result<Proven, Refused> {
    shake(stream, keys.call(peer)?, keys, me)
}

/// Answers a stranger's call.
pub(super) fn answer(stream: TcpStream, keys: &Keys, me: &Identity) -> Result<Proven, Refused> {
    shake(stream, keys.accept()?, keys, me)
}

fn shake(stream: TcpStream, mut tls: Connection, keys: &Keys, me: &Identity) -> Result<Proven, Refused> {
    let end = Instant::now() + PATIENCE;
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut Until { stream: &stream, end })?;
    }
    let rank = keys.rank_of(&tls).ok_or_else(|| Refused::NotProven("it shows no key".into()))?;
    let (mut incoming, mut outgoing) = split(tls, &stream)?;
    let mut theirs = [0; HELLO];
    // The caller learns only now whether its own key was accepted.
    stream.set_read_timeout(Some(left(end)?))?;
    stream.set_write_timeout(Some(left(end)?))?;
    outgoing.write_all(&me.to_hello())?;
    incoming.read_exact(&mut theirs)?;
    let not = |what: &str| Err(Refused::NotProven(what.into()));
    let Some(them) = Identity::from_hello(&theirs) else { return not("it does not speak this protocol") };
    if them.rank != rank {
        return not("it claims the rank of another worker");
    }
    let differs = |what| Err(Refused::Differs(Error::Differs { rank, what }));
    if them.workers != me.workers {
        return differs("number of workers");
    }
    if them.training_digest != me.training_digest {
        return differs("training digest");
    }
    if them.step != me.step {
        return differs("start step");
    }
    Ok(Proven { rank, stream, incoming, outgoing })
}

/// A stream on which everything must be done by one moment, however slowly bytes drip in.
struct Until<'a> {
    stream: &'a TcpStream,
    end: Instant,
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(late()) } else { Ok(left) }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no handshake within {PATIENCE:?}"))
}

/// A socket's timeout looks like "try again", which nobody should.
fn in_time(result: io::Result<usize>) -> io::Result<usize> {
    result.map_err(|error| if error.kind() == io::ErrorKind::WouldBlock { late() } else { error })
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.end)?))?;
        in_time(self.stream.read(buffer))
    }
}

impl Write for Until<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.end)?))?;
        in_time(self.stream.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
