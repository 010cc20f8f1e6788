//! The sidecar's key made known to the agent's relay (`docs/spec/protocol.md` section 3).
//!
//! It is bound once to (attempt, rank) by a possession signature over the token that was shown with it; from then on
//! only commits that it has signed are taken from that rank ([`crate::commit`]).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proof::Digest;
use muster_proof::hash::{Context, h};
use muster_proof::key::{self, PublicKey, SigningKey};

use crate::protocol::KeyBinding;

/// The domain of possession signatures.
const WORKER_KEY: Context = Context::new("muster.worker-key/1");
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
}
