//! The hub's log through the agent's session: its own certificate, and its token with each request.
use futures::future::BoxFuture;
use reqwest::Response;

use super::gateway::{Gateway, GatewayError};
use super::session::Session;
use crate::log::client::{Ask, ClientError, Door};

impl Door for Session {
    fn send(&self, ask: Ask) -> BoxFuture<'_, Result<Response, ClientError>> {
        Box::pin(async move {
            let build = |gateway: &Gateway| {
                let request = gateway.request(ask.method.clone(), &ask.path);
                match &ask.body {
                    Some(body) => request.body(body.clone()),
                    None => request,
                }
            };
            Session::send(self, build).await.map_err(refused)
        })
    }
}

fn refused(error: GatewayError) -> ClientError {
    match error {
        GatewayError::Unreachable(text) => ClientError::Unreachable(text),
        GatewayError::Refused { status, reason, message, retry_after } => {
            ClientError::Refused { status, reason, message, retry_after }
        }
        GatewayError::Malformed { what, problem } => ClientError::Malformed { what, problem },
    }
}
