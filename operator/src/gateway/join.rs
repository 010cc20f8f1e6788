//! `POST /v1/join` (section 2): a key comes with a token's secret, once. That the claim's name is taken decides between two who
//! come with the same token; the API server is the only judge of that.
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Api, Resource, ResourceExt};
use muster_api::names::labels;
use muster_api::v1alpha1::{ComputeProvider, Scheduling};
use p256::elliptic_curve::subtle::ConstantTimeEq;

use super::access::Refusal;
use super::hub_info::version;
use super::reviews::unavailable;
use super::tls::{Peer, PeerKey};
use super::{Gateway, MANAGER, Shared, body};
use crate::hub::apply::is_code;
use crate::hub::events::{Fold, News};
use crate::runtime::client::{ClientError, within};
use crate::wire::gateway::{JoinAnswer, JoinRequest};
use crate::wire::join_record::{
    Claim, NAMESPACE, TokenRecord, claim_name, is_of, is_provider_name, read, token_name,
};
use crate::wire::join_token::secret_hash;

/// The handler.
pub async fn join(
    State(gateway): State<Shared>,
    Extension(peer): Extension<Peer>,
    Extension(key): Extension<Arc<PeerKey>>,
    request: Request,
) -> Result<Json<JoinAnswer>, Refusal> {
    let answer = async {
        let asked: JoinRequest = body::json(request.into_body()).await?;
        Join { gateway: &gateway, peer: &peer, key: &key, now: Timestamp::now() }.run(&asked).await
    };
    let answer = answer.await;
    gateway.metrics.joined(match &answer {
        Ok(JoinAnswer { accepted: true, .. }) => "Accepted",
        Ok(_) => "Waiting",
        Err(refusal) => refusal.reason,
    });
    answer.map(Json)
}

struct Join<'a> {
    gateway: &'a Gateway,
    peer: &'a Peer,
    key: &'a PeerKey,
    now: Timestamp,
}

