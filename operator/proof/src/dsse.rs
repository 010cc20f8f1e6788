//! Signed envelopes after DSSE v1.0 (github.com/secure-systems-lab/dsse): the signature covers the exact
//! bytes of the payload and its type, so the payload is verified first and parsed after.
//!
//! ```text
//! PAE(type, payload) = "DSSEv1" SP len(type) SP type SP len(payload) SP payload     (lengths in decimal ASCII)
//! record id          = SHA-256(PAE)      never of a signature: ECDSA signatures are not unique
//! ```
//!
//! This profile is narrower than DSSE: P-256 only, `keyid` is required and is the key's id, standard base64
//! with padding only, no unknown fields, sizes capped.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::key::{PublicKey, SigningKey};
use crate::{Digest, jcs};

/// Most bytes of a payload type.
pub const MAX_PAYLOAD_TYPE: usize = 128;
/// Most bytes of a payload, before base64. Kinds of records have smaller limits of their own.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Most signatures on one envelope.
pub const MAX_SIGNATURES: usize = 4;
/// Most bytes of a signature: DER of two 33-byte integers has 72.
pub const MAX_SIGNATURE: usize = 72;

/// Why an envelope is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Longer than the caller's limit.
    #[error("envelope has {got} bytes, at most {max} are accepted")]
    TooLong {
        /// Its length.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// Not JSON of an envelope: unknown or duplicate fields, bad base64, too many or too long parts.
    #[error("not an envelope: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Parts over the limits of this module.
    #[error("not an envelope: {0}")]
    Limit(&'static str),
    /// Of another type than the reader expects.
    #[error("envelope has type {got:?}, want {want:?}")]
    PayloadType {
        /// Its type.
        got: String,
        /// The expected one.
        want: String,
    },
    /// No signature names a key that the reader trusts.
    #[error("no signature by a trusted key; signed by {0:?}")]
    UnknownKey(Vec<Digest>),
    /// A trusted key is named, but the signature is not its own.
    #[error("the signature of key {0} does not verify")]
    BadSignature(Digest),
    /// A record that takes exactly these signatures has others.
    #[error("signed by {got:?}, want one signature by each of {want:?} and no other")]
    Signers {
        /// Who signed, as claimed.
        got: Vec<Digest>,
        /// Whose signatures are needed.
        want: Vec<Digest>,
    },
    /// Verified, but the payload is not canonical JSON of the expected type.
    #[error("the payload is signed but malformed: {0}")]
    Payload(#[from] jcs::Error),
}

/// The pre-authentication encoding: what is signed and hashed.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

/// The id of a record, SHA-256 of its [`pae`].
pub fn record_id(payload_type: &str, payload: &[u8]) -> Digest {
    Digest::of(&pae(payload_type, payload))
}

/// A payload with signatures, as it stands in JSON: not verified until [`Envelope::verify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "RawEnvelope")]
pub struct Envelope {
    payload_type: String,
    #[serde(serialize_with = "to_base64")]
    payload: Vec<u8>,
    signatures: Vec<Signature>,
}

/// One signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The id of the key that signed.
    pub keyid: Digest,
    /// ECDSA P-256 with SHA-256 over the PAE, in DER; base64 in JSON.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub sig: Vec<u8>,
}

/// The fields as they come, before the limits are checked.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawEnvelope {
    payload_type: String,
    #[serde(deserialize_with = "from_base64")]
    payload: Vec<u8>,
    signatures: Vec<Signature>,
}

impl TryFrom<RawEnvelope> for Envelope {
    type Error = Error;

    fn try_from(raw: RawEnvelope) -> Result<Self, Error> {
        let RawEnvelope { payload_type, payload, signatures } = raw;
        let envelope = Self { payload_type, payload, signatures };
        envelope.check_limits()?;
        Ok(envelope)
    }
}

/// The payload of an envelope after a trusted key's signature over it has been verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified<'a> {
    payload: &'a [u8],
    key_id: Digest,
    record_id: Digest,
}

impl<'a> Verified<'a> {
    /// The exact bytes that were signed.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whose signature it was.
    pub fn key_id(&self) -> Digest {
        self.key_id
    }

    /// SHA-256 of the PAE.
    pub fn record_id(&self) -> Digest {
        self.record_id
    }

    /// The payload as canonical JSON of `T`, which should deny unknown fields.
    ///
    /// # Errors
    /// [`Error::Payload`].
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        Ok(jcs::deserialize_canonical(self.payload)?)
    }
}

