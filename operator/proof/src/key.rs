//! P-256 keys: who signed. A key is named by its key id, the SHA-256 of its SubjectPublicKeyInfo in DER
//! (RFC 5480); what a join presents and a provider's `acceptedKeys` pin is this same digest.
//!
//! In a JSON field a public key is the base64 of its SPKI in DER, in the one encoding that the id is of.
//!
//! Signatures are ECDSA with SHA-256 and the deterministic nonce of RFC 6979, in ASN.1 DER as in X.509 and
//! Sigstore bundles.

use std::fmt;

use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{DerSignature, Signature};
use p256::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Digest;

/// Bytes of the SPKI of a P-256 key with an uncompressed point.
const SPKI: usize = 91;

/// Why a key could not be read or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The 32 bytes are 0 or not below the order of the curve: chance 2^-32 for random bytes.
    #[error("these 32 bytes are not a P-256 key; draw new ones")]
    Scalar,
    /// Not a `PRIVATE KEY` (PKCS #8, RFC 5958) of P-256 in PEM.
    #[error("not a P-256 private key in PEM (PKCS #8, `-----BEGIN PRIVATE KEY-----`)")]
    PrivatePem,
    /// Not a `PUBLIC KEY` (SPKI, RFC 5280) of P-256 in PEM or DER.
    #[error("not a P-256 public key (SPKI, `-----BEGIN PUBLIC KEY-----`)")]
    Public,
    /// The key could not be written out. Does not happen with valid keys.
    #[error("the key has no standard encoding")]
    Encode,
}

/// A private key. Never printed by `Debug`; wiped when dropped.
#[derive(Clone)]
pub struct SigningKey {
    key: p256::ecdsa::SigningKey,
    public: PublicKey,
}

impl SigningKey {
    /// The key with this secret scalar, big-endian. `random` are 32 bytes of the caller's secure randomness.
    ///
    /// # Errors
    /// [`Error::Scalar`], once in 2^32 draws: draw again.
    pub fn generate(random: [u8; 32]) -> Result<Self, Error> {
        let key = p256::ecdsa::SigningKey::from_slice(&random).map_err(|_| Error::Scalar)?;
        Self::new(key)
    }

    /// Reads a PKCS #8 PEM, as [`SigningKey::to_pem`] or `openssl genpkey` write it.
    ///
    /// # Errors
    /// [`Error::PrivatePem`].
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let key = p256::ecdsa::SigningKey::from_pkcs8_pem(pem).map_err(|_| Error::PrivatePem)?;
        Self::new(key)
    }

    /// The key as PKCS #8 PEM. The caller keeps the file at mode 0600.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn to_pem(&self) -> Result<String, Error> {
        let pem = self.key.to_pkcs8_pem(p256::pkcs8::LineEnding::LF).map_err(|_| Error::Encode)?;
        Ok(pem.to_string())
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The key id of the public half.
    pub fn key_id(&self) -> Digest {
        self.public.key_id
    }

    /// Signs `message`; returns the signature in DER. The same message always gives the same bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature: DerSignature = self.key.sign(message);
        signature.as_bytes().to_vec()
    }

    fn new(key: p256::ecdsa::SigningKey) -> Result<Self, Error> {
        let public = PublicKey::new(*key.verifying_key())?;
        Ok(Self { key, public })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.key_id)
    }
}

/// A public key and its key id.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: p256::ecdsa::VerifyingKey,
    key_id: Digest,
}

