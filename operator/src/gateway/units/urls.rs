//! URLs at which an agent reads or writes one blob of a unit, and the end of an upload that went past the gateway. Whoever gets
//! a URL has the rights that the blob itself asks for.
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use axum::Json;

use super::*;
use crate::gateway::uploads::Room;
use crate::gateway::urls::{Holder, VALID, direct};
use crate::runtime::blobdir::PutError;
use crate::store::Published;
use crate::wire::urls::{PublishRequest, UnitUrlRequest, UrlAnswer, UrlMethod};

/// URLs for uploads that one unit may hold at once.
const AT_ONCE: usize = 64;

pub(super) async fn url<W: Work>(
    State(units): State<Arc<Units<W>>>,
    Extension(agent): Extension<Agent>,
    Path(unit): Path<String>,
    body: Body,
) -> Result<Json<UrlAnswer>, Refusal> {
    let UnitUrlRequest { digest, method, size } = json(body).await?;
    let unit = units.unit(&agent, &unit).await?;
    let answer = match method {
        UrlMethod::Get => units.url_to_get(&agent, &unit, digest).await?,
        UrlMethod::Put => {
            let size = size.ok_or_else(|| Refusal::bad_request("size: a PUT says how many bytes come"))?;
            units.url_to_put(&agent, &unit, digest, size).await?
        }
    };
    Ok(Json(answer))
}

/// What was put past the gateway becomes a blob, once the gateway has seen all of it.
pub(super) async fn publish<W: Work>(
    State(units): State<Arc<Units<W>>>,
    Extension(agent): Extension<Agent>,
    Path((unit, hex)): Path<(String, String)>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let digest = digest(&hex)?;
    let PublishRequest { staging } = json(body).await?;
    let unit = units.unit(&agent, &unit).await?;
    units.fence(&agent, &unit).await?;
    let limits = units.quota.limits(&units.store, &unit.payload.spec).await?;
    let name = unit.payload.name.as_str();
    let store = |error| store_refusal(&error);
    // The first answer may have been lost.
    let puts = units.store.all_puts(unit.key()).await.map_err(store)?;
    if puts.contains_key(&digest) && units.store.touch(&digest).await.map_err(store)? {
        units.pending.release(&staging);
        units.store.unstage(name, &staging).await.map_err(|error| staging_refusal(&error))?;
        return Ok(StatusCode::OK);
    }
    let _slot = units.uploads.enter(&agent.provider)?;
    units.pending.release(&staging);
    // What is staged counts; it may be more than what was asked for.
    let _room = units.quota.reserve(&units.store, &unit, 0, &limits).await?;
    let size = match units.store.publish(name, &staging, &digest, limits.file).await {
        Ok(Published::Blob(_, size)) => size,
        Ok(Published::Nothing) => {
            let text =
                format!("unit {name} has put nothing under this staging name; put it, then publish it");
            return Err(Refusal::new(StatusCode::NOT_FOUND, "BlobNotFound", text));
        }
        Err(PutError::Io(error)) => return Err(staging_refusal(&error)),
        Err(error) => return Err(put_refusal(&error)),
    };
    units.store.record_unit_put(unit.key(), &digest, size).await.map_err(store)?;
    tracing::debug!(provider = agent.provider, unit = name, %digest, size, "blob published");
    Ok(StatusCode::CREATED)
}

fn staging_refusal(error: &std::io::Error) -> Refusal {
    match error.kind() {
        std::io::ErrorKind::InvalidInput => Refusal::bad_request(error.to_string()),
        _ => store_refusal(error),
    }
}

impl<W: Work> Units<W> {
    async fn url_to_get(&self, agent: &Agent, unit: &Found, digest: Digest) -> Result<UrlAnswer, Refusal> {
        let missing = || no_blob(&digest, &format!("unit {}", unit.payload.name));
        let store = |error| store_refusal(&error);
        // It stays as long as the URL is good.
        if !self.may_read(unit, &digest).await? || !self.store.touch(&digest).await.map_err(store)? {
            return Err(missing());
        }
        match self.store.url_to_get(&digest, VALID).await.map_err(store)? {
            Some(url) => Ok(direct(url, UrlMethod::Get, None)),
            None => self.urls.own(UrlMethod::Get, digest, None, holder(agent, unit)),
        }
    }

    async fn url_to_put(
        &self,
        agent: &Agent,
        unit: &Found,
        digest: Digest,
        size: u64,
    ) -> Result<UrlAnswer, Refusal> {
        self.fence(agent, unit).await?;
        let limits = self.quota.limits(&self.store, &unit.payload.spec).await?;
        if size > limits.file {
            return Err(too_large(limits.file));
        }
        let room = self.quota.reserve(&self.store, unit, size, &limits).await?;
        let name = &unit.payload.name;
        match self.store.url_to_stage(name, VALID).await.map_err(|error| store_refusal(&error))? {
            Some(staged) => {
                self.pending.hold(&staged.name, name, room)?;
                Ok(direct(staged.url, UrlMethod::Put, Some(staged.name)))
            }
            // Room is given out when the bytes come.
            None => self.urls.own(UrlMethod::Put, digest, Some(size), holder(agent, unit)),
        }
    }
}

fn holder(agent: &Agent, unit: &Found) -> Holder {
    Holder::Unit { key: agent.key, unit: unit.payload.name.clone() }
}

/// Room of uploads that may come past the gateway, as long as their URLs are good.
#[derive(Debug, Default)]
pub struct Pending {
    held: Mutex<HashMap<String, Held>>,
}

#[derive(Debug)]
struct Held {
    unit: String,
    until: Instant,
    /// Given back when this is dropped.
    _room: Room,
}

impl Pending {
    fn hold(&self, staging: &str, unit: &str, room: Room) -> Result<(), Refusal> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        held.retain(|_, one| one.until > now);
        if held.values().filter(|one| one.unit == unit).count() >= AT_ONCE {
            return Err(Refusal::too_many(VALID.as_secs() / 10));
        }
        let one = Held { unit: unit.to_owned(), until: now + VALID, _room: room };
        held.insert(staging.to_owned(), one);
        Ok(())
    }

    fn release(&self, staging: &str) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(staging);
    }
}