impl Envelope {
    /// An envelope of `payload` with one signature.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub fn sign(payload_type: &str, payload: &[u8], key: &SigningKey) -> Result<Self, Error> {
        let signature = Signature { keyid: key.key_id(), sig: key.sign(&pae(payload_type, payload)) };
        let envelope = Self {
            payload_type: payload_type.to_owned(),
            payload: payload.to_vec(),
            signatures: vec![signature],
        };
        envelope.check_limits()?;
        Ok(envelope)
    }

    /// An envelope of the canonical JSON of `value` with one signature.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Payload`].
    pub fn sign_json<T: Serialize>(payload_type: &str, value: &T, key: &SigningKey) -> Result<Self, Error> {
        Self::sign(payload_type, &jcs::serialize(value)?, key)
    }

    /// Adds `key`'s signature; one that it already has is replaced.
    ///
    /// # Errors
    /// [`Error::Limit`] beyond [`MAX_SIGNATURES`]; the envelope stays as it was.
    pub fn add_signature(&mut self, key: &SigningKey) -> Result<(), Error> {
        let signature =
            Signature { keyid: key.key_id(), sig: key.sign(&pae(&self.payload_type, &self.payload)) };
        if let Some(own) = self.signatures.iter_mut().find(|own| own.keyid == signature.keyid) {
            *own = signature;
            return Ok(());
        }
        if self.signatures.len() >= MAX_SIGNATURES {
            return Err(Error::Limit("want 1 to 4 signatures"));
        }
        self.signatures.push(signature);
        Ok(())
    }

    /// With the signatures of another envelope of the same record behind its own. They are not verified.
    ///
    /// # Errors
    /// [`Error::Limit`] for another record, or beyond [`MAX_SIGNATURES`].
    pub fn with_signatures_of(mut self, other: &Self) -> Result<Self, Error> {
        if (&self.payload_type, &self.payload) != (&other.payload_type, &other.payload) {
            return Err(Error::Limit("the signatures are of another record"));
        }
        self.signatures.extend_from_slice(&other.signatures);
        self.check_limits()?;
        Ok(self)
    }

    /// Reads an envelope's JSON of at most `max` bytes.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Malformed`].
    pub fn parse(json: &[u8], max: usize) -> Result<Self, Error> {
        if json.len() > max {
            return Err(Error::TooLong { got: json.len(), max });
        }
        Ok(serde_json::from_slice(json)?)
    }

    /// The envelope as canonical JSON.
    ///
    /// # Errors
    /// Does not fail for an envelope that was built by this module.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        Ok(jcs::serialize(self)?)
    }

    /// The payload type, as claimed.
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// The payload, **not verified**. For showing it to people and for hashing; decide on
    /// [`Verified::payload`].
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The signatures, as claimed.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The id of this record, which does not depend on the signatures.
    pub fn record_id(&self) -> Digest {
        record_id(&self.payload_type, &self.payload)
    }

    /// Checks that the envelope is of type `payload_type` and that one of `trusted` signed it. The first
    /// signature that names a trusted key decides; others are not looked at.
    ///
    /// # Errors
    /// [`Error::PayloadType`], [`Error::UnknownKey`], [`Error::BadSignature`].
    pub fn verify(&self, payload_type: &str, trusted: &[PublicKey]) -> Result<Verified<'_>, Error> {
        if self.payload_type != payload_type {
            return Err(Error::PayloadType { got: self.payload_type.clone(), want: payload_type.to_owned() });
        }
        let named = self.signatures.iter().find_map(|signature| {
            trusted.iter().find(|key| key.key_id() == signature.keyid).map(|key| (key, signature))
        });
        let Some((key, signature)) = named else {
            return Err(Error::UnknownKey(self.signatures.iter().map(|s| s.keyid).collect()));
        };
        let pae = pae(&self.payload_type, &self.payload);
        if !key.verify(&pae, &signature.sig) {
            return Err(Error::BadSignature(signature.keyid));
        }
        Ok(Verified { payload: &self.payload, key_id: key.key_id(), record_id: Digest::of(&pae) })
    }

    /// Checks that the envelope is of type `payload_type` and has one good signature by each of `signers`, in any order,
    /// and no other. For records of the log: with one set of signers a record has one spelling up to the bits of ECDSA.
    /// The key id of the answer is the first signer's.
    ///
    /// # Errors
    /// [`Error::PayloadType`], [`Error::Signers`], [`Error::BadSignature`].
    pub fn verify_each(&self, payload_type: &str, signers: &[&PublicKey]) -> Result<Verified<'_>, Error> {
        if self.payload_type != payload_type {
            return Err(Error::PayloadType { got: self.payload_type.clone(), want: payload_type.to_owned() });
        }
        let got: Vec<_> = self.signatures.iter().map(|signature| signature.keyid).collect();
        let want: Vec<_> = signers.iter().map(|key| key.key_id()).collect();
        let sorted = |ids: &[Digest]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        let (Some(&key_id), true) = (want.first(), sorted(&got) == sorted(&want)) else {
            return Err(Error::Signers { got, want });
        };
        let pae = pae(&self.payload_type, &self.payload);
        for signature in &self.signatures {
            let key = signers.iter().find(|key| key.key_id() == signature.keyid);
            if !key.is_some_and(|key| key.verify(&pae, &signature.sig)) {
                return Err(Error::BadSignature(signature.keyid));
            }
        }
        Ok(Verified { payload: &self.payload, key_id, record_id: Digest::of(&pae) })
    }

    fn check_limits(&self) -> Result<(), Error> {
        if self.payload_type.is_empty() || self.payload_type.len() > MAX_PAYLOAD_TYPE {
            return Err(Error::Limit("payloadType must have 1 to 128 bytes"));
        }
        if self.payload.len() > MAX_PAYLOAD {
            return Err(Error::Limit("payload must have at most 1 MiB"));
        }
        if self.signatures.is_empty() || self.signatures.len() > MAX_SIGNATURES {
            return Err(Error::Limit("want 1 to 4 signatures"));
        }
        if self.signatures.iter().any(|signature| signature.sig.len() > MAX_SIGNATURE) {
            return Err(Error::Limit("a signature must have at most 72 bytes"));
        }
        Ok(())
    }
}

/// The one spelling of bytes in JSON.
pub(crate) fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    serializer.serialize_str(&STANDARD.encode(bytes))
}

/// Standard alphabet, padding required, no stray bits: one spelling for each payload.
pub(crate) fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    STANDARD.decode(text.as_bytes()).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests;
