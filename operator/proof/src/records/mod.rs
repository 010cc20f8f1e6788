//! The records of the log (docs/spec/records.md): one file for each kind, a closed schema each.
//!
//! A record is a DSSE envelope whose payload is canonical JSON with the field `format` and the fields of one of the types
//! here. [`Record::parse`] reads the payload by its type and checks every value; whose signature it needs, and whether it
//! may stand where it stands, depends on what the log has before it: that is [`crate::history`].
//!
//! What must not live here: any rule that needs a second record.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::dsse::{self, Envelope};
use crate::key::SigningKey;
use crate::{Digest, hub_keys, jcs};

mod audit_assign;
mod audit_opening;
mod audit_seal;
mod commit;
mod draw;
mod eligible;
mod failure;
pub mod fields;
mod grant;
mod grant_end;
mod job;
mod job_end;
mod key_binding;
mod key_revocation;
mod opening;
mod provider_key;
mod rollback;
mod verdict;
mod window_close;

pub use audit_assign::{AssignReason, AuditAssign};
pub use audit_opening::AuditOpening;
pub use audit_seal::{AuditSeal, audit_seal};
pub use commit::{Commit, record_seal};
pub use draw::{Draw, DrawKind};
pub use eligible::Eligible;
pub use failure::{Failure, failed_root};
pub use fields::JobId;
pub use grant::{Grant, Start, UnitKind, unit_name};
pub use grant_end::{GrantEnd, GrantEndReason};
pub use hub_keys::KeySet;
pub use job::{Beacon, Job, Tier, Visibility, job_id};
pub use job_end::{JobEnd, Outcome};
pub use key_binding::KeyBinding;
pub use key_revocation::KeyRevocation;
pub use opening::Opening;
pub use provider_key::ProviderKey;
pub use rollback::Rollback;
pub use verdict::{Evidence, EvidenceKind, Verdict, VerdictKind};
pub use window_close::{CloseReason, WindowClose};

/// Most bytes of a payload, but for the kinds that hold a list of auditors.
pub const MAX_PAYLOAD: usize = 16 << 10;
/// Most bytes of the payload of a window-close or a draw.
pub const MAX_LIST_PAYLOAD: usize = 256 << 10;
/// Most bytes of an envelope's JSON that may hold a record: base64, and room for type and signatures.
pub const MAX_ENVELOPE: usize = MAX_LIST_PAYLOAD / 3 * 4 + 2048;

