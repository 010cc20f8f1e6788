//! The bundle's JSON: Sigstore's protobuf mapping, where 64-bit numbers are decimal strings and bytes are base64.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Bundle, Envelope, Error, LogEntry, MAX_BUNDLE, MAX_PROOF, jcs, only_signature};
use crate::Digest;
use crate::dsse::{from_base64, to_base64};
use crate::tlog::entry::base64_digest;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawBundle {
    media_type: MediaType,
    verification_material: VerificationMaterial,
    dsse_envelope: Envelope,
}

#[derive(Serialize, Deserialize)]
enum MediaType {
    #[serde(rename = "application/vnd.dev.sigstore.bundle.v0.3+json")]
    V03,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VerificationMaterial {
    public_key: PublicKeyHint,
    tlog_entries: Vec<RawEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicKeyHint {
    hint: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawEntry {
    #[serde(with = "decimal")]
    log_index: u64,
    log_id: LogId,
    kind_version: KindVersion,
    inclusion_proof: InclusionProof,
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    canonicalized_body: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LogId {
    #[serde(with = "base64_digest")]
    key_id: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KindVersion {
    kind: Kind,
    version: Version,
}

#[derive(Serialize, Deserialize)]
enum Kind {
    #[serde(rename = "hashedrekord")]
    HashedRekord,
}

#[derive(Serialize, Deserialize)]
enum Version {
    #[serde(rename = "0.0.2")]
    V002,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InclusionProof {
    #[serde(with = "decimal")]
    log_index: u64,
    #[serde(with = "base64_digest")]
    root_hash: Digest,
    #[serde(with = "decimal")]
    tree_size: u64,
    hashes: Vec<Hash>,
    checkpoint: Checkpoint,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Hash(#[serde(with = "base64_digest")] Digest);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    envelope: String,
}

impl Bundle {
    /// Reads a bundle; nothing is verified.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Malformed`], [`Error::Signatures`], [`Error::Entries`], [`Error::Path`],
    /// [`Error::Differs`].
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        if json.len() > MAX_BUNDLE {
            return Err(Error::TooLong(json.len()));
        }
        let raw: RawBundle = serde_json::from_value(jcs::parse(json)?).map_err(jcs::Error::from)?;
        let RawBundle { verification_material: material, dsse_envelope: envelope, .. } = raw;
        only_signature(&envelope)?;
        let entries = material.tlog_entries.len();
        if entries > 1 {
            return Err(Error::Entries(entries));
        }
        let entry = material.tlog_entries.into_iter().next().map(LogEntry::from_raw).transpose()?;
        Ok(Self { hint: material.public_key.hint, envelope, entry })
    }

    /// The bundle's bytes: canonical JSON, though a reader takes any.
    ///
    /// # Errors
    /// [`Error::TooLong`] if no reader would take it.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        let json = jcs::serialize(&RawBundle {
            media_type: MediaType::V03,
            verification_material: VerificationMaterial {
                public_key: PublicKeyHint { hint: self.hint.clone() },
                tlog_entries: self.entry.iter().map(LogEntry::to_raw).collect(),
            },
            dsse_envelope: self.envelope.clone(),
        })?;
        if json.len() > MAX_BUNDLE { Err(Error::TooLong(json.len())) } else { Ok(json) }
    }
}

impl LogEntry {
    fn from_raw(raw: RawEntry) -> Result<Self, Error> {
        let proof = raw.inclusion_proof;
        // Two fields for one number; tools prove the inner one and show the outer one.
        super::differs("logIndex", raw.log_index, "inclusionProof.logIndex", proof.log_index)?;
        if proof.hashes.len() > MAX_PROOF {
            return Err(Error::Path(proof.hashes.len()));
        }
        Ok(Self {
            log: raw.log_id.key_id,
            index: raw.log_index,
            size: proof.tree_size,
            root: proof.root_hash,
            path: proof.hashes.into_iter().map(|hash| hash.0).collect(),
            checkpoint: proof.checkpoint.envelope,
            body: raw.canonicalized_body,
        })
    }

    fn to_raw(&self) -> RawEntry {
        RawEntry {
            log_index: self.index,
            log_id: LogId { key_id: self.log },
            kind_version: KindVersion { kind: Kind::HashedRekord, version: Version::V002 },
            inclusion_proof: InclusionProof {
                log_index: self.index,
                root_hash: self.root,
                tree_size: self.size,
                hashes: self.path.iter().copied().map(Hash).collect(),
                checkpoint: Checkpoint { envelope: self.checkpoint.clone() },
            },
            canonicalized_body: self.body.clone(),
        }
    }
}

/// A 64-bit number as a decimal string in its one spelling.
mod decimal {
    use super::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        crate::tlog::decimal(&text)
            .ok_or_else(|| serde::de::Error::custom("want a number below 2^63 as a decimal string"))
    }
}
