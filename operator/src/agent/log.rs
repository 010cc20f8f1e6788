//! The way to the log, which the gateway keeps, with this agent's certificate and token (docs/spec/gateway.md section 11).
use futures::future::BoxFuture;
use reqwest::Response;

use super::gateway::GatewayError;
use super::session::Session;
use crate::log::client::{Ask, ClientError, Door, HttpLog};

/// A client of the log, as this agent.
#[must_use]
pub fn log(session: Session) -> HttpLog<Session> {
    HttpLog::new(session)
}

impl Door for Session {
    fn send(&self, ask: Ask) -> BoxFuture<'_, Result<Response, ClientError>> {
        Box::pin(async move {
            let build = |gateway: &super::gateway::Gateway| {
                let request = gateway.request(ask.method.clone(), &ask.path);
                match &ask.body {
                    Some(body) => request.body(body.clone()),
                    None => request,
                }
            };
            Session::send(self, build).await.map_err(|error| match error {
                GatewayError::Unreachable(why) => ClientError::Unreachable(why),
                GatewayError::Refused { status, reason, message, retry_after } => {
                    ClientError::Refused { status, reason, message, retry_after }
                }
                GatewayError::Malformed { what, problem } => ClientError::Malformed { what, problem },
            })
        })
    }
}
