//! What an agent asks of a payload whose signature is good.

use std::collections::BTreeSet;

use jiff::Timestamp;
use muster_proof::Digest;

use super::{FORMAT, Kind, Payload};

/// The WorkUnit object's fields that repeat the payload for people and columns. The agent compares them and
/// otherwise ignores them: a person who reads the object must not be misled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mirror<'a> {
    /// `metadata.name`.
    pub name: &'a str,
    /// The provider of this agent.
    pub provider: &'a str,
    /// `spec.kind`.
    pub kind: &'a str,
    /// `spec.jobUID`.
    pub job_uid: &'a str,
    /// `spec.island`.
    pub island: i64,
    /// `spec.epoch`.
    pub epoch: i64,
    /// `spec.workers`.
    pub workers: i64,
}

/// What this agent is willing and able to run.
#[derive(Debug, Clone)]
pub struct Policy<'a> {
    /// Origin of the log that this agent has joined with.
    pub log: &'a str,
    /// Allowed images, `NAME@sha256:<hex>`.
    pub images: &'a [String],
    /// Tenants that are lent to, by [`super::tenant`]; `None` = any.
    pub tenants: Option<&'a BTreeSet<Digest>>,
    /// Whether intervals of others are replayed here.
    pub audits: bool,
    /// Arithmetics of the allowed images.
    pub arithmetic: &'a [&'a str],
    /// The device class on offer.
    pub device_class: &'a str,
    /// Offered workers of that class in all.
    pub workers: i64,
    /// The highest epoch known of the unit's (job, island), or the hub's floor: anything older is void.
    pub min_epoch: i64,
    /// The highest incarnation of the hub that is known: anything older is void.
    pub incarnation: i64,
    /// Now.
    pub now: Timestamp,
}

/// Why an agent refuses a unit. The message says what to do where that is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No trusted key signed these bytes.
    #[error("envelope: {0}; only the hub's own keys, as this agent has them from its join, are believed")]
    BadSignature(String),
    /// Signed, but not a payload that this version knows.
    #[error("envelope payload: {0}; hub and agent must be of the same release")]
    BadPayload(String),
    /// A field of the object differs from the signed payload.
    #[error("{field} is {object} in the object but {payload} in the signed payload")]
    MirrorMismatch {
        /// Path in the object.
        field: &'static str,
        /// What the object says.
        object: String,
        /// What was signed.
        payload: String,
    },
    /// A newer epoch of the same island is known.
    #[error("epoch {epoch} is void: epoch {current} of this island is known")]
    OldEpoch {
        /// The unit's.
        epoch: i64,
        /// The newest known.
        current: i64,
    },
    /// The hub was restored since this was signed.
    #[error("incarnation {incarnation} of the hub is void: incarnation {current} is known")]
    OldIncarnation {
        /// The unit's.
        incarnation: i64,
        /// The newest known.
        current: i64,
    },
    /// The unit is to be committed in a log that the agent does not know.
    #[error("the unit is of the log {got:?}, this agent has joined a hub with the log {want:?}")]
    OtherLog {
        /// The unit's.
        got: String,
        /// The pinned one.
        want: String,
    },
    /// The log has contradicted itself: what is committed there proves nothing.
    #[error("{0}; no new unit is taken until the provider has looked at it")]
    LogInconsistent(String),
    /// The image is not on the agent's list.
    #[error(
        "image {0} is not allowed here; the provider allows it with --allow-image {0} or in its policy file"
    )]
    ImageNotAllowed(String),
    /// The provider lends to others only.
    #[error(
        "the provider does not lend to this tenant (tenants in its policy); let placement choose another"
    )]
    TenantNotAllowed,
    /// The provider does not replay for others.
    #[error(
        "this provider replays no intervals of others (audits in its policy); the next in order is asked"
    )]
    AuditsNotOffered,
    /// The log does not say what the unit says of its audit.
    #[error("{0}; nothing is replayed that the log does not bear out")]
    NotAssigned(String),
    /// The arithmetic is not offered.
    #[error("arithmetic {0:?} is not supported here")]
    ArithmeticUnsupported(String),
    /// The unit asks for more than the agent offers.
    #[error("{0}")]
    OverQuota(String),
    /// `notAfter` has passed.
    #[error("the envelope expired at {0}")]
    Expired(Timestamp),
}

impl Refusal {
    /// The reason of the condition `Accepted=False`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadSignature(_) => "BadSignature",
            Self::BadPayload(_) => "BadPayload",
            Self::MirrorMismatch { .. } => "MirrorMismatch",
            Self::OldEpoch { .. } | Self::OldIncarnation { .. } => "OldEpoch",
            Self::OtherLog { .. } => "OtherLog",
            Self::LogInconsistent(_) => "LogInconsistent",
            Self::ImageNotAllowed(_) => "ImageNotAllowed",
            Self::TenantNotAllowed => "TenantNotAllowed",
            Self::NotAssigned(_) => "NotAssigned",
            Self::AuditsNotOffered => "AuditsNotOffered",
            Self::ArithmeticUnsupported(_) => "ArithmeticUnsupported",
            Self::OverQuota(_) => "OverQuota",
            Self::Expired(_) => "Expired",
        }
    }
}

