//! The record of an agent's key (section 5): what the agent must know to sign it, and its way to the hub. The gateway looks at
//! it and leaves it in the store; only the hub says that the key is the provider's.
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use muster_core::provider_keys::own;
use muster_proof::dsse::Envelope;
use muster_proof::records::ProviderKey;

use super::Shared;
use super::access::{Agent, Refusal};
use super::blobs::put_refusal;
use super::body::whole;
use crate::log::Log;
use crate::store::Store;
use crate::store::keys::MAX_RECORD;
use crate::wire::gateway::ProviderAnswer;
use crate::wire::log::Logged;

struct Desk {
    gateway: Shared,
    store: Arc<Store>,
    log: Arc<Log>,
}

/// The routes. Whoever layers them puts an [`Agent`] into the extensions first.
pub fn router(gateway: Shared, store: Arc<Store>, log: Arc<Log>) -> Router {
    Router::new()
        .route("/v1/provider", get(provider))
        .route("/v1/provider-key", post(key))
        .with_state(Arc::new(Desk { gateway, store, log }))
}

async fn provider(
    State(desk): State<Arc<Desk>>,
    Extension(agent): Extension<Agent>,
) -> Result<Json<ProviderAnswer>, Refusal> {
    let owner = desk.owner(&agent)?;
    Ok(Json(ProviderAnswer { provider: agent.provider, owner, log: desk.log.key().to_string() }))
}

async fn key(
    State(desk): State<Arc<Desk>>,
    Extension(agent): Extension<Agent>,
    body: Body,
) -> Result<Response, Refusal> {
    let most = usize::try_from(MAX_RECORD).unwrap_or(usize::MAX);
    let bytes = whole(body, most).await?;
    let envelope = Envelope::parse(&bytes, most)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "BadEnvelope", error.to_string()))?;
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, "BadRecord", text);
    let record = own(&envelope).map_err(bad)?;
    desk.check(&agent, &record)?;
    let id = envelope.record_id();
    // The hub's signature is not part of a record's id.
    if let Some(index) = desk.log.view().published.index(&id) {
        return Ok(Json(Logged { index, record_id: id }).into_response());
    }
    let json = envelope.to_json().map_err(|error| bad(error.to_string()))?;
    desk.store.leave_key(&agent.provider, json).await.map_err(|error| put_refusal(&error))?;
    tracing::debug!(provider = agent.provider, record = %id, "a key waits for the hub's signature");
    Ok(StatusCode::ACCEPTED.into_response())
}

impl Desk {
    /// Who stands behind the agent's provider.
    fn owner(&self, agent: &Agent) -> Result<String, Refusal> {
        let owner = self.gateway.providers.owner(&agent.provider);
        owner.ok_or_else(|| Refusal::unavailable("the provider is not known here yet; try again"))
    }

    /// Whether the record says what this agent may say.
    fn check(&self, agent: &Agent, record: &ProviderKey) -> Result<(), Refusal> {
        let owner = self.owner(agent)?;
        let origin = self.log.key().name().to_string();
        for (field, got, want) in [
            ("hub", record.hub.to_string(), origin),
            ("provider", record.provider.to_string(), agent.provider.clone()),
            ("owner", record.owner.to_string(), owner),
            ("key", record.key.key_id().to_string(), agent.key.to_string()),
        ] {
            if got != want {
                let text = format!("{field} is {got}, and must be {want}: ask GET /v1/provider and sign anew");
                return Err(Refusal::new(StatusCode::CONFLICT, "Differs", text));
            }
        }
        Ok(())
    }
}