impl Join<'_> {
    async fn run(&self, asked: &JoinRequest) -> Result<JoinAnswer, Refusal> {
        let gateway = self.gateway;
        // 1. The form. A name becomes part of a path, so it must be one.
        let version = version(&asked.agent_version)?;
        if !is_provider_name(&asked.provider) {
            return Err(Refusal::bad_request("provider is not a ComputeProvider's name"));
        }
        let offered = secret_hash(&asked.secret)
            .ok_or_else(|| Refusal::bad_request("secret is not one; copy the join token again, whole"))?;
        // 2. A claim is worth nothing without the hub's keys: they come first.
        let (hub, _) = gateway.hub.get()?;
        // 3. The token. Whoever lacks its secret learns nothing about the provider.
        let (map, record) = self.record(&asked.provider).await?.ok_or_else(unknown)?;
        if !bool::from(record.token_hash.as_bytes().ct_eq(offered.as_bytes())) {
            return Err(unknown());
        }
        // 4. Its provider, live: it may be younger than what the watch has seen.
        let provider = self.provider(&asked.provider).await?.ok_or_else(unknown)?;
        if !is_of(&map, provider.metadata.uid.as_deref().unwrap_or_default()) {
            return Err(unknown());
        }
        if provider.spec.scheduling == Scheduling::Revoked {
            let name = &asked.provider;
            let message =
                format!("provider {name} is revoked, which is final; ask the hub's admin for another");
            return Err(Refusal::forbidden("Revoked", message));
        }
        // 5. The claim.
        self.claim(&provider, &record).await?;
        let fingerprint = self.key.fingerprint;
        gateway.providers.note_join(fingerprint, &asked.provider);
        let admitted = gateway.providers.admit(&fingerprint, self.now);
        let accepted = admitted.is_ok_and(|admitted| admitted.provider == asked.provider);
        tracing::info!(provider = asked.provider, %fingerprint, version, accepted, "joined");
        Ok(JoinAnswer { provider: asked.provider.clone(), fingerprint, accepted, hub })
    }

    async fn record(&self, provider: &str) -> Result<Option<(ConfigMap, TokenRecord)>, Refusal> {
        let name = token_name(provider);
        let Some(map) = self.get_map(&name).await? else { return Ok(None) };
        match read(&map) {
            Ok(record) => Ok(Some((map, record))),
            Err(error) => {
                tracing::warn!(%error, "ConfigMap {NAMESPACE}/{name} is no token record; make a new token");
                Ok(None)
            }
        }
    }

    async fn provider(&self, name: &str) -> Result<Option<ComputeProvider>, Refusal> {
        let providers: Api<ComputeProvider> = Api::all(self.gateway.client.clone());
        within("get computeprovider", providers.get_opt(name)).await.map_err(|error| unavailable(&error))
    }

    async fn get_map(&self, name: &str) -> Result<Option<ConfigMap>, Refusal> {
        let maps: Api<ConfigMap> = Api::namespaced(self.gateway.client.clone(), NAMESPACE);
        within("get configmap", maps.get_opt(name)).await.map_err(|error| unavailable(&error))
    }

    /// Takes the token, or finds that this very key has taken it.
    async fn claim(&self, provider: &ComputeProvider, record: &TokenRecord) -> Result<(), Refusal> {
        let name = claim_name(&provider.name_any(), &record.token_hash);
        if record.expires <= self.now {
            // Its first answer may have been lost on the way: that it came in time is what counts.
            return match self.get_map(&name).await? {
                Some(taken) if self.is_ours(&taken, record) => Ok(()),
                _ => Err(Refusal::unauthorized(
                    "TokenExpired",
                    "the join token has expired; make a new one with `muster provider create-token`",
                )),
            };
        }
        let claim = self.render(&name, provider, record)?;
        let maps: Api<ConfigMap> = Api::namespaced(self.gateway.client.clone(), NAMESPACE);
        match within("create claim", maps.create(&PostParams::default(), &claim)).await {
            Ok(_) => return Ok(()),
            Err(ClientError::Request { source, .. }) if is_code(&source, &[409]) => {}
            // 404: the namespace goes, or comes. Timeouts too: the claim may be there, and the next try will find it.
            Err(error) => return Err(unavailable(&error)),
        }
        let gone = || Refusal::unavailable("the token's claim is being removed; try again");
        let taken = self.get_map(&name).await?.ok_or_else(gone)?;
        if self.is_ours(&taken, record) {
            return Ok(());
        }
        self.tell_of_reuse(provider, &taken).await;
        Err(Refusal::new(
            StatusCode::CONFLICT,
            "TokenReused",
            "the join token was used before, by another key; if that was not you, tell the hub's admin at once",
        ))
    }

    fn is_ours(&self, taken: &ConfigMap, record: &TokenRecord) -> bool {
        let claim = read::<Claim>(taken).ok();
        claim.is_some_and(|claim| {
            claim.fingerprint == self.key.fingerprint && claim.token_hash == record.token_hash
        })
    }

    fn render(
        &self,
        name: &str,
        provider: &ComputeProvider,
        record: &TokenRecord,
    ) -> Result<ConfigMap, Refusal> {
        let wrong = |error: String| {
            tracing::error!(error, "cannot write a claim");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal", "the claim cannot be written")
        };
        let claim = Claim {
            token_hash: record.token_hash,
            fingerprint: self.key.fingerprint,
            public_key: self.key.public.to_pem().map_err(|error| wrong(error.to_string()))?,
            claimed_at: Timestamp::from_second(self.now.as_second()).unwrap_or(self.now),
        };
        let data = serde_json::to_value(&claim).and_then(serde_json::from_value);
        Ok(ConfigMap {
            metadata: owned_by(name, &provider.name_any(), &provider.uid().unwrap_or_default()),
            data: Some(data.map_err(|error| wrong(error.to_string()))?),
            immutable: Some(true),
            ..Default::default()
        })
    }

    async fn tell_of_reuse(&self, provider: &ComputeProvider, taken: &ConfigMap) {
        let first = read::<Claim>(taken).map(|claim| claim.fingerprint.to_string());
        let first = first.unwrap_or_else(|_| "something unreadable".into());
        let (second, address) = (self.key.fingerprint, self.peer.address.ip());
        let (name, uid) = (provider.name_any(), provider.uid());
        tracing::warn!(provider = name, first, %second, %address, "join token used twice");
        let mut news = News::warning(
            "TokenReused",
            format!(
                "the join token was used twice: first by key {first}, now by {second} from {address} (refused); accept \
                 neither before you know who has which, and make a new token"
            ),
        );
        // A thief with many keys is one piece of news.
        news.fold = Fold::Newest;
        let about = ObjectReference {
            api_version: Some(ComputeProvider::api_version(&()).into()),
            kind: Some(ComputeProvider::kind(&()).into()),
            name: Some(name),
            uid,
            ..Default::default()
        };
        self.gateway.recorder.tell(&about, &news, self.now);
    }
}

fn unknown() -> Refusal {
    Refusal::unauthorized(
        "TokenUnknown",
        "the hub knows no such join token; a newer one may have replaced it: make one with `muster provider \
         create-token`",
    )
}

/// Metadata of what the gateway makes for a provider in namespace muster-agents; it goes with the provider.
#[must_use]
pub fn owned_by(name: &str, provider: &str, uid: &str) -> ObjectMeta {
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some(NAMESPACE.into()),
        labels: Some([label(labels::PROVIDER, provider), label(labels::MANAGED_BY, MANAGER)].into()),
        owner_references: Some(vec![OwnerReference {
            api_version: ComputeProvider::api_version(&()).into(),
            kind: ComputeProvider::kind(&()).into(),
            name: provider.into(),
            uid: uid.into(),
            controller: None,
            block_owner_deletion: None,
        }]),
        ..Default::default()
    }
}
