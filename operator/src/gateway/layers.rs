//! Who comes in (section 1). Each layer finds out who asks, makes him wait his turn (section 8), and puts what was found into the
//! request's extensions; what a provider has open is cut when its key falls.
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use muster_proof::Digest;
use muster_proof::key::PublicKey;
use tokio::sync::OwnedSemaphorePermit;

use super::access::{Agent, Member, Refusal};
use super::body::Guarded;
use super::limits::{Caller, Meter};
use super::metrics::Class;
use super::providers::{Admitted, Stranger};
use super::reviews::{Audience, bearer};
use super::tls::{Peer, PeerKey};
use super::tokens::refused;
use super::{Gateway, Shared};
use crate::hub::names::AGENT_USER_PREFIX;

/// Counts every request; outermost.
pub async fn counted(State(gateway): State<Shared>, request: Request, next: Next) -> Response {
    let class = Class::of(request.uri().path());
    let (metrics, open) = (&gateway.metrics, gateway.metrics.open(class));
    let received = metrics.received(class);
    let request = request.map(|body| Guarded::new(body).counted(received).body());
    let response = next.run(request).await;
    metrics.answered(class, response.status());
    response.map(|body| Guarded::new(body).counted(metrics.sent(class)).holding(open).body())
}

/// For whom it is enough to ask: `/healthz`, `/v1/hub`.
pub async fn anyone(
    State(gateway): State<Shared>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let _turn = turn(&gateway, peer(&request)?)?;
    Ok(next.run(request).await)
}

/// For whoever shows a key: join, challenge, tokens.
pub async fn keys_only(
    State(gateway): State<Shared>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let peer = peer(&request)?.clone();
    let _turn = turn(&gateway, &peer)?;
    let key = key(&peer)?.clone();
    request.extensions_mut().insert(peer);
    request.extensions_mut().insert(key);
    Ok(next.run(request).await)
}

/// A provider's turn, the hub's or a stranger's.
fn turn(gateway: &Gateway, peer: &Peer) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
    if let Some((_, permit)) = hub(gateway, peer)? {
        return Ok(Some(permit));
    }
    let known = peer.key.as_ref().map(|key| gateway.providers.admit(&key.fingerprint, Timestamp::now()));
    let now = gateway.limits.now();
    match known {
        Some(Ok(admitted)) => meter(gateway, &admitted)?.enter(now).map(Some),
        _ => gateway.limits.stranger(peer.address.ip(), now).map(|()| None),
    }
}

/// For an accepted key, whatever its token: `/k8s`, where the API server checks it. Puts [`Admitted`] into the extensions.
pub async fn by_key(
    State(gateway): State<Shared>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let entered = enter(&gateway, peer(&request)?)?;
    request.extensions_mut().insert(entered.admitted.clone());
    entered.run(&gateway, request, next).await
}

/// For an agent: its certificate and its token name one provider. Puts [`Agent`] and [`Admitted`] into the extensions.
pub async fn agents_only(
    State(gateway): State<Shared>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let (agent, entered) = agent(&gateway, peer(&request)?, request.headers()).await?;
    request.extensions_mut().insert(agent);
    request.extensions_mut().insert(entered.admitted.clone());
    entered.run(&gateway, request, next).await
}

/// The agent whose certificate and token these are.
async fn agent(gateway: &Gateway, peer: &Peer, headers: &HeaderMap) -> Result<(Agent, Entered), Refusal> {
    let entered = enter(gateway, peer)?;
    let Admitted { provider, min_epoch, .. } = entered.admitted.clone();
    let token = bearer(headers, Audience::Gateway)?;
    let holder = gateway.reviews.review(token, Audience::Gateway, &entered.meter.reviews).await?;
    if holder.name.strip_prefix(AGENT_USER_PREFIX) != Some(provider.as_str()) {
        tracing::warn!(provider, holder = holder.name, "a token came with the key of another");
        let message = format!("the certificate is provider {provider}'s, the token is {}'s", holder.name);
        return Err(Refusal::forbidden("NotYourToken", message));
    }
    Ok((Agent { provider, min_epoch, key: entered.key }, entered))
}

/// For the hub itself, by a key of its newest set, and for agents: whoever writes the log. Puts [`Member`] into the extensions.
pub async fn members_only(
    State(gateway): State<Shared>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    if let Some((keys, permit)) = hub(&gateway, peer(&request)?)? {
        request.extensions_mut().insert(Member::Hub { keys });
        let response = next.run(request).await;
        return Ok(response.map(|body| Guarded::new(body).holding(permit).body()));
    }
    let key = key(peer(&request)?)?.public.clone();
    let (agent, entered) = agent(&gateway, peer(&request)?, request.headers()).await?;
    request.extensions_mut().insert(Member::Agent { agent, key });
    entered.run(&gateway, request, next).await
}

