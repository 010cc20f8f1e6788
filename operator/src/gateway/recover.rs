//! Units that agents still hold after the hub's database was restored (docs/spec/gateway.md section 5). The gateway checks
//! whose they are, keeps the offers for the hub, and hands on what the hub says. It has no say in it: it signs nothing.
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json, Router};
use muster_core::envelope::{self, Payload};
use muster_core::hub_keys::KeySet;
use muster_proof::dsse::Envelope;

use super::Shared;
use super::access::{Agent, Refusal};
use super::blobs::{put_refusal, store_refusal};
use super::body::json;
use crate::store::Store;
use crate::store::offers::Answer;
use crate::wire::gateway::{MAX_OFFERS, RecoverAnswer, RecoverRequest, Recovered};

struct Desk {
    gateway: Shared,
    store: Arc<Store>,
}

/// The route. Whoever layers it puts an [`Agent`] into the extensions first.
pub fn router(gateway: Shared, store: Arc<Store>) -> Router {
    Router::new().route("/v1/recover", post(recover)).with_state(Arc::new(Desk { gateway, store }))
}

async fn recover(
    State(desk): State<Arc<Desk>>,
    Extension(agent): Extension<Agent>,
    body: Body,
) -> Result<Json<RecoverAnswer>, Refusal> {
    let RecoverRequest { incarnation, units, complete } = json(body).await?;
    if units.len() > MAX_OFFERS {
        let text = format!("units: {} are offered at once, at most {MAX_OFFERS} may be", units.len());
        return Err(Refusal::bad_request(text));
    }
    let (now, keys) = desk.gateway.hub.now()?;
    // Of two incarnations the lower is behind: what it says of the other's units is not to be acted on.
    if incarnation != now {
        let text =
            format!("incarnation: the hub is at {now} as far as this gateway knows, not at {incarnation}");
        return Err(Refusal::unavailable(text));
    }
    // All or none: a request with a unit that is not to be offered is the work of a faulty agent.
    let offered: Vec<Option<Payload>> = units
        .iter()
        .enumerate()
        .map(|(index, envelope)| offered(&agent, &keys, now, index, envelope))
        .collect::<Result<_, _>>()?;
    let mut answers = Vec::new();
    for (envelope, payload) in units.iter().zip(&offered) {
        answers.push(match payload {
            Some(payload) => desk.take(now, envelope, payload).await?,
            None => Recovered::Stop,
        });
    }
    // After the offers: the hub places other units as soon as nobody has any more.
    if complete {
        desk.store.complete_offers(now, &agent.provider).await.map_err(|error| store_refusal(&error))?;
    }
    Ok(Json(RecoverAnswer { answers }))
}

/// The payload of a unit that may be offered; `None` if nobody will ever continue it.
fn offered(
    agent: &Agent,
    keys: &KeySet,
    incarnation: i64,
    index: usize,
    envelope: &Envelope,
) -> Result<Option<Payload>, Refusal> {
    let payload = match envelope::open(envelope, keys.keys()) {
        Ok(payload) => payload,
        Err(refusal) => {
            tracing::warn!(provider = agent.provider, index, %refusal, "an offered unit is not the hub's");
            return Ok(None);
        }
    };
    if payload.provider != agent.provider {
        let (provider, unit) = (&agent.provider, &payload.name);
        tracing::warn!(provider, unit, owner = payload.provider, "offers another provider's unit");
        return Ok(None);
    }
    // What an audit still wants, the hub asks for anew.
    if payload.is_audit() {
        return Ok(None);
    }
    if payload.incarnation >= incarnation {
        let text = format!(
            "units[{index}]: unit {} is of incarnation {}, the hub's own: there is nothing to recover",
            payload.name, payload.incarnation
        );
        return Err(Refusal::bad_request(text));
    }
    Ok(Some(payload))
}

impl Desk {
    /// Keeps the offer until the hub has seen it, and says what is known.
    async fn take(
        &self,
        incarnation: i64,
        envelope: &Envelope,
        payload: &Payload,
    ) -> Result<Recovered, Refusal> {
        let (provider, unit) = (&payload.provider, &payload.name);
        let answer = self.store.offer_answer(incarnation, provider, unit).await;
        match answer.map_err(|error| store_refusal(&error))? {
            Some(Answer::Stop) => return Ok(Recovered::Stop),
            Some(Answer::As(name)) => return Ok(Recovered::As(name)),
            None => {}
        }
        let fault = |error: &dyn std::fmt::Display| {
            tracing::error!(provider, unit, %error, "an envelope cannot be written");
            Refusal::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, "Internal", "a fault of the gateway")
        };
        let bytes = envelope.to_json().map_err(|error| fault(&error))?;
        let kept = self.store.record_offer(incarnation, provider, unit, bytes).await;
        kept.map_err(|error| put_refusal(&error))?;
        tracing::debug!(provider, unit, incarnation, "offered");
        Ok(Recovered::Wait)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use muster_core::envelope::{PAYLOAD_TYPE, seal};
    use muster_proof::key::SigningKey;
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;
    use crate::agent::testing::payload;
    use crate::gateway::Rooms;
    use crate::gateway::testing::{Client, HUB_KEY, Running};
    use crate::store::offers::Offer;

    /// The hub is at incarnation 4 here.
    const NOW: i64 = 4;

    struct Site {
        running: Running,
        store: Arc<Store>,
        east: Client,
        token: String,
        _dir: TempDir,
    }

