//! What the routes ask of Kubernetes, and how an object becomes a payload that can be relied on.
use std::future::Future;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_api::v1alpha1::{WorkUnit, WorkUnitKind};
use muster_core::envelope::{self, Mirror, Payload};

use crate::gateway::access::Refusal;
use crate::store::{Unit, is_dns_label};

/// WorkUnits. A trait, so that the routes can be tested without an API server.
pub trait Work: Send + Sync + 'static {
    /// The WorkUnit of this name in the namespace of `provider`.
    ///
    /// # Errors
    /// 503.
    fn unit(
        &self,
        provider: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<WorkUnit>, Refusal>> + Send;

    /// The units of a job that are known now, at whatever provider.
    fn of_job(&self, job_uid: &str) -> Vec<WorkUnit>;

    /// Whether every WorkUnit that there was when this process started has raised the fence. Before, a unit that was
    /// superseded while no gateway ran could still commit.
    ///
    /// # Errors
    /// 503 until then.
    fn settled(&self) -> Result<(), Refusal>;
}

/// A unit that exists, and what the hub wrote into it.
#[derive(Debug, Clone)]
pub struct Found {
    /// Of the envelope. Its signature is not asked for: nobody but the hub may write a WorkUnit's spec.
    pub payload: Payload,
}

impl Found {
    /// Under which the store keeps what the unit put.
    pub fn key(&self) -> Unit<'_> {
        Unit { job_uid: &self.payload.job_uid, name: &self.payload.name }
    }
}

/// The unit `name` of `provider`, if it is one.
pub async fn find<W: Work>(work: &W, provider: &str, name: &str) -> Result<Found, Refusal> {
    let missing = || {
        let text = format!("provider {provider} has no unit of this name; it may be gone already");
        Refusal::new(StatusCode::NOT_FOUND, "UnitNotFound", text)
    };
    if !is_dns_label(name) {
        return Err(missing());
    }
    let unit = work.unit(provider, name).await?.ok_or_else(missing)?;
    let payload = payload(&unit, provider, name).map_err(|problem| {
        tracing::error!(provider, unit = name, problem, "a WorkUnit of this hub is not usable");
        let text = format!("WorkUnit {name}: {problem}; hub and gateway must be of the same release");
        Refusal::new(StatusCode::CONFLICT, "BadUnit", text)
    })?;
    Ok(Found { payload })
}

fn payload(unit: &WorkUnit, provider: &str, name: &str) -> Result<Payload, String> {
    let spec = &unit.spec;
    let bytes =
        STANDARD.decode(&spec.envelope.payload).map_err(|error| format!("spec.envelope.payload: {error}"))?;
    let payload = envelope::read(&bytes).map_err(|error| error.to_string())?;
    let kind = match spec.kind {
        WorkUnitKind::Train => "Train",
        WorkUnitKind::Audit => "Audit",
    };
    let mirror = Mirror {
        name,
        provider,
        kind,
        job_uid: &spec.job_uid,
        island: i64::from(spec.island),
        epoch: spec.epoch,
        workers: i64::from(spec.workers),
    };
    payload.check_mirror(&mirror).map_err(|error| error.to_string())?;
    Ok(payload)
}