/// The keys of the hub, and its turn, if the peer has shown one of them.
fn hub(gateway: &Gateway, peer: &Peer) -> Result<Option<(Vec<PublicKey>, OwnedSemaphorePermit)>, Refusal> {
    // Before the hub has published its keys, nobody is the hub.
    let (Some(key), Ok((_, set))) = (&peer.key, gateway.hub.now()) else { return Ok(None) };
    if !set.keys().contains(&key.public) {
        return Ok(None);
    }
    let now = gateway.limits.now();
    let permit = gateway.limits.meter(Caller::Hub, now)?.enter(now)?;
    Ok(Some((set.keys().to_vec(), permit)))
}

/// For a user of the hub cluster. Puts [`super::access::User`] into the extensions; what he may, the routes ask.
pub async fn users_only(
    State(gateway): State<Shared>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let address = peer(&request)?.address.ip();
    let token = bearer(request.headers(), Audience::Api)?;
    let user = match gateway.reviews.known(token, Audience::Api) {
        Some(Ok(user)) => user,
        // Who is not known yet, or known to be nobody, is a stranger.
        other => {
            gateway.limits.stranger(address, gateway.limits.now())?;
            match other {
                Some(answer) => answer?,
                None => gateway.reviews.review(token, Audience::Api, &gateway.user_reviews).await?,
            }
        }
    };
    let now = gateway.limits.now();
    let permit = gateway.limits.meter(Caller::User(user.name.clone()), now)?.enter(now)?;
    request.extensions_mut().insert(user);
    Ok(next.run(request).await.map(|body| Guarded::new(body).holding(permit).body()))
}

/// An accepted provider whose turn it is.
struct Entered {
    key: Digest,
    admitted: Admitted,
    meter: Arc<Meter>,
    permit: OwnedSemaphorePermit,
}

fn enter(gateway: &Gateway, peer: &Peer) -> Result<Entered, Refusal> {
    let key = key(peer)?;
    let now = gateway.limits.now();
    let admitted = match gateway.providers.admit(&key.fingerprint, Timestamp::now()) {
        Ok(admitted) => admitted,
        Err(why) => {
            gateway.limits.stranger(peer.address.ip(), now)?;
            return Err(refused(why));
        }
    };
    let meter = meter(gateway, &admitted)?;
    let permit = meter.enter(now)?;
    Ok(Entered { key: key.fingerprint, admitted, meter, permit })
}

fn meter(gateway: &Gateway, admitted: &Admitted) -> Result<Arc<Meter>, Refusal> {
    gateway.limits.meter(Caller::Provider(admitted.provider.clone()), gateway.limits.now())
}

impl Entered {
    /// The rest of the way; whatever is open when the key falls ends there and then, uploads and streams too.
    async fn run(self, gateway: &Gateway, request: Request, next: Next) -> Result<Response, Refusal> {
        let Self { admitted, permit, key, .. } = self;
        let cut = &admitted.cut;
        let request = request.map(|body| Guarded::new(body).until(cut.clone()).body());
        let response = tokio::select! {
            biased;
            () = cut.cancelled() => {
                // Why matters to the agent: Revoked is for good, everything else may be mended.
                let why = gateway.providers.admit(&key, Timestamp::now()).err();
                return Err(refused(why.unwrap_or(Stranger::NotSynced)));
            }
            response = next.run(request) => response,
        };
        Ok(response.map(|body| Guarded::new(body).until(cut.clone()).holding(permit).body()))
    }
}

/// Who is at the other end of the connection.
pub fn peer(request: &Request) -> Result<&Peer, Refusal> {
    // The acceptor puts it there: its absence is a fault of this program.
    request.extensions().get::<Peer>().ok_or_else(|| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal", "the connection has no known peer")
    })
}

fn key(peer: &Peer) -> Result<&Arc<PeerKey>, Refusal> {
    peer.key.as_ref().ok_or_else(|| {
        Refusal::unauthorized(
            "CertificateNeeded",
            "a client certificate of the provider's P-256 key is needed",
        )
    })
}

/// For paths that are nothing here.
pub async fn not_found() -> Response {
    Refusal::new(StatusCode::NOT_FOUND, "NoSuchPath", "the gateway has nothing under this path")
        .into_response()
}

/// For verbs that a path does not have.
pub async fn not_this_method() -> Response {
    let message = "this path takes other methods";
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).into_response()
}
