//! Blobs and commits of WorkUnits, for their agents (docs/spec/gateway.md section 6).
//!
//! | file | what |
//! |---|---|
//! | `work` | what is asked of Kubernetes: a unit by name; from the object to its payload |
//! | `follow` | the answer over a real API server; every WorkUnit seen raises the fence |
//! | `quota` | how large checkpoints of a job are, and how much a unit may have under way |
//! | `commit` | what a checkpoint must satisfy to become the job's |
//! | `failure` | what a step that is not finite must satisfy to stand in its place |
//! | `models` | what its signer says of its files |
//! | `read_back` | its StateRoot, from what the store has |
//! | `urls` | URLs of single blobs; uploads that went past the gateway |
//! | `kept` | ends of the logs of failed attempts |
//!
//! The fence is checked here, where effects happen: whatever its agent believes, a superseded unit puts and commits nothing.
mod commit;
mod failure;
mod follow;
mod kept;
mod models;
mod quota;
mod read_back;
#[cfg(test)]
mod tests;
mod urls;
mod work;

pub use follow::{KubeWork, follow};
pub use work::Work;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Json, Router};
use muster_core::envelope::{CheckpointRef, Payload};
use muster_proof::Digest;

use self::quota::Quota;
use self::read_back::ReadBack;
use self::work::Found;
use super::access::{Agent, Refusal};
use super::blobs::{DRAIN, content_length, digest, no_blob, put_refusal, store_refusal, too_large};
use super::body::json;
use super::closures::{Closures, Of};
use super::uploads::Uploads;
use super::urls::Urls;
use crate::log::Log;
use crate::runtime::blobdir::drain;
use crate::store::{Asset, Store};
use crate::wire::gateway::{CheckpointCommit, UnitFailure};
use crate::wire::log::Logged;

struct Units<W> {
    store: Arc<Store>,
    work: Arc<W>,
    closures: Closures,
    quota: Quota,
    uploads: Arc<Uploads>,
    urls: Arc<Urls>,
    pending: urls::Pending,
    log: Arc<Log>,
    read_back: ReadBack,
}

/// Uploads of all agents at once, and of one provider's.
const UPLOADS: (usize, usize) = (32, 8);

/// The routes. Whoever layers them puts an [`Agent`] into the extensions first.
pub fn router<W: Work>(store: Arc<Store>, work: Arc<W>, urls: Arc<Urls>, log: Arc<Log>) -> Router {
    let units = Units {
        store,
        work,
        closures: Closures::default(),
        quota: Quota::default(),
        uploads: Uploads::new(UPLOADS.0, UPLOADS.1),
        urls,
        pending: urls::Pending::default(),
        log,
        read_back: ReadBack::default(),
    };
    Router::new()
        .route("/v1/units/{unit}/blobs/sha256/{hex}", get(read::<W>).put(put_blob::<W>))
        .route("/v1/units/{unit}/blobs/sha256/{hex}/publish", post(urls::publish::<W>))
        .route("/v1/units/{unit}/urls", post(urls::url::<W>))
        .route("/v1/units/{unit}/checkpoints/{step}", post(commit::<W>))
        .route("/v1/units/{unit}/failures/{step}", post(fail::<W>))
        .route("/v1/units/{unit}/attempts/{attempt}/logs/{rank}", put(kept::keep::<W>))
        // Blobs are streamed and have a limit of their own, JSON is read with one.
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(units))
}