    impl Site {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(dir.path()).await.unwrap());
            let desk = store.clone();
            let rooms =
                |gateway: &Shared| Rooms { agents: router(gateway.clone(), desk), ..Rooms::default() };
            let running = Running::start_with(rooms).await;
            let east = running.client(2);
            running.accept("east", &east).await;
            let token = east.tokens().await.gateway_token;
            Self { running, store, east, token, _dir: dir }
        }

        async fn offer(&self, units: &[Envelope], complete: bool) -> (u16, Value) {
            self.send(json!({"incarnation": NOW, "units": units, "complete": complete})).await
        }

        async fn send(&self, body: Value) -> (u16, Value) {
            let url = format!("{}/v1/recover", self.east.url);
            let request = self.east.http.post(url).bearer_auth(&self.token).json(&body);
            let response = request.timeout(Duration::from_secs(10)).send().await.unwrap();
            (response.status().as_u16(), response.json().await.unwrap())
        }

        async fn open(&self) -> Vec<Offer> {
            self.store.open_offers(NOW).await.unwrap()
        }
    }

    fn key() -> SigningKey {
        SigningKey::generate(HUB_KEY).unwrap()
    }

    fn unit(provider: &str, incarnation: i64, key: &SigningKey) -> Envelope {
        let payload = Payload { provider: provider.to_owned(), incarnation, ..payload() };
        seal(&payload, key).unwrap()
    }

    #[tokio::test]
    async fn an_offer_waits_for_the_hubs_word() {
        let site = Site::new().await;
        let unit = unit("east", 1, &key());
        let waits = (200, json!({"answers": ["Wait"]}));
        assert_eq!(site.offer(std::slice::from_ref(&unit), false).await, waits);
        assert!(!site.store.has_offered_all(NOW, "east").await.unwrap());
        assert_eq!(site.offer(std::slice::from_ref(&unit), true).await, waits, "as often as it likes");
        assert!(site.store.has_offered_all(NOW, "east").await.unwrap());
        let open = site.open().await;
        assert_eq!(
            (open.len(), open[0].provider.as_str(), open[0].unit.as_str()),
            (1, "east", "4f2a9c1b-0-1")
        );
        let kept = site.store.read(&open[0].envelope, crate::store::offers::MAX_ENVELOPE).await.unwrap();
        assert_eq!(serde_json::from_slice::<Envelope>(&kept.unwrap()).unwrap(), unit);

        let answer = Answer::As("4f2a9c1b-0-1001".to_owned());
        site.store.answer_offer(NOW, &open[0], &answer).await.unwrap();
        let want = (200, json!({"answers": [{"as": "4f2a9c1b-0-1001"}]}));
        assert_eq!(site.offer(std::slice::from_ref(&unit), true).await, want);
        assert!(site.open().await.is_empty());
        site.store.answer_offer(NOW, &open[0], &Answer::Stop).await.unwrap();
        assert_eq!(site.offer(&[unit], true).await, (200, json!({"answers": ["Stop"]})));
    }

    #[tokio::test]
    async fn what_is_not_the_callers_or_not_the_hubs_is_never_kept() {
        let site = Site::new().await;
        let thief = SigningKey::generate([8; 32]).unwrap();
        let garbage = Envelope::sign(PAYLOAD_TYPE, b"{\"format\":\"muster.workunit/1\"}", &key()).unwrap();
        let audit = seal(&crate::agent::testing::audit(), &key()).unwrap();
        let units = [unit("west", 1, &key()), unit("east", 1, &thief), garbage, audit];
        let stops = (200, json!({"answers": ["Stop", "Stop", "Stop", "Stop"]}));
        assert_eq!(site.offer(&units, false).await, stops);
        assert!(site.open().await.is_empty());
        // Nothing of a request with a unit of today counts.
        let (status, said) = site.offer(&[unit("east", 1, &key()), unit("east", NOW, &key())], true).await;
        assert!(status == 400 && said["message"].as_str().unwrap().contains("units[1]"), "{said}");
        assert!(site.open().await.is_empty());
        assert!(!site.store.has_offered_all(NOW, "east").await.unwrap());
        // Without the token it is nobody's.
        let (status, _) = site.east.post("/v1/recover", json!({})).await;
        assert_eq!(status, 401);
        assert_eq!(site.running.api.names("/api/v1/namespaces/muster-agents/secrets").len(), 1);
    }

    #[tokio::test]
    async fn too_many_malformed_or_of_another_time_is_refused() {
        let site = Site::new().await;
        let units = vec![unit("east", 1, &key()); MAX_OFFERS + 1];
        let (status, said) = site.offer(&units, true).await;
        assert!(status == 400 && said["message"].as_str().unwrap().contains("at most 16"), "{said}");
        for (body, names) in [
            (json!({"incarnation": NOW, "units": [{"payload": "e30="}], "complete": true}), "payloadType"),
            (json!({"incarnation": NOW, "units": [], "complete": true, "force": true}), "force"),
            (json!({"incarnation": "4", "units": [], "complete": true}), "string"),
            (json!([]), "the body"),
        ] {
            let (status, said) = site.send(body).await;
            assert!(status == 400 && said["message"].as_str().unwrap().contains(names), "{said}");
        }
        for incarnation in [NOW - 1, NOW + 1, -1] {
            let body =
                json!({"incarnation": incarnation, "units": [unit("east", 1, &key())], "complete": true});
            let (status, said) = site.send(body).await;
            assert_eq!((status, &said["reason"]), (503, &json!("Unavailable")));
        }
        assert!(site.open().await.is_empty());
        assert_eq!(site.offer(&[], true).await, (200, json!({"answers": []})));
    }
}
