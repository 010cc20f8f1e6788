//! A leaf of the log: who signed which record. Rekor's `hashedrekord` 0.0.2, so that the tools of Sigstore read
//! it, in canonical JSON (docs/spec/log.md section 8).
//!
//! ```text
//! data.digest                  SHA-256 of the DSSE PAE: the record id, see crate::dsse
//! signature.content            ECDSA in DER, the first of the envelope
//! signature.verifier           the key that made it, SPKI in DER
//! ```
//!
//! What is signed is the PAE, so the digest is all that a reader needs to check the signature: the log shows
//! who signed without showing what. Everything is base64 or a constant: an entry has one spelling.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::dsse::{Envelope, MAX_SIGNATURE, from_base64, to_base64};
use crate::key::PublicKey;
use crate::{Digest, jcs, merkle};

/// Most bytes of an entry; a real one has about 500.
pub const MAX_ENTRY: usize = 2048;
/// The kind of every entry, as Sigstore's bundles name it beside the body.
pub const KIND: &str = "hashedrekord";
/// The version of that kind.
pub const VERSION: &str = "0.0.2";

/// Why something is not an entry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Longer than [`MAX_ENTRY`].
    #[error("log entry has {0} bytes, at most {MAX_ENTRY} are accepted")]
    TooLong(usize),
    /// Not the canonical JSON of a `hashedrekord` 0.0.2 with a P-256 key.
    #[error("not a hashedrekord 0.0.2 log entry of a P-256 key: {0}")]
    Malformed(#[from] jcs::Error),
    /// Longer than a DER signature of this curve can be.
    #[error("log entry: signature.content has {0} bytes, at most {MAX_SIGNATURE} are accepted")]
    Signature(usize),
    /// The first signature of the envelope is not by the key that the caller took it for.
    #[error("the envelope's first signature is not by key {want}, but by {signers:?} in this order")]
    OtherKey {
        /// The keys that the signatures name.
        signers: Vec<Digest>,
        /// The caller's key.
        want: Digest,
    },
    /// The signature is not the key's over the digest.
    #[error("log entry: the signature of key {key} over record {record} does not verify")]
    BadSignature {
        /// The key's id.
        key: Digest,
        /// The record's id.
        record: Digest,
    },
}

/// An entry whose signature has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    record: Digest,
    signature: Vec<u8>,
    key: PublicKey,
    body: Vec<u8>,
}

impl Entry {
    /// The entry of the record with this id and a signature over it, in DER.
    ///
    /// # Errors
    /// [`Error::Signature`], [`Error::BadSignature`].
    pub fn new(record: Digest, signature: &[u8], key: &PublicKey) -> Result<Self, Error> {
        let hashed_rekord = HashedRekord {
            data: Data { algorithm: HashAlgorithm::Sha256, digest: record },
            signature: Signature {
                content: signature.to_vec(),
                verifier: Verifier {
                    key_details: KeyDetails::EcdsaP256Sha256,
                    public_key: RawKey { raw_bytes: key.clone() },
                },
            },
        };
        let spec = Spec { hashed_rekord };
        let body = jcs::serialize(&Body { api_version: ApiVersion::V002, kind: Kind::HashedRekord, spec })?;
        Self::check(record, signature.to_vec(), key.clone(), body)
    }

    /// The entry of an envelope: that of its first signature, which must be by `key`. What a second signer
    /// adds later does not change the leaf.
    ///
    /// # Errors
    /// [`Error::OtherKey`], and as [`Entry::new`].
    pub fn of(envelope: &Envelope, key: &PublicKey) -> Result<Self, Error> {
        let first = envelope.signatures().first();
        let Some(signature) = first.filter(|signature| signature.keyid == key.key_id()) else {
            let signers = envelope.signatures().iter().map(|signature| signature.keyid).collect();
            return Err(Error::OtherKey { signers, want: key.key_id() });
        };
        Self::new(envelope.record_id(), &signature.sig, key)
    }

    /// Reads an entry and checks its signature. Whether the key is one to believe is the caller's question.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Malformed`], [`Error::Signature`], [`Error::BadSignature`].
    pub fn parse(body: &[u8]) -> Result<Self, Error> {
        if body.len() > MAX_ENTRY {
            return Err(Error::TooLong(body.len()));
        }
        let HashedRekord { data, signature } = jcs::deserialize_canonical::<Body>(body)?.spec.hashed_rekord;
        let key = signature.verifier.public_key.raw_bytes;
        Self::check(data.digest, signature.content, key, body.to_vec())
    }

    fn check(record: Digest, signature: Vec<u8>, key: PublicKey, body: Vec<u8>) -> Result<Self, Error> {
        if signature.len() > MAX_SIGNATURE {
            return Err(Error::Signature(signature.len()));
        }
        if !key.verify_digest(&record, &signature) {
            return Err(Error::BadSignature { key: key.key_id(), record });
        }
        Ok(Self { record, signature, key, body })
    }

    /// The id of the record that was signed.
    pub fn record_id(&self) -> Digest {
        self.record
    }

    /// The signature, in DER.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// The key that signed.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The entry's bytes, the data of its leaf.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The hash of its leaf.
    pub fn leaf(&self) -> Digest {
        merkle::leaf(&self.body)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Body {
    api_version: ApiVersion,
    kind: Kind,
    spec: Spec,
}

#[derive(Serialize, Deserialize)]
enum ApiVersion {
    #[serde(rename = "0.0.2")]
    V002,
}

#[derive(Serialize, Deserialize)]
enum Kind {
    #[serde(rename = "hashedrekord")]
    HashedRekord,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    #[serde(rename = "hashedRekordV002")]
    hashed_rekord: HashedRekord,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HashedRekord {
    data: Data,
    signature: Signature,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    algorithm: HashAlgorithm,
    #[serde(with = "base64_digest")]
    digest: Digest,
}

#[derive(Serialize, Deserialize)]
enum HashAlgorithm {
    #[serde(rename = "SHA2_256")]
    Sha256,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    content: Vec<u8>,
    verifier: Verifier,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Verifier {
    key_details: KeyDetails,
    public_key: RawKey,
}

#[derive(Serialize, Deserialize)]
enum KeyDetails {
    #[serde(rename = "PKIX_ECDSA_P256_SHA_256")]
    EcdsaP256Sha256,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawKey {
    raw_bytes: PublicKey,
}

/// A digest as Sigstore's JSON has it: the base64 of its 32 bytes.
pub(crate) mod base64_digest {
    use super::super::{hash_from_base64, hash_to_base64};
    use super::{Deserialize as _, Deserializer, Digest, Serializer};

    pub(crate) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hash_to_base64(digest))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        hash_from_base64(&text).ok_or_else(|| serde::de::Error::custom("want the base64 of 32 bytes"))
    }
}

#[cfg(test)]
mod tests;
