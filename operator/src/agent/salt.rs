//! What hides the step records of an interval until an audit asks for them (docs/spec/protocol.md section 3): the salt of its
//! record seal, and the nonce of an auditor's. It is computed from one key, so that a sidecar that asks again gets the same, and its seal is the same.
use std::io;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use muster_proof::Digest;
use muster_proof::hash::{Context, h};
use muster_proof::records::fields::Nonce;
use muster_proof::steps::Interval;
use sha2::Sha256;

use super::secret;

const FILE: &str = "salt.key";
const SALT: Context = Context::new("muster.salt/1");
const NONCE: Context = Context::new("muster.audit-nonce/1");

/// The key of all salts of this agent. `Debug` does not show it.
#[derive(Clone)]
pub struct Salts(Hmac<Sha256>);

impl std::fmt::Debug for Salts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salts")
    }
}

impl Salts {
    /// The key of the state directory, made if there is none.
    ///
    /// # Errors
    /// Any error of the file system; a file that is no key.
    pub fn open(state: &Path) -> io::Result<Self> {
        secret::open(state, FILE).map(Self::new)
    }

    fn new(key: [u8; 32]) -> Self {
        // A key that is shorter than a block is filled up with zeros (RFC 2104 section 2).
        let mut block = [0; 64];
        block[..32].copy_from_slice(&key);
        Self(Hmac::new(&block.into()))
    }

    /// HMAC-SHA256(key, H("muster.salt/1"; job id, u64le island, u64le epoch, u64le interval)).
    #[must_use]
    pub fn of(&self, interval: &Interval) -> Nonce {
        let numbers = [interval.island, interval.epoch, interval.interval].map(u64::to_le_bytes);
        let [island, epoch, number] = &numbers;
        self.mac(&h(SALT, &[interval.job.as_bytes(), island, epoch, number]))
    }

    /// What hides the answer to an audit until it is opened: HMAC-SHA256(key, H("muster.audit-nonce/1"; record id of the
    /// assignment)).
    #[must_use]
    pub fn nonce(&self, assignment: &Digest) -> Nonce {
        self.mac(&h(NONCE, &[assignment.as_bytes()]))
    }

    fn mac(&self, message: &Digest) -> Nonce {
        let mut mac = self.0.clone();
        mac.update(message.as_bytes());
        Nonce::new(mac.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by Python: `hmac.digest(bytes([7]*32), H, "sha256")` with H as in formats.md section 1.
    #[test]
    fn is_as_specified() {
        let of = Interval { job: Digest::of(b"job"), island: 1, epoch: 2, interval: 3 };
        let want = "ecef5fd6b22a3f0c5b2839e292dff83a1372c71d768716ccb30370bfb444b117";
        assert_eq!(Salts::new([7; 32]).of(&of).to_string(), want);
        let want = "8724f1ba4a75f41bc1ccd3206d9a4f976974efbe0baf51e46871ae514b33bf3d";
        assert_eq!(Salts::new([7; 32]).nonce(&Digest::of(b"assignment")).to_string(), want);
    }

    #[test]
    fn survives_a_restart_and_differs_for_each_interval() {
        let dir = tempfile::tempdir().unwrap();
        let of = Interval { job: Digest::of(b"job"), island: 0, epoch: 1, interval: 0 };
        let first = Salts::open(dir.path()).unwrap().of(&of);
        let again = Salts::open(dir.path()).unwrap();
        assert_eq!(again.of(&of), first);
        let others = [
            Interval { job: Digest::of(b"other"), ..of },
            Interval { island: 1, ..of },
            Interval { epoch: 2, ..of },
            Interval { interval: 1, ..of },
        ];
        assert!(others.iter().all(|other| again.of(other) != first));
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Salts::open(other.path()).unwrap().of(&of), first);
        assert_eq!(format!("{again:?}"), "Salts");
    }
}