/// Why bytes are not a record, or a record cannot be signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A type that this version does not know.
    #[error("payloadType {0:?} is no kind of record that this version knows; a newer Muster may")]
    Kind(String),
    /// Longer than its kind may be.
    #[error("{kind}: the payload has {got} bytes, at most {max} are allowed")]
    TooLong {
        /// The kind of record.
        kind: &'static str,
        /// Its length.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// Not canonical JSON.
    #[error("{kind}: {source}")]
    Json {
        /// The kind of record.
        kind: &'static str,
        /// Why.
        source: jcs::Error,
    },
    /// The field `format` names another format.
    #[error("{kind}: format is {got}, want {want:?}")]
    Format {
        /// The kind of record.
        kind: &'static str,
        /// What stands there, as JSON.
        got: String,
        /// What should.
        want: &'static str,
    },
    /// A field is missing, unknown or has a value that it cannot have.
    #[error("{kind}: {field}: {what}")]
    Field {
        /// The kind of record.
        kind: &'static str,
        /// The field's path, `.` for the record itself.
        field: String,
        /// What is wrong and what is wanted.
        what: String,
    },
    /// The hub's keys.
    #[error(transparent)]
    HubKeys(#[from] hub_keys::Error),
    /// Could not be signed.
    #[error(transparent)]
    Dsse(#[from] dsse::Error),
}

/// Fields that do not fit each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misfit {
    /// The field that is blamed.
    pub field: &'static str,
    /// What is wanted.
    pub want: &'static str,
}

fn fit(good: bool, field: &'static str, want: &'static str) -> Result<(), Misfit> {
    if good { Ok(()) } else { Err(Misfit { field, want }) }
}

mod sealed {
    pub trait Sealed {}
}

/// A kind of record.
pub trait Payload: Serialize + DeserializeOwned + sealed::Sealed {
    /// The kind, as in its payload type.
    const KIND: &'static str;
    /// The DSSE payload type.
    const PAYLOAD_TYPE: &'static str;
    /// The value of the field `format`.
    const FORMAT: &'static str;
    /// Most bytes of the payload.
    const MAX: usize = MAX_PAYLOAD;

    /// Whether the fields fit each other.
    ///
    /// # Errors
    /// The first [`Misfit`].
    fn check(&self) -> Result<(), Misfit> {
        Ok(())
    }

    /// The payload's bytes: canonical JSON of `format` and the fields.
    ///
    /// # Errors
    /// [`Error::Field`], [`Error::TooLong`]: what [`Payload::from_payload`] would refuse.
    fn to_payload(&self) -> Result<Vec<u8>, Error> {
        self.check().map_err(|misfit| misfit.of(Self::KIND))?;
        let json = |source| Error::Json { kind: Self::KIND, source };
        let mut value = serde_json::to_value(self).map_err(|error| json(error.into()))?;
        if let Value::Object(map) = &mut value {
            map.insert("format".to_owned(), Value::from(Self::FORMAT));
        }
        let bytes = jcs::to_vec(&value).map_err(json)?;
        check_length::<Self>(bytes.len())?;
        Ok(bytes)
    }

    /// Reads a payload whose signature is **not verified**.
    ///
    /// # Errors
    /// [`Error`].
    fn from_payload(bytes: &[u8]) -> Result<Self, Error> {
        check_length::<Self>(bytes.len())?;
        let mut value =
            jcs::parse_canonical(bytes).map_err(|source| Error::Json { kind: Self::KIND, source })?;
        // Taken out here, so that no type carries a field that can have one value only.
        let format = value.as_object_mut().and_then(|map| map.remove("format")).unwrap_or(Value::Null);
        if format != Self::FORMAT {
            return Err(Error::Format { kind: Self::KIND, got: format.to_string(), want: Self::FORMAT });
        }
        let record: Self = serde_path_to_error::deserialize(value).map_err(|error| Error::Field {
            kind: Self::KIND,
            field: error.path().to_string(),
            what: error.into_inner().to_string(),
        })?;
        record.check().map_err(|misfit| misfit.of(Self::KIND))?;
        Ok(record)
    }

    /// The record with one signature.
    ///
    /// # Errors
    /// As [`Payload::to_payload`].
    fn sign(&self, key: &SigningKey) -> Result<Envelope, Error> {
        Ok(Envelope::sign(Self::PAYLOAD_TYPE, &self.to_payload()?, key)?)
    }

    /// The id of this record, whoever signs it.
    ///
    /// # Errors
    /// As [`Payload::to_payload`].
    fn record_id(&self) -> Result<Digest, Error> {
        Ok(dsse::record_id(Self::PAYLOAD_TYPE, &self.to_payload()?))
    }
}

impl Misfit {
    fn of(self, kind: &'static str) -> Error {
        Error::Field { kind, field: self.field.to_owned(), what: format!("want {}", self.want) }
    }
}

fn check_length<P: Payload>(got: usize) -> Result<(), Error> {
    let (kind, max) = (P::KIND, P::MAX);
    if got > max { Err(Error::TooLong { kind, got, max }) } else { Ok(()) }
}

/// The names of a kind, inside `impl Payload`.
macro_rules! names {
    ($kind:literal) => {
        const KIND: &'static str = $kind;
        const PAYLOAD_TYPE: &'static str = concat!("application/vnd.muster.", $kind, ".v1+json");
        const FORMAT: &'static str = concat!("muster.", $kind, "/1");
    };
}
use names;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A record of any kind.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Record {
            $($(#[$doc])* $name($name),)*
            /// The next set of the hub's own keys.
            HubKeys(KeySet),
        }

        impl Record {
            /// Reads an envelope's payload by its type. The signatures are **not verified**: whose they must be is
            /// only known where the record stands in the log ([`crate::history`]).
            ///
            /// # Errors
            /// [`Error`].
            pub fn parse(envelope: &Envelope) -> Result<Self, Error> {
                let payload = envelope.unverified_payload();
                match envelope.payload_type() {
                    $(<$name as Payload>::PAYLOAD_TYPE => $name::from_payload(payload).map(Self::$name),)*
                    hub_keys::PAYLOAD_TYPE if payload.len() > MAX_PAYLOAD => {
                        Err(Error::TooLong { kind: "hubkeys", got: payload.len(), max: MAX_PAYLOAD })
                    }
                    hub_keys::PAYLOAD_TYPE => Ok(Self::HubKeys(hub_keys::read(payload)?)),
                    other => Err(Error::Kind(other.to_owned())),
                }
            }

            /// The kind, as in the payload type.
            pub const fn kind(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => <$name as Payload>::KIND,)*
                    Self::HubKeys(_) => "hubkeys",
                }
            }
        }

        $(impl sealed::Sealed for $name {})*
    };
}

kinds! {
    /// What shall be computed, and how it is checked.
    Job,
    /// A provider's identity key.
    ProviderKey,
    /// A key that signs nothing more.
    KeyRevocation,
    /// Who computes an island from here on.
    Grant,
    /// A sidecar's key.
    KeyBinding,
    /// The state at an interval's end.
    Commit,
    /// An interval that ended in a step that could not be taken.
    Failure,
    /// Intervals that are open to be drawn.
    WindowClose,
    /// The next value of a job's chain.
    Draw,
    /// Who replays.
    AuditAssign,
    /// A replay's result, hidden.
    AuditSeal,
    /// What the trainer sealed.
    Opening,
    /// What an auditor sealed.
    AuditOpening,
    /// What came out.
    Verdict,
    /// Back to the start of an interval.
    Rollback,
    /// The end of a grant.
    GrantEnd,
    /// The end of a job's training.
    JobEnd,
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
