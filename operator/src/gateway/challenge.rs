//! Challenges (section 3): 32 bytes that only this process can have made for this key, not long ago, and that count once.
//!
//! They carry their own proof, so that strangers who ask for many take no memory: a moment (4 bytes), randomness (12), and the
//! first 16 bytes of an HMAC over both and the fingerprint. Only the nonces of accepted keys are remembered, once used.
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use muster_proof::Digest;
use sha2::Sha256;

/// How long a challenge may be answered.
pub const VALID: Duration = Duration::from_secs(60);
/// Bytes of a nonce.
const BYTES: usize = 32;
/// Those that the proof is over.
const SEED: usize = 16;

/// Makes and checks them.
pub struct Challenges {
    mac: Hmac<Sha256>,
    used: Mutex<HashMap<[u8; BYTES], Duration>>,
}

impl Challenges {
    /// `secret` is new at each start: challenges of another process are void.
    #[must_use]
    pub fn new(secret: [u8; 64]) -> Self {
        Self { mac: Hmac::new(&secret.into()), used: Mutex::default() }
    }

    /// A new one for a key, at `now` of a clock that began with this process.
    #[must_use]
    pub fn issue(&self, key: &Digest, now: Duration, random: [u8; 12]) -> String {
        let mut nonce = [0; BYTES];
        // 136 years of one process are enough.
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        nonce[..4].copy_from_slice(&seconds.to_be_bytes());
        nonce[4..SEED].copy_from_slice(&random);
        let proof = self.proof(&nonce[..SEED], key).finalize().into_bytes();
        nonce[SEED..].copy_from_slice(&proof[..BYTES - SEED]);
        URL_SAFE_NO_PAD.encode(nonce)
    }

    /// The bytes of a challenge that was made for this key within the last minute.
    pub fn check(&self, nonce: &str, key: &Digest, now: Duration) -> Option<[u8; BYTES]> {
        // 43 characters; longer texts are not even decoded.
        let bytes = (nonce.len() < 64).then(|| URL_SAFE_NO_PAD.decode(nonce).ok()).flatten()?;
        let nonce: [u8; BYTES] = bytes.try_into().ok()?;
        self.proof(&nonce[..SEED], key).verify_truncated_left(&nonce[SEED..]).ok()?;
        let seconds = nonce.first_chunk().map(|chunk| u32::from_be_bytes(*chunk))?;
        let made = Duration::from_secs(seconds.into());
        (now < made + VALID).then_some(nonce)
    }

    /// Uses a challenge up. False: it was used before.
    pub fn spend(&self, nonce: [u8; BYTES], now: Duration) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, forget| *forget > now);
        used.insert(nonce, now + VALID + Duration::from_secs(1)).is_none()
    }

    fn proof(&self, seed: &[u8], key: &Digest) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(b"muster.challenge/1");
        mac.update(key.as_bytes());
        mac.update(seed);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn counts_once_for_one_key_and_for_a_minute() {
        let challenges = Challenges::new([1; 64]);
        let (east, west) = (Digest::of(b"east"), Digest::of(b"west"));
        let nonce = challenges.issue(&east, s(100), [7; 12]);
        let bytes = challenges.check(&nonce, &east, s(159)).unwrap();
        assert_eq!(challenges.check(&nonce, &west, s(100)), None, "another key");
        assert_eq!(challenges.check(&nonce, &east, s(160)), None, "too late");
        assert_eq!(Challenges::new([2; 64]).check(&nonce, &east, s(100)), None, "another process");
        assert!(challenges.spend(bytes, s(120)));
        assert!(!challenges.spend(bytes, s(159)), "twice");
        challenges.spend([0; 32], s(300));
        assert_eq!(challenges.used.lock().unwrap().len(), 1, "what is void anyway is forgotten");
    }

    #[test]
    fn rubbish_is_no_challenge() {
        let challenges = Challenges::new([1; 64]);
        let key = Digest::of(b"east");
        let good = challenges.issue(&key, s(5), [7; 12]);
        let mut late = URL_SAFE_NO_PAD.decode(&good).unwrap();
        late[0] = 9;
        let long = "A".repeat(10_000);
        for bad in ["", "A", &good[1..], &format!("{good}A"), &URL_SAFE_NO_PAD.encode(late), &long] {
            assert_eq!(challenges.check(bad, &key, s(5)), None, "{bad}");
        }
    }
}
