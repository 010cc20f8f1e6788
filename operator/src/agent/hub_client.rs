//! A kube client for the hub's API server through the gateway: pinned CA, our certificate, the session's token at the time
//! of each request, and one more try with a new token after a 401.
use std::sync::Arc;

use axum::http::{Request, Response, StatusCode, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::client::Body;
use kube::config::AuthInfo;
use kube::{Client, Config};

use super::gateway::GatewayError;
use super::identity::Identity;
use super::membership::Membership;
use super::pin::{self, PinError};
use super::session::Session;
use crate::runtime::client::{ClientError, client_of};
use crate::wire::gateway::API_PREFIX;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum HubClientError {
    /// The gateway's URL is none.
    #[error("gateway URL {0} cannot be used for the API")]
    Url(String),
    /// Its CA is none.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// kube refused the configuration.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// See the module. `namespace` is the client's default.
///
/// # Errors
/// [`HubClientError`].
pub fn client(
    membership: &Membership,
    identity: &Identity,
    session: &Session,
    namespace: &str,
) -> Result<Client, HubClientError> {
    let url = format!("{}{API_PREFIX}", membership.url.trim_end_matches('/'));
    let uri: Uri = url.parse().map_err(|_| HubClientError::Url(url.clone()))?;
    let mut config = Config::new(uri);
    config.root_cert = Some(pin::certificates(&membership.ca)?.iter().map(|ca| ca.to_vec()).collect());
    config.auth_info = AuthInfo {
        client_certificate_data: Some(STANDARD.encode(identity.certificate_pem())),
        client_key_data: Some(STANDARD.encode(identity.key_pem()).into()),
        ..AuthInfo::default()
    };
    let plain = client_of(config)?;
    let session = session.clone();
    let service =
        tower::service_fn(move |request: Request<Body>| send(plain.clone(), session.clone(), request));
    Ok(Client::new(service, namespace))
}

async fn send(
    plain: Client,
    session: Session,
    request: Request<Body>,
) -> Result<Response<Body>, kube::Error> {
    let tokens = session.tokens().map_err(service)?;
    let again = copy(&request);
    let answer = plain.send(authorised(request, &tokens)).await?;
    let Some(again) = again.filter(|_| answer.status() == StatusCode::UNAUTHORIZED) else {
        return Ok(answer);
    };
    match session.renew(tokens.number()).await {
        Ok(tokens) => plain.send(authorised(again, &tokens)).await,
        // The 401 says more than why there is nothing better.
        Err(_) => Ok(answer),
    }
}

fn authorised(mut request: Request<Body>, tokens: &Arc<super::session::Tokens>) -> Request<Body> {
    request.headers_mut().insert(header::AUTHORIZATION, tokens.api());
    request
}

/// The same request once more, unless its body is a stream.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(request.body().try_clone()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

fn service(error: GatewayError) -> kube::Error {
    kube::Error::Service(Box::new(error))
}