impl Payload {
    /// Compares the object's readable fields with the payload.
    ///
    /// # Errors
    /// [`Refusal::MirrorMismatch`] naming the first field that differs.
    pub fn check_mirror(&self, mirror: &Mirror<'_>) -> Result<(), Refusal> {
        let namespace = |provider: &str| format!("muster-p-{provider}");
        let pairs = [
            ("metadata.name", mirror.name.to_owned(), self.name.clone()),
            ("metadata.namespace", namespace(mirror.provider), namespace(&self.provider)),
            ("spec.kind", mirror.kind.to_owned(), self.kind.name().to_owned()),
            ("spec.jobUID", mirror.job_uid.to_owned(), self.job_uid.clone()),
            ("spec.island", mirror.island.to_string(), self.island.to_string()),
            ("spec.epoch", mirror.epoch.to_string(), self.epoch.to_string()),
            ("spec.workers", mirror.workers.to_string(), self.workers.to_string()),
        ];
        match pairs.into_iter().find(|(_, object, payload)| object != payload) {
            Some((field, object, payload)) => Err(Refusal::MirrorMismatch { field, object, payload }),
            None => Ok(()),
        }
    }

    /// Asks the agent's own policy.
    ///
    /// # Errors
    /// The first refusal, in the order of the variants of [`Refusal`].
    pub fn check_policy(&self, policy: &Policy<'_>) -> Result<(), Refusal> {
        if self.epoch < policy.min_epoch {
            return Err(Refusal::OldEpoch { epoch: self.epoch, current: policy.min_epoch });
        }
        if self.incarnation < policy.incarnation {
            let (incarnation, current) = (self.incarnation, policy.incarnation);
            return Err(Refusal::OldIncarnation { incarnation, current });
        }
        if self.log != policy.log {
            return Err(Refusal::OtherLog { got: self.log.clone(), want: policy.log.to_owned() });
        }
        self.check_lent(policy)?;
        if !policy.arithmetic.contains(&self.arithmetic.as_str()) {
            return Err(Refusal::ArithmeticUnsupported(self.arithmetic.clone()));
        }
        if self.device_class != policy.device_class {
            let what = format!(
                "device class {:?} is not offered here, only {:?}",
                self.device_class, policy.device_class
            );
            return Err(Refusal::OverQuota(what));
        }
        if self.workers > policy.workers {
            let what =
                format!("the unit asks for {} workers, {} are offered here", self.workers, policy.workers);
            return Err(Refusal::OverQuota(what));
        }
        if policy.now > self.not_after {
            return Err(Refusal::Expired(self.not_after));
        }
        Ok(())
    }

    /// Asks the part of the policy that a provider may change while the unit waits for its next attempt.
    ///
    /// # Errors
    /// The first refusal, as [`Self::check_policy`].
    pub fn check_lent(&self, policy: &Policy<'_>) -> Result<(), Refusal> {
        if !policy.images.contains(&self.image) {
            return Err(Refusal::ImageNotAllowed(self.image.clone()));
        }
        if policy.tenants.is_some_and(|tenants| !tenants.contains(&self.tenant)) {
            return Err(Refusal::TenantNotAllowed);
        }
        if self.kind == Kind::Audit && !policy.audits {
            return Err(Refusal::AuditsNotOffered);
        }
        Ok(())
    }

    /// Bounds that keep every later computation and every name valid, whoever signed.
    pub(super) fn check_bounds(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("format is {:?}, this version knows {FORMAT:?}", self.format));
        }
        // `<unit>-<attempt>` is a Job's name, and `<job>-<index>-<5 letters>` its pods' names and label values.
        check("name", is_label(&self.name) && self.name.len() <= 40, "a DNS label of at most 40 characters")?;
        check(
            "provider",
            is_label(&self.provider) && self.provider.len() <= 40,
            "a DNS label of at most 40 characters",
        )?;
        check("jobUID", is_label(&self.job_uid), "a UID")?;
        check(
            "log",
            is_origin(&self.log),
            "a log's origin, 1 to 255 printable ASCII characters without space and plus",
        )?;
        check("deviceClass", is_label(&self.device_class), "a DNS label")?;
        check("arithmetic", is_label(&self.arithmetic), "a DNS label")?;
        check("image", is_image(&self.image), "NAME@sha256:<64 hex>")?;
        self.resources.check()?;
        range("island", self.island, 0, 255)?;
        range("epoch", self.epoch, 1, i64::from(i32::MAX))?;
        range("workers", self.workers, 1, 256)?;
        range("steps", self.steps, 1, 1 << 40)?;
        range("intervalSteps", self.interval_steps, 1, self.steps)?;
        range("keepLast", self.keep_last, 1, 1000)?;
        range("maxRestarts", self.max_restarts, 0, 1_000_000)?;
        range("scheduleTimeoutSeconds", self.schedule_timeout_seconds, 1, 7 * 86_400)?;
        range("disconnectGraceSeconds", self.disconnect_grace_seconds, 0, 7 * 86_400)?;
        range("incarnation", self.incarnation, 0, i64::from(i32::MAX))?;
        if let Some(start) = &self.start {
            range("start.step", start.step, 1, self.steps)?;
        }
        if let Some(before) = &self.continues {
            let good = is_label(before) && before.len() <= 40 && *before != self.name;
            check("continues", good, "another unit's name, a DNS label of at most 40 characters")?;
        }
        self.check_audit()
    }
}

pub(super) fn check(field: &str, good: bool, want: &str) -> Result<(), String> {
    if good { Ok(()) } else { Err(format!("{field} must be {want}")) }
}

pub(super) fn range(field: &str, value: i64, low: i64, high: i64) -> Result<(), String> {
    check(field, (low..=high).contains(&value), &format!("within {low}..={high}, not {value}"))
}

/// RFC 1123 label: valid as an object's name and as a label's value.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| inner(b) || b == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

/// A log's origin is also the name of its key in a signed note, where a space or a plus would end it.
fn is_origin(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'+')
}

pub(crate) fn is_image(text: &str) -> bool {
    let Some((name, digest)) = text.split_once('@') else { return false };
    let name_ok = (1..=255).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:".contains(&b));
    name_ok && digest.parse::<muster_proof::Digest>().is_ok()
}
