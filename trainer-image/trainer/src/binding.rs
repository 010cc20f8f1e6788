//! The sidecar's key: what is signed with it, and how the agent's relay checks that (`docs/spec/protocol.md` section 3).
//!
//! The key is bound once to (attempt, rank) by a possession signature over the token that was shown with it; from then
//! on only checkpoints that it has signed are taken from that rank.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proof::Digest;
use muster_proof::hash::{Context, h};
use muster_proof::key::{self, PublicKey, SigningKey};

use crate::protocol::{CheckpointNotice, KeyBinding};

/// The domain of possession signatures.
const WORKER_KEY: Context = Context::new("muster.worker-key/1");
/// The domain of signatures of checkpoint notices.
const NOTICE: Context = Context::new("muster.checkpoint-notice/1");
/// The longest signature that is decoded, in base64 digits: P-256 in DER has 72 bytes.
const MAX_SIGNATURE: usize = 128;

/// Why a signature or a key is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key is none.
    #[error("publicKey: {0}")]
    Key(#[from] key::Error),
    /// The signature is not the key's over what was sent.
    #[error("BadSignature: signature: not the key's over this {0}")]
    Signature(&'static str),
}

/// The binding of `key` by the pod whose token is `token`.
///
/// # Errors
/// [`Error::Key`]; does not happen with valid keys.
pub fn bind(key: &SigningKey, token: &str) -> Result<KeyBinding, Error> {
    let public_key = key.public().to_pem()?;
    let message = possession(token, key.public())?;
    Ok(KeyBinding { public_key, signature: STANDARD.encode(key.sign(message.as_bytes())) })
}

/// The key of a binding that came with the token `token`.
///
/// # Errors
/// [`Error`].
pub fn check_binding(binding: &KeyBinding, token: &str) -> Result<PublicKey, Error> {
    let key = PublicKey::from_pem(&binding.public_key)?;
    let message = possession(token, &key)?;
    if !verifies(&key, &message, &binding.signature) {
        return Err(Error::Signature("token and key"));
    }
    Ok(key)
}

fn possession(token: &str, key: &PublicKey) -> Result<Digest, Error> {
    // The token's digest, for tokens are secrets and what is signed may be kept.
    Ok(h(WORKER_KEY, &[Digest::of(token.as_bytes()).as_bytes(), &key.to_der()?]))
}

/// What a checkpoint is announced with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement<'a> {
    /// Name of the WorkUnit.
    pub unit: &'a str,
    /// Attempt at it.
    pub attempt: u64,
    /// The state's number.
    pub step: u64,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Digest of the state.
    pub state_root: Digest,
}

impl Announcement<'_> {
    /// The notice, signed.
    pub fn sign(&self, key: &SigningKey) -> CheckpointNotice {
        let Self { step, manifest, state_root, .. } = *self;
        let signature = STANDARD.encode(key.sign(self.message().as_bytes()));
        CheckpointNotice { step, manifest, state_root, signature }
    }

    /// Checks the signature of a notice of just this.
    ///
    /// # Errors
    /// [`Error::Signature`].
    pub fn check(&self, key: &PublicKey, signature: &str) -> Result<(), Error> {
        if verifies(key, &self.message(), signature) { Ok(()) } else { Err(Error::Signature("notice")) }
    }

    fn message(&self) -> Digest {
        let Self { unit, attempt, step, manifest, state_root } = self;
        let (attempt, step) = (attempt.to_le_bytes(), step.to_le_bytes());
        h(NOTICE, &[unit.as_bytes(), &attempt, &step, manifest.as_bytes(), state_root.as_bytes()])
    }
}

fn verifies(key: &PublicKey, message: &Digest, signature: &str) -> bool {
    signature.len() <= MAX_SIGNATURE
        && STANDARD.decode(signature).is_ok_and(|der| key.verify(message.as_bytes(), &der))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::generate([seed; 32]).unwrap()
    }

    #[test]
    fn a_binding_is_good_for_its_token_and_key_only() {
        let binding = bind(&key(7), "token").unwrap();
        assert_eq!(&check_binding(&binding, "token").unwrap(), key(7).public());
        assert_eq!(check_binding(&binding, "tokem"), Err(Error::Signature("token and key")));
        let stolen = KeyBinding { public_key: key(8).public().to_pem().unwrap(), ..binding.clone() };
        assert_eq!(check_binding(&stolen, "token"), Err(Error::Signature("token and key")));
        for bad in ["", "!", "AAAA", &"A".repeat(4000)] {
            let bad = KeyBinding { signature: bad.to_owned(), ..binding.clone() };
            assert!(check_binding(&bad, "token").unwrap_err().to_string().starts_with("BadSignature"));
        }
        let none = KeyBinding { public_key: "x".to_owned(), ..binding };
        assert!(check_binding(&none, "token").unwrap_err().to_string().starts_with("publicKey: "));
    }

    #[test]
    fn every_part_of_a_notice_is_signed() {
        let (manifest, state_root) = (Digest::of(b"manifest"), Digest::of(b"root"));
        let said = Announcement { unit: "u-0-1", attempt: 2, step: 20, manifest, state_root };
        let notice = said.sign(&key(7));
        assert_eq!((notice.step, notice.manifest, notice.state_root), (20, manifest, state_root));
        said.check(key(7).public(), &notice.signature).unwrap();
        assert!(said.check(key(8).public(), &notice.signature).is_err());
        for other in [
            Announcement { unit: "u-0-2", ..said },
            Announcement { attempt: 1, ..said },
            Announcement { step: 40, ..said },
            Announcement { manifest: state_root, ..said },
            Announcement { state_root: manifest, ..said },
        ] {
            assert!(other.check(key(7).public(), &notice.signature).is_err(), "{other:?}");
        }
    }
}