impl PublicKey {
    /// Reads an SPKI PEM.
    ///
    /// # Errors
    /// [`Error::Public`].
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let key = p256::ecdsa::VerifyingKey::from_public_key_pem(pem).map_err(|_| Error::Public)?;
        Self::new(key)
    }

    /// Reads an SPKI in DER, as it stands in a certificate.
    ///
    /// # Errors
    /// [`Error::Public`].
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let key = p256::ecdsa::VerifyingKey::from_public_key_der(der).map_err(|_| Error::Public)?;
        Self::new(key)
    }

    /// The key as SPKI PEM.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn to_pem(&self) -> Result<String, Error> {
        self.key.to_public_key_pem(p256::pkcs8::LineEnding::LF).map_err(|_| Error::Encode)
    }

    /// The key as SPKI DER with the uncompressed point: the bytes that [`PublicKey::key_id`] is of.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn to_der(&self) -> Result<Vec<u8>, Error> {
        Ok(self.key.to_public_key_der().map_err(|_| Error::Encode)?.as_bytes().to_vec())
    }

    /// SHA-256 of the SPKI DER.
    pub fn key_id(&self) -> Digest {
        self.key_id
    }

    /// Whether `signature` (DER) is this key's over `message`. Any bytes get an answer.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_der(signature).is_ok_and(|signature| self.key.verify(message, &signature).is_ok())
    }

    /// Whether `signature` (DER) is this key's over the message with this SHA-256. For readers that have the
    /// digest and not the message, such as those of a log; they believe the digest to be of something only
    /// once somebody has shown them what.
    pub fn verify_digest(&self, digest: &Digest, signature: &[u8]) -> bool {
        Signature::from_der(signature)
            .is_ok_and(|signature| self.key.verify_prehash(digest.as_bytes(), &signature).is_ok())
    }

    /// The key id is always that of the canonical, uncompressed encoding, whatever encoding was read.
    fn new(key: p256::ecdsa::VerifyingKey) -> Result<Self, Error> {
        let der = key.to_public_key_der().map_err(|_| Error::Encode)?;
        Ok(Self { key, key_id: Digest::of(der.as_bytes()) })
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let der = self.key.to_public_key_der().map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&STANDARD.encode(der.as_bytes()))
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        // Another length would be another spelling of the point, with another fingerprint.
        let der = Some(text).filter(|text| text.len() == SPKI.div_ceil(3) * 4);
        der.and_then(|text| STANDARD.decode(text.as_bytes()).ok())
            .filter(|der| der.len() == SPKI)
            .and_then(|der| Self::from_der(&der).ok().filter(|key| key.key_id == Digest::of(&der)))
            .ok_or_else(|| serde::de::Error::custom("not a P-256 public key (base64 of its SPKI in DER)"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6979 appendix A.2.5: the private key and r, s for SHA-256 and the message "sample".
    #[test]
    fn rfc_6979_vector() {
        let secret = hex("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721");
        let key = SigningKey::generate(secret.try_into().unwrap()).unwrap();
        let signature = Signature::from_der(&key.sign(b"sample")).unwrap();
        let want = "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716\
                    f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8";
        assert_eq!(signature.to_bytes().to_vec(), hex(want));
        assert!(key.public().verify(b"sample", &key.sign(b"sample")));
        assert!(key.public().verify_digest(&Digest::of(b"sample"), &key.sign(b"sample")));
        assert!(!key.public().verify_digest(&Digest::of(b"simple"), &key.sign(b"sample")));
        assert!(!key.public().verify(b"simple", &key.sign(b"sample")));
    }

    /// Made with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`; the key id is
    /// `openssl pkey -pubout -outform DER | sha256sum`, the signature `openssl dgst -sha256 -sign`.
    #[test]
    fn openssl_keys_and_signatures() {
        let key = SigningKey::from_pem(include_str!("../testdata/openssl-p256.pem")).unwrap();
        let public = PublicKey::from_pem(include_str!("../testdata/openssl-p256.pub.pem")).unwrap();
        assert_eq!(key.public(), &public);
        let key_id = include_str!("../testdata/openssl-p256.keyid").trim();
        assert_eq!(public.key_id().to_string(), key_id);
        let signature = include_bytes!("../testdata/openssl-p256.sig");
        assert!(public.verify(b"muster\n", signature));
        assert!(!public.verify(b"muster", signature));
    }

    #[test]
    fn keys_round_trip() {
        let key = SigningKey::generate([7; 32]).unwrap();
        let again = SigningKey::from_pem(&key.to_pem().unwrap()).unwrap();
        assert_eq!(again.key_id(), key.key_id());
        let public = PublicKey::from_pem(&key.public().to_pem().unwrap()).unwrap();
        assert_eq!(&public, key.public());
        let der = public.to_der().unwrap();
        assert_eq!((Digest::of(&der), PublicKey::from_der(&der).unwrap()), (public.key_id(), public));
        assert!(!format!("{key:?}").contains("0707"));
    }

    #[test]
    fn public_keys_in_json_have_one_spelling() {
        let key = SigningKey::generate([7; 32]).unwrap().public().clone();
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), key);
        for bad in ["\"\"".to_owned(), json.replace("MFkw", "MFkx"), json.replace('=', ""), "7".to_owned()] {
            assert!(serde_json::from_str::<PublicKey>(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_keys_and_signatures_are_refused() {
        assert_eq!(SigningKey::generate([0; 32]).err(), Some(Error::Scalar));
        assert_eq!(SigningKey::generate([0xff; 32]).err(), Some(Error::Scalar));
        assert_eq!(SigningKey::from_pem("nonsense").err(), Some(Error::PrivatePem));
        assert_eq!(PublicKey::from_der(b"\x30\x00").err(), Some(Error::Public));
        let key = SigningKey::generate([7; 32]).unwrap();
        let good = key.sign(b"m");
        for bad in [&[][..], &[0; 8], &good[1..], &[&good[..], &[0]].concat(), &[0xff; 200]] {
            assert!(!key.public().verify(b"m", bad));
            assert!(!key.public().verify_digest(&Digest::of(b"m"), bad));
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }
}
