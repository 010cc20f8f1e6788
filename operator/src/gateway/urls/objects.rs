//! `/v1/objects/<token>`: what the gateway's own URLs lead to.
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::get;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{Claims, Holder, Urls, wrong_method};
use crate::gateway::Shared;
use crate::gateway::access::{Agent, Refusal};
use crate::gateway::blobs::{content_length, no_blob, store_refusal};
use crate::gateway::body::Guarded;
use crate::gateway::layers::peer;
use crate::gateway::limits::Caller;
use crate::gateway::tokens::refused;
use crate::store::Store;
use crate::wire::urls::UrlMethod;

/// What lies behind the URLs.
#[derive(Clone)]
pub struct Objects {
    /// Opens their tokens.
    pub urls: Arc<Urls>,
    /// What is read.
    pub store: Arc<Store>,
}

struct Behind {
    gateway: Shared,
    objects: Objects,
    /// The agents' own routes: what is put here is put there.
    agents: Router,
}

/// The route. `agents` are the routes behind the agents' door.
pub fn router(gateway: Shared, objects: Objects, agents: Router) -> Router {
    Router::new()
        .route("/v1/objects/{token}", get(object).put(object))
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(Behind { gateway, objects, agents }))
}

async fn object(
    State(behind): State<Arc<Behind>>,
    Path(token): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let Behind { gateway, objects, .. } = &*behind;
    let claims = objects.urls.claims(&token, Timestamp::now());
    let claims = match claims.and_then(|claims| allowed(claims, request.method())) {
        Ok(claims) => claims,
        Err(refusal) => {
            // Whoever guesses is a stranger.
            gateway.limits.stranger(peer(&request)?.address.ip(), gateway.limits.now())?;
            return Err(refusal);
        }
    };
    let (caller, agent, cut) = match &claims.holder {
        Holder::Unit { key, .. } => {
            let admitted = gateway.providers.admit(key, Timestamp::now()).map_err(refused)?;
            let provider = admitted.provider;
            let agent = Agent { provider: provider.clone(), min_epoch: admitted.min_epoch, key: *key };
            (Caller::Provider(provider), Some(agent), admitted.cut)
        }
        Holder::User { name } => (Caller::User(name.clone()), None, CancellationToken::new()),
    };
    let now = gateway.limits.now();
    let permit = gateway.limits.meter(caller, now)?.enter(now)?;
    let answer = match (claims.method, agent) {
        (UrlMethod::Get, _) => {
            let found = objects.store.answer(&claims.digest, request.method(), request.headers()).await;
            found.map_err(|e| store_refusal(&e))?.ok_or_else(|| no_blob(&claims.digest, "the store"))?
        }
        (UrlMethod::Put, Some(agent)) => {
            let request = request.map(|body| Guarded::new(body).until(cut.clone()).body());
            put(&behind.agents, &claims, agent, request).await?
        }
        (UrlMethod::Put, None) => return Err(wrong_method(UrlMethod::Get)),
    };
    Ok(answer.map(|body| Guarded::new(body).until(cut).holding(permit).body()))
}

fn allowed(claims: Claims, method: &Method) -> Result<Claims, Refusal> {
    let right = match claims.method {
        UrlMethod::Get => [Method::GET, Method::HEAD].contains(method),
        UrlMethod::Put => method == Method::PUT,
    };
    if right { Ok(claims) } else { Err(wrong_method(claims.method)) }
}

/// As if its agent had put it: fence, quota and hash are looked at there.
async fn put(
    agents: &Router,
    claims: &Claims,
    agent: Agent,
    mut request: Request,
) -> Result<Response, Refusal> {
    let Holder::Unit { unit, .. } = &claims.holder else { return Err(wrong_method(UrlMethod::Get)) };
    if Some(content_length(request.headers())?) != claims.size {
        let text = "Content-Length is not the size for which this URL was asked; send the blob as it is";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "BadLength", text));
    }
    let path = format!("/v1/units/{unit}/blobs/sha256/{}", claims.digest.to_hex());
    *request.uri_mut() = Uri::try_from(path).map_err(|_| {
        Refusal::new(StatusCode::NOT_FOUND, "UnitNotFound", "the URL's unit has an impossible name")
    })?;
    // What else the caller shows is of no interest here.
    request.headers_mut().remove(header::AUTHORIZATION);
    request.extensions_mut().clear();
    request.extensions_mut().insert(agent);
    match agents.clone().oneshot(request).await {
        Ok(answer) => Ok(answer),
        Err(never) => match never {},
    }
}
