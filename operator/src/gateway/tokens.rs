//! `POST /v1/challenge` and `POST /v1/tokens` (section 3): an accepted key that signs a challenge gets two tokens of its provider's
//! ServiceAccount, one for the API server and one for the gateway.
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;

use super::access::Refusal;
use super::providers::{Admitted, Stranger};
use super::reviews::unavailable;
use super::tls::PeerKey;
use super::{Gateway, Shared, body, bound};
use crate::hub::apply::is_code;
use crate::runtime::client::{ClientError, within};
use crate::wire::gateway::{Challenge, GATEWAY_AUDIENCE, TokensAnswer, TokensRequest, token_request_message};
use crate::wire::join_record::NAMESPACE;

/// `POST /v1/challenge`.
pub async fn challenge(
    State(gateway): State<Shared>,
    Extension(key): Extension<Arc<PeerKey>>,
) -> Result<Json<Challenge>, Refusal> {
    let mut random = [0; 12];
    getrandom::fill(&mut random).map_err(|error| Refusal::unavailable(format!("no randomness: {error}")))?;
    let nonce = gateway.challenges.issue(&key.fingerprint, gateway.limits.now(), random);
    Ok(Json(Challenge { nonce }))
}

/// `POST /v1/tokens`.
pub async fn tokens(
    State(gateway): State<Shared>,
    Extension(key): Extension<Arc<PeerKey>>,
    request: Request,
) -> Result<Json<TokensAnswer>, Refusal> {
    let answer = async {
        let asked: TokensRequest = body::json(request.into_body()).await?;
        let admitted = prove(&gateway, &key, &asked)?;
        mint(&gateway, &key, &admitted).await
    };
    let answer = answer.await;
    gateway.metrics.minted(answer.as_ref().map_or_else(|refusal| refusal.reason, |_| "Minted"));
    answer.map(Json)
}

/// That the identity key itself asks, now, and is accepted.
fn prove(gateway: &Gateway, key: &PeerKey, asked: &TokensRequest) -> Result<Admitted, Refusal> {
    let now = gateway.limits.now();
    let void = || {
        Refusal::unauthorized(
            "BadChallenge",
            "nonce is not a challenge for this key, is older than 60 s or was used before; get another from \
             /v1/challenge",
        )
    };
    let nonce = gateway.challenges.check(&asked.nonce, &key.fingerprint, now).ok_or_else(void)?;
    // DER of two 33-byte integers has 72 bytes, 96 in base64.
    let signature = (asked.signature.len() <= 128).then(|| STANDARD.decode(&asked.signature).ok()).flatten();
    let message = token_request_message(&nonce, &key.spki);
    if !signature.is_some_and(|signature| key.public.verify(message.as_bytes(), &signature)) {
        return Err(Refusal::unauthorized(
            "BadSignature",
            "signature is not the identity key's over the challenge (muster.token-request/1)",
        ));
    }
    let admitted = gateway.providers.admit(&key.fingerprint, Timestamp::now()).map_err(refused)?;
    if gateway.challenges.spend(nonce, now) { Ok(admitted) } else { Err(void()) }
}

/// Why a key is not let in, for its owner.
pub fn refused(why: Stranger) -> Refusal {
    match why {
        Stranger::NotSynced => Refusal::unavailable("the gateway has just started; try again"),
        Stranger::Waiting(provider) => Refusal::forbidden(
            "WaitingForAdmin",
            format!("the hub's admin has not accepted this key yet: `muster provider accept {provider}`"),
        ),
        Stranger::Revoked(provider) => Refusal::forbidden(
            "Revoked",
            format!("provider {provider} is revoked, which is final; ask the hub's admin for another"),
        ),
        Stranger::Expired(provider, since) => Refusal::forbidden(
            "KeyExpired",
            format!("provider {provider} accepts this key no longer since {since}; join with a new key"),
        ),
        Stranger::Ambiguous(one, other) => Refusal::forbidden(
            "KeyNotPinned",
            format!("providers {one} and {other} both list this key; the hub's admin must remove one"),
        ),
        Stranger::Unknown => Refusal::forbidden(
            "KeyNotPinned",
            "no provider lists this key in spec.acceptedKeys; join with a token of the hub's admin",
        ),
    }
}

async fn mint(gateway: &Gateway, key: &PeerKey, admitted: &Admitted) -> Result<TokensAnswer, Refusal> {
    let provider = &admitted.provider;
    let secret = bound::ensure(&gateway.client, provider, &admitted.uid, &key.fingerprint).await?;
    let bound_to = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Secret".into()),
        name: Some(secret.name.clone()),
        uid: Some(secret.uid.clone()),
    };
    let api = one(gateway, provider, &bound_to, &[]).await?;
    let own = one(gateway, provider, &bound_to, &[GATEWAY_AUDIENCE]).await?;
    // While we asked, the key may have fallen, and the sweeper have passed before our Secret was there.
    if admitted.cut.is_cancelled() {
        bound::remove(&gateway.client, &secret).await;
        let why = gateway.providers.admit(&key.fingerprint, Timestamp::now()).err();
        return Err(refused(why.unwrap_or(Stranger::NotSynced)));
    }
    tracing::info!(provider, key = %key.fingerprint, seconds = api.seconds.min(own.seconds), "tokens minted");
    Ok(TokensAnswer {
        provider: provider.clone(),
        expires_in_seconds: api.seconds.min(own.seconds),
        api_token: api.token,
        gateway_token: own.token,
    })
}

/// Not `Debug`: a token is in it.
struct Minted {
    token: String,
    seconds: u64,
}

async fn one(
    gateway: &Gateway,
    provider: &str,
    bound_to: &BoundObjectReference,
    audiences: &[&str],
) -> Result<Minted, Refusal> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            // None = the API server's own.
            audiences: audiences.iter().map(ToString::to_string).collect(),
            bound_object_ref: Some(bound_to.clone()),
            expiration_seconds: Some(i64::from(gateway.token_seconds)),
        },
        ..Default::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(gateway.client.clone(), NAMESPACE);
    let post = PostParams::default();
    let what = format!("create a token of serviceaccount {NAMESPACE}/{provider}");
    let answer = within(&what, accounts.create_token_request(provider, &post, &request)).await;
    let answer = answer.map_err(|error| match &error {
        ClientError::Request { source, .. } if is_code(source, &[404, 409]) => {
            tracing::warn!(%error, "no token yet");
            Refusal::unavailable(format!(
                "ServiceAccount {NAMESPACE}/{provider} or the token's Secret is not there (yet); `muster hub` makes \
                 the first: does it run?"
            ))
        }
        _ => unavailable(&error),
    })?;
    let status = answer.status.filter(|status| !status.token.is_empty()).ok_or_else(|| {
        tracing::error!(provider, "the API server's answer to a TokenRequest has no token");
        Refusal::unavailable("the API server made no token; try again")
    })?;
    // The server may shorten what was asked for, and says so.
    let wanted = i64::from(gateway.token_seconds);
    let seconds = answer.spec.expiration_seconds.unwrap_or(wanted).clamp(1, wanted);
    Ok(Minted { token: status.token, seconds: u64::try_from(seconds).unwrap_or(1) })
}
