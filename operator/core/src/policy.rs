//! What a provider lends, to whom and when: the file of `muster agent run --policy`. The owner of the member writes it, the
//! hub has no say in it. Parsing and deciding are here; the clock is an argument.
//!
//! ```yaml
//! images: ["muster-trainer@sha256:<64 hex>"]
//! tenants: [team-a, team-b]         # namespaces of the hub that are lent to; absent = all
//! maxRuntimeSeconds: 86400          # a unit that has run for longer is ended; absent = no limit
//! offer:
//!   workers: 8                      # the most at once; a ResourceQuota may leave room for fewer
//!   worker: {cpu: "1", memory: 2Gi} # what one is counted as when the quota's room is told to the hub; absent = not counted
//!   price: 120                      # micro-credits per 10^9 operations of the model, for jobs with a maxPrice; absent = none is named
//!   observe: true                   # nodes and pods of the whole cluster are counted too: no more than fits now is told as idle
//!   calendar:                       # absent = always
//!   - {days: [Mon, Tue, Wed, Thu, Fri], from: "18:00", to: "08:00", timezone: "+01:00"}
//!   - {days: [Sat, Sun], from: "00:00", to: "24:00"}
//! kueue: {queueName: lent}          # workers wait in this LocalQueue of the member's Kueue; absent = they do not
//! audits: true                      # false: no interval of others is replayed here
//! logs: Allow                       # Refuse: no worker's log leaves the member
//! directStore: false                # true: blobs go between the agent and the hub's bucket, past the gateway
//! stop: false                       # true: everything lent ends now, and nothing is offered
//! ```

mod calendar;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use jiff::Timestamp;
use muster_proof::Digest;
use serde::Deserialize;

pub use calendar::{Calendar, Day};

use crate::envelope::{is_image, is_label, tenant};
use crate::quota::{Amounts, of_worker};

/// No policy file is longer.
pub const MAX_BYTES: usize = 64 * 1024;
/// Most images.
pub const MAX_IMAGES: usize = 64;
/// Most tenants that can be named.
pub const MAX_TENANTS: usize = 1024;
/// Most workers that can be offered, as in the ProviderReport.
pub const MAX_WORKERS: u32 = 100_000;
/// The highest price, as in the ProviderReport: what JSON readers keep exactly (RFC 8259, section 6).
pub const MAX_PRICE: i64 = (1 << 53) - 1;
/// The longest limit of a unit's time: a year.
pub const MAX_RUNTIME_SECONDS: i64 = 366 * 86_400;

/// Why a text is no policy. The message names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not YAML of this schema.
    #[error("{0}")]
    Syntax(String),
    /// A field's value is not possible.
    #[error("{field}: {problem}")]
    Field {
        /// Path in the file.
        field: String,
        /// What is wrong and what is right.
        problem: String,
    },
}

impl Error {
    fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { field: field.into(), problem: problem.into() }
    }
}

/// Whether workers' logs may leave the member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Logs {
    /// Whoever may read the job's logs at the hub gets them.
    #[default]
    Allow,
    /// Nobody gets them, and nothing of them is kept.
    Refuse,
}