async fn read<W: Work>(
    State(units): State<Arc<Units<W>>>,
    Extension(agent): Extension<Agent>,
    Path((unit, hex)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let digest = digest(&hex)?;
    let unit = units.unit(&agent, &unit).await?;
    let missing = || no_blob(&digest, &format!("unit {}", unit.payload.name));
    if !units.may_read(&unit, &digest).await? {
        return Err(missing());
    }
    // "It is there" is a promise until the agent has named it in a commit: tell garbage collection.
    if method == Method::HEAD && !units.store.touch(&digest).await.map_err(|e| store_refusal(&e))? {
        return Err(missing());
    }
    let answer = units.store.answer(&digest, &method, &headers).await;
    answer.map_err(|error| store_refusal(&error))?.ok_or_else(missing)
}

async fn put_blob<W: Work>(
    State(units): State<Arc<Units<W>>>,
    Extension(agent): Extension<Agent>,
    Path((unit, hex)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mut body = body.into_data_stream();
    let answer = async {
        let (digest, size) = (digest(&hex)?, content_length(&headers)?);
        let unit = units.unit(&agent, &unit).await?;
        units.fence(&agent, &unit).await?;
        let limits = units.quota.limits(&units.store, &unit.payload.spec).await?;
        if size > limits.file {
            return Err(too_large(limits.file));
        }
        let store = |error| store_refusal(&error);
        let puts = units.store.all_puts(unit.key()).await.map_err(store)?;
        let is_mine = puts.get(&digest) == Some(&size);
        if is_mine
            && units.store.size(&digest).await.map_err(store)? == Some(size)
            && units.store.touch(&digest).await.map_err(store)?
        {
            return Ok(StatusCode::OK);
        }
        let _slot = units.uploads.enter(&agent.provider)?;
        let _room = units.quota.reserve(&units.store, &unit, size, &limits).await?;
        units.store.put_proven(&digest, &mut body, size).await.map_err(|error| put_refusal(&error))?;
        units.store.record_unit_put(unit.key(), &digest, size).await.map_err(store)?;
        tracing::debug!(provider = agent.provider, unit = unit.payload.name, %digest, size, "blob put");
        // Whether the store had it from somebody else is nobody's business.
        Ok(StatusCode::CREATED)
    };
    let answer: Result<StatusCode, Refusal> = answer.await;
    drain(&mut body, DRAIN).await;
    answer.into_response()
}

async fn commit<W: Work>(
    State(units): State<Arc<Units<W>>>,
    Extension(agent): Extension<Agent>,
    Path((unit, step)): Path<(String, String)>,
    body: Body,
) -> Result<Json<Logged>, Refusal> {
    let step = number(&step)?;
    let request: CheckpointCommit = json(body).await?;
    let unit = units.unit(&agent, &unit).await?;
    let entry = units.commit(&agent, &unit, step, request).await?;
    Ok(Json(Logged { index: entry.index, record_id: entry.record }))
}

async fn fail<W: Work>(
    State(units): State<Arc<Units<W>>>,
    Extension(agent): Extension<Agent>,
    Path((unit, step)): Path<(String, String)>,
    body: Body,
) -> Result<Json<Logged>, Refusal> {
    let step = number(&step)?;
    let UnitFailure { failure } = json(body).await?;
    let unit = units.unit(&agent, &unit).await?;
    let entry = units.fail(&agent, &unit, step, failure).await?;
    Ok(Json(Logged { index: entry.index, record_id: entry.record }))
}

/// A step in a path, in its one spelling.
fn number(step: &str) -> Result<u64, Refusal> {
    let number = step.parse::<u64>().ok().filter(|number| number.to_string() == step);
    number.ok_or_else(|| {
        Refusal::new(StatusCode::BAD_REQUEST, "BadRequest", "the path ends with a step, a number")
    })
}

impl<W: Work> Units<W> {
    async fn unit(&self, agent: &Agent, name: &str) -> Result<Found, Refusal> {
        work::find(self.work.as_ref(), &agent.provider, name).await
    }

    /// Refuses a unit that another one has superseded, and every replay: it changes nothing here.
    async fn fence(&self, agent: &Agent, unit: &Found) -> Result<(), Refusal> {
        self.work.settled()?;
        let payload = &unit.payload;
        if payload.is_audit() {
            return Err(not_for_audits(payload));
        }
        let store = |error| store_refusal(&error);
        let known = self.store.epoch(&payload.job_uid, payload.island).await.map_err(store)?;
        let known = match payload.epoch {
            // Its object is the news.
            newer if newer > known => {
                let raised = self.store.raise_epoch(&payload.job_uid, payload.island, newer).await;
                raised.map_err(store)?
            }
            _ => known,
        };
        let current = known.max(agent.min_epoch);
        if payload.epoch < current {
            let text = format!(
                "epoch {} of unit {} is void: epoch {current} is known; the unit must stop",
                payload.epoch, payload.name
            );
            return Err(Refusal::new(StatusCode::CONFLICT, "OldEpoch", text));
        }
        Ok(())
    }

    /// Whether the unit's envelope leads to the blob, or the unit has put it.
    async fn may_read(&self, unit: &Found, digest: &Digest) -> Result<bool, Refusal> {
        let payload = &unit.payload;
        let store = |error| store_refusal(&error);
        if payload.spec == *digest || self.start_leads_to(unit, digest).await? {
            return Ok(true);
        }
        let mut inputs = vec![(Asset::Dataset, payload.dataset)];
        inputs.extend(self.store.inputs(&payload.spec).await.map_err(store)?);
        for (asset, manifest) in inputs {
            let leads = self.closures.leads_to(&self.store, Of::Asset(asset), &manifest, digest).await;
            if leads.map_err(store)? {
                return Ok(true);
            }
        }
        if payload.is_audit() {
            return Ok(false);
        }
        self.store.has_unit_put(unit.key(), digest).await.map_err(store)
    }

    /// Whether the blob is one of the checkpoint that the unit starts from.
    async fn start_leads_to(&self, unit: &Found, digest: &Digest) -> Result<bool, Refusal> {
        let Some(start) = &unit.payload.start else { return Ok(false) };
        if unit.payload.is_audit() && !self.is_before(&unit.payload, start).await? {
            return Ok(false);
        }
        let leads = self.closures.leads_to(&self.store, Of::Checkpoint, &start.manifest, digest).await;
        leads.map_err(|error| store_refusal(&error))
    }

    /// Whether a replay's start is what it is called: a state of this job after this step, and so not the one that the replay is to
    /// find, whatever the unit was made of.
    async fn is_before(&self, payload: &Payload, start: &CheckpointRef) -> Result<bool, Refusal> {
        match self.store.checkpoint_manifest(&start.manifest).await {
            Ok(Some(manifest)) => Ok(manifest.training_digest() == payload.training_digest
                && i64::try_from(manifest.step()) == Ok(start.step)),
            Ok(None) => Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Ok(false),
            Err(error) => Err(store_refusal(&error)),
        }
    }
}

/// 403: what a replay finds goes into the log as a seal, and nowhere else.
fn not_for_audits(payload: &Payload) -> Refusal {
    let text = format!(
        "unit {} is an audit: it puts, commits and tells nothing here; its seal goes to /v1/log/entries",
        payload.name
    );
    Refusal::new(StatusCode::FORBIDDEN, "NotForAudits", text)
}
