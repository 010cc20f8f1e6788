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
                let text =
                    format!("{field} is {got}, and must be {want}: ask GET /v1/provider and sign anew");
                return Err(Refusal::new(StatusCode::CONFLICT, "Differs", text));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use muster_core::hub_keys;
    use muster_proof::key::SigningKey;
    use muster_proof::records::{KeyRevocation, Payload};
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;
    use crate::gateway::history::Fold;
    use crate::gateway::testing::{Client, HUB_KEY, Running};
    use crate::gateway::{Rooms, log};
    use crate::hub::ledger::testing::own_record;

    const ORIGIN: &str = "hub.example/log";

    struct Site {
        running: Running,
        store: Arc<Store>,
        log: Arc<Log>,
        east: Client,
        token: String,
        _dir: TempDir,
    }

    impl Site {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(dir.path().join("store").as_path()).await.unwrap());
            let fold = Fold::new(ORIGIN.parse().unwrap(), Arc::default());
            let log = Arc::new(Log::open(&dir.path().join("log"), ORIGIN, Box::new(fold)).unwrap());
            let (kept, shown) = (store.clone(), log.clone());
            let rooms = |gateway: &Shared| Rooms {
                agents: router(gateway.clone(), kept, shown.clone()),
                members: log::members(shown),
                ..Rooms::default()
            };
            let running = Running::start_on(log.view().clone(), rooms).await;
            let east = running.client(2);
            running.accept("east", &east).await;
            let token = east.tokens().await.gateway_token;
            Self { running, store, log, east, token, _dir: dir }
        }

        async fn post(&self, path: &str, envelope: &Envelope) -> (u16, Value) {
            send(&self.east, path, Some(&self.token), envelope).await
        }

        /// As the agent of east makes it, but for what is changed.
        fn record(&self, change: impl FnOnce(&mut ProviderKey)) -> ProviderKey {
            let sample = ProviderKey::from_payload(own_record("east", "acme").unverified_payload()).unwrap();
            let mut record = ProviderKey { key: self.east.key.public().clone(), ..sample };
            change(&mut record);
            record
        }
    }

    async fn send(client: &Client, path: &str, token: Option<&str>, envelope: &Envelope) -> (u16, Value) {
        let request = client.http.post(format!("{}{path}", client.url)).body(envelope.to_json().unwrap());
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    #[tokio::test]
    async fn a_key_waits_for_the_hubs_signature_and_then_for_nothing() {
        let site = Site::new().await;
        let (status, who) = site.east.get("/v1/provider", Some(&site.token)).await;
        let owner = who["owner"].as_str().unwrap().to_owned();
        let log = site.log.key().to_string();
        assert_eq!((status, who), (200, json!({"provider": "east", "owner": owner, "log": log})));

        let record = site.record(|it| it.owner = owner.parse().unwrap());
        let own = record.sign(&site.east.key).unwrap();
        for _ in 0..2 {
            assert_eq!(site.post("/v1/provider-key", &own).await.0, 202);
        }
        let pending = site.store.provider_keys("east").await.unwrap().pending.unwrap();
        let kept = site.store.read(&pending, MAX_RECORD).await.unwrap().unwrap();
        assert_eq!(Envelope::parse(&kept, 1 << 16).unwrap().record_id(), own.record_id());

        // The hub, by its key alone: its key set first, then what it has signed.
        let hub = site.running.client(HUB_KEY[0]);
        let set = hub_keys::sign(1, &[hub.key.public()], &hub.key).unwrap();
        let both = record.sign_both(&hub.key, &site.east.key).unwrap();
        let early = send(&hub, "/v1/log/entries", None, &both).await;
        assert!(early.0 == 400 || early.0 == 409, "the log does not know the hub's keys yet: {early:?}");
        assert_eq!(send(&hub, "/v1/log/entries", None, &set).await.0, 200);
        let (status, logged) = send(&hub, "/v1/log/entries", None, &both).await;
        assert_eq!((status, &logged["index"]), (200, &json!(1)), "{logged}");
        let want = json!({"recordId": own.record_id(), "index": 1});
        assert_eq!(site.post("/v1/provider-key", &own).await, (200, want));
    }

    #[tokio::test]
    async fn what_is_not_this_agents_own_is_refused_by_its_field() {
        let site = Site::new().await;
        let (_, who) = site.east.get("/v1/provider", Some(&site.token)).await;
        let owner = who["owner"].as_str().unwrap().to_owned();
        let thief = SigningKey::generate([5; 32]).unwrap();
        type Change = Box<dyn Fn(&mut ProviderKey)>;
        let changes: [(&str, Change); 3] = [
            ("hub", Box::new(|it| it.hub = "other.example/log".parse().unwrap())),
            ("provider", Box::new(|it| it.provider = "west".parse().unwrap())),
            ("owner", Box::new(|it| it.owner = "nobody".parse().unwrap())),
        ];
        for (field, change) in changes {
            let record = site.record(|it| {
                it.owner = owner.parse().unwrap();
                change(it);
            });
            let (status, said) = site.post("/v1/provider-key", &record.sign(&site.east.key).unwrap()).await;
            let message = said["message"].as_str().unwrap_or_default();
            assert!(status == 409 && message.starts_with(field), "{said}");
        }
        let other = site.record(|it| it.key = thief.public().clone()).sign(&thief).unwrap();
        assert_eq!(site.post("/v1/provider-key", &other).await.0, 409, "another key than it shows");
        let good = site.record(|_| {});
        for bad in [good.sign(&thief).unwrap(), good.sign_both(&thief, &site.east.key).unwrap()] {
            let (status, said) = site.post("/v1/provider-key", &bad).await;
            assert_eq!((status, &said["reason"]), (400, &json!("BadRecord")));
        }
        assert_eq!(site.store.provider_keys("east").await.unwrap().pending, None);
    }

    #[tokio::test]
    async fn nobody_brings_what_is_not_his_to_log() {
        let site = Site::new().await;
        let not_here = |(status, said): (u16, Value)| status == 403 && said["reason"] == "NotHere";
        let set = hub_keys::sign(1, &[site.east.key.public()], &site.east.key).unwrap();
        assert!(
            not_here(site.post("/v1/log/entries", &set).await),
            "an agent is not the hub of an empty log"
        );
        let own = site.record(|_| {}).sign(&site.east.key).unwrap();
        assert!(not_here(site.post("/v1/log/entries", &own).await));
        let revocation = KeyRevocation {
            hub: ORIGIN.parse().unwrap(),
            provider: "west".parse().unwrap(),
            key: site.east.key.key_id(),
        };
        assert!(not_here(site.post("/v1/log/entries", &revocation.sign(&site.east.key).unwrap()).await));
        let commit = "application/vnd.muster.commit.v1+json";
        let commit = Envelope::sign(commit, b"{}", &site.east.key).unwrap();
        assert!(not_here(site.post("/v1/log/entries", &commit).await), "its blobs are read back first");
        let hub = site.running.client(HUB_KEY[0]);
        assert!(not_here(send(&hub, "/v1/log/entries", None, &commit).await));
        assert_eq!(site.log.view().published.size(), 0);
    }
}
