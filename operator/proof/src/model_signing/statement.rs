//! The statement's JSON. Field names are the format's own, which mixes two styles.

use serde::{Deserializer, Serializer};

use super::{Deserialize, Digest, Error, Files, IGNORED, Serialize, jcs};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Statement {
    #[serde(rename = "_type")]
    kind: StatementType,
    subject: Vec<Subject>,
    predicate_type: PredicateType,
    predicate: Predicate,
}

#[derive(Serialize, Deserialize)]
enum StatementType {
    #[serde(rename = "https://in-toto.io/Statement/v1")]
    V1,
}

#[derive(Serialize, Deserialize)]
enum PredicateType {
    #[serde(rename = "https://model_signing/signature/v1.0")]
    V1,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    name: String,
    digest: SubjectDigest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubjectDigest {
    #[serde(with = "hex")]
    sha256: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<Resource>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Serialization {
    method: Method,
    hash_type: Algorithm,
    #[serde(deserialize_with = "only_false")]
    allow_symlinks: bool,
    ignore_paths: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    Files,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Algorithm {
    Sha256,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resource {
    name: String,
    algorithm: Algorithm,
    #[serde(with = "hex")]
    digest: Digest,
}

impl Files {
    /// The statement's bytes, canonical JSON: the payload of the envelope.
    ///
    /// # Errors
    /// Does not fail for files that this module accepted.
    pub fn to_statement(&self) -> Result<Vec<u8>, Error> {
        let resource = |(name, digest): &(String, Digest)| Resource {
            name: name.clone(),
            algorithm: Algorithm::Sha256,
            digest: *digest,
        };
        let digest = SubjectDigest { sha256: self.digest() };
        Ok(jcs::serialize(&Statement {
            kind: StatementType::V1,
            subject: vec![Subject { name: self.model.clone(), digest }],
            predicate_type: PredicateType::V1,
            predicate: Predicate {
                serialization: Serialization {
                    method: Method::Files,
                    hash_type: Algorithm::Sha256,
                    allow_symlinks: false,
                    ignore_paths: IGNORED.map(str::to_owned).to_vec(),
                },
                resources: self.files.iter().map(resource).collect(),
            },
        })?)
    }

    /// Reads a statement, which the caller has found signed.
    ///
    /// # Errors
    /// [`Error::Statement`], [`Error::IgnorePaths`], [`Error::Subjects`], [`Error::Order`], [`Error::Subject`], and
    /// as [`Files::new`].
    pub fn parse_statement(payload: &[u8]) -> Result<Self, Error> {
        let Statement { subject, predicate, .. } = jcs::deserialize_canonical(payload)?;
        let ignored = predicate.serialization.ignore_paths;
        if ignored != IGNORED {
            return Err(Error::IgnorePaths(ignored));
        }
        let subjects = subject.len();
        let [Subject { name: model, digest }] =
            <[Subject; 1]>::try_from(subject).map_err(|_| Error::Subjects(subjects))?;
        let files = predicate.resources.into_iter().map(|resource| (resource.name, resource.digest));
        let files = Self::sorted(model, files.collect())?;
        let (got, want) = (digest.sha256, files.digest());
        if got == want { Ok(files) } else { Err(Error::Subject { got, want }) }
    }
}

/// A link can lead out of the directory, and what it leads to is not what was signed.
fn only_false<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match bool::deserialize(deserializer)? {
        false => Ok(false),
        true => Err(serde::de::Error::custom("allow_symlinks must be false")),
    }
}

/// A digest as in-toto has it: 64 lower-case hex digits and no prefix.
mod hex {
    use super::{Deserialize as _, Deserializer, Digest, Serializer};

    pub(super) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&digest.to_hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Digest::from_hex(&text).map_err(|_| serde::de::Error::custom("want 64 lower-case hex digits"))
    }
}