/// A provider's policy, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderPolicy {
    images: Vec<String>,
    tenants: Option<BTreeSet<Digest>>,
    workers: i64,
    worker: Option<Amounts>,
    price: Option<i64>,
    observe: bool,
    max_runtime_seconds: Option<i64>,
    calendar: Option<Calendar>,
    queue_name: Option<String>,
    audits: bool,
    logs: Logs,
    direct_store: bool,
    stop: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    images: Vec<String>,
    #[serde(default)]
    tenants: Option<Vec<String>>,
    #[serde(default)]
    max_runtime_seconds: Option<i64>,
    offer: RawOffer,
    #[serde(default)]
    kueue: Option<RawKueue>,
    #[serde(default = "yes")]
    audits: bool,
    #[serde(default)]
    logs: Logs,
    #[serde(default)]
    direct_store: bool,
    #[serde(default)]
    stop: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawOffer {
    workers: u32,
    #[serde(default)]
    worker: Option<RawWorker>,
    #[serde(default)]
    price: Option<i64>,
    #[serde(default)]
    observe: bool,
    #[serde(default)]
    calendar: Option<Vec<calendar::RawWindow>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawKueue {
    queue_name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorker {
    cpu: String,
    memory: String,
}

impl ProviderPolicy {
    /// What the flags --allow-image and --workers say.
    ///
    /// # Errors
    /// [`Error::Field`].
    pub fn simple(images: Vec<String>, workers: u32) -> Result<Self, Error> {
        Self::check(Raw {
            images,
            tenants: None,
            max_runtime_seconds: None,
            offer: RawOffer { workers, worker: None, price: None, observe: false, calendar: None },
            kueue: None,
            audits: true,
            logs: Logs::default(),
            direct_store: false,
            stop: false,
        })
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// [`Error`], naming the field.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_BYTES {
            return Err(Error::Syntax(format!("longer than the {MAX_BYTES} bytes of a policy file")));
        }
        let raw: Raw = serde_saphyr::from_str(text).map_err(|error| Error::Syntax(error.to_string()))?;
        Self::check(raw)
    }

    fn check(raw: Raw) -> Result<Self, Error> {
        if raw.images.is_empty() || raw.images.len() > MAX_IMAGES {
            let problem = format!("name 1 to {MAX_IMAGES} images, not {}", raw.images.len());
            return Err(Error::field("images", problem));
        }
        if let Some((at, bad)) = raw.images.iter().enumerate().find(|(_, image)| !is_image(image)) {
            let problem =
                format!("{bad:?} is not NAME@sha256:<64 hex>; a tag can be moved, so name the digest");
            return Err(Error::field(format!("images[{at}]"), problem));
        }
        let tenants = raw.tenants.map(|names| {
            if names.is_empty() || names.len() > MAX_TENANTS {
                let problem = format!(
                    "name 1 to {MAX_TENANTS} tenants, not {}; leave it out to lend to all",
                    names.len()
                );
                return Err(Error::field("tenants", problem));
            }
            match names.iter().enumerate().find(|(_, name)| !is_label(name)) {
                Some((at, bad)) => Err(Error::field(
                    format!("tenants[{at}]"),
                    format!("{bad:?} is not the name of a namespace: a DNS label of at most 63 characters"),
                )),
                None => Ok(names.iter().map(|name| tenant(name)).collect()),
            }
        });
        let tenants = tenants.transpose()?;
        if raw.offer.workers > MAX_WORKERS {
            return Err(Error::field("offer.workers", format!("at most {MAX_WORKERS}")));
        }
        if let Some(seconds) = raw.max_runtime_seconds
            && !(1..=MAX_RUNTIME_SECONDS).contains(&seconds)
        {
            let problem =
                format!("{seconds} is not within 1..={MAX_RUNTIME_SECONDS}; leave it out for no limit");
            return Err(Error::field("maxRuntimeSeconds", problem));
        }
        let worker = raw.offer.worker.map(|RawWorker { cpu, memory }| {
            let problem = format!("cpu {cpu:?} and memory {memory:?}: want quantities such as \"1\" and 2Gi");
            of_worker(&cpu, &memory).ok_or_else(|| Error::field("offer.worker", problem))
        });
        let worker = worker.transpose()?;
        if raw.offer.observe && worker.is_none() {
            let problem = "needs offer.worker beside it: without the size of a worker nothing can be counted";
            return Err(Error::field("offer.observe", problem));
        }
        if let Some(price) = raw.offer.price.filter(|price| !(0..=MAX_PRICE).contains(price)) {
            let problem = format!("{price} is not within 0..={MAX_PRICE}; leave it out to name none");
            return Err(Error::field("offer.price", problem));
        }
        let calendar = raw.offer.calendar.map(Calendar::check).transpose()?;
        let queue_name = raw.kueue.map(|kueue| kueue.queue_name);
        if let Some(bad) = queue_name.as_ref().filter(|name| !is_label(name)) {
            let problem =
                format!("{bad:?} is not the name of a LocalQueue: a DNS label of at most 63 characters");
            return Err(Error::field("kueue.queueName", problem));
        }
        Ok(Self {
            images: raw.images,
            tenants,
            workers: i64::from(raw.offer.workers),
            worker,
            price: raw.offer.price,
            observe: raw.offer.observe,
            max_runtime_seconds: raw.max_runtime_seconds,
            calendar,
            queue_name,
            audits: raw.audits,
            logs: raw.logs,
            direct_store: raw.direct_store,
            stop: raw.stop,
        })
    }

    /// Allowed images, `NAME@sha256:<hex>`.
    #[must_use]
    pub fn images(&self) -> &[String] {
        &self.images
    }

    /// The tenants that are lent to; `None` = any.
    #[must_use]
    pub fn tenants(&self) -> Option<&BTreeSet<Digest>> {
        self.tenants.as_ref()
    }

    /// The digests of the allowed images, sorted, each once.
    #[must_use]
    pub fn image_digests(&self) -> Vec<String> {
        let digests = self.images.iter().filter_map(|image| Some(image.split_once('@')?.1.to_owned()));
        digests.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    /// Lent workers, when the calendar is open.
    #[must_use]
    pub fn workers(&self) -> i64 {
        self.workers
    }

    /// What one worker is counted as when the hub is told how many more fit, if the provider says.
    #[must_use]
    pub fn worker(&self) -> Option<&Amounts> {
        self.worker.as_ref()
    }

    /// Micro-credits per 10^9 operations of the model, if it names a price.
    #[must_use]
    pub fn price(&self) -> Option<i64> {
        self.price
    }

    /// Whether the agent counts what the nodes of its cluster have room for.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.observe
    }

    /// The LocalQueue of the member's Kueue in which workers wait, if they do.
    #[must_use]
    pub fn queue_name(&self) -> Option<&str> {
        self.queue_name.as_deref()
    }

    /// Whether intervals that others have committed are replayed here.
    #[must_use]
    pub fn audits(&self) -> bool {
        self.audits
    }

    /// Whether workers' logs may leave the member.
    #[must_use]
    pub fn logs(&self) -> Logs {
        self.logs
    }

    /// Whether the agent may talk to the hub's bucket itself, at URLs that the gateway gives it.
    #[must_use]
    pub fn is_direct_store(&self) -> bool {
        self.direct_store
    }

    /// Everything lent ends now.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop
    }

    /// Why no new unit is taken now; `None` if new units are welcome. Units that run are not concerned by the calendar.
    #[must_use]
    pub fn closed(&self, now: Timestamp) -> Option<String> {
        if self.stop {
            return Some("the provider has stopped lending (stop: true in its policy)".to_owned());
        }
        let calendar = self.calendar.as_ref()?;
        if calendar.is_open(now) {
            return None;
        }
        Some(match calendar.next_opening(now) {
            Some(then) => format!("the provider lends again from {then} (offer.calendar of its policy)"),
            None => "the provider does not lend now (offer.calendar of its policy)".to_owned(),
        })
    }

    /// Why a unit whose first attempt began at `started` must end now, if it must.
    #[must_use]
    pub fn overrun(&self, started: Timestamp, now: Timestamp) -> Option<String> {
        let limit = self.max_runtime_seconds?;
        (now.duration_since(started).as_secs() >= limit).then(|| {
            format!("the unit has had the {limit} s that the provider gives one (maxRuntimeSeconds)")
        })
    }
}
