//! What lies between a client and its API server.

use std::task::{Context, Poll};

use futures::future::{self, BoxFuture};
use http::{Method, Request};
use kube::client::Body;
use tower::{BoxError, Service};

use super::gate::gated;
use super::{Fault, Script, Turn};
use crate::api::{Answer, Half, Place, Refused, Server, parse_path, refused};

/// The way of one process, in one of its lives, to an API server.
#[derive(Clone)]
pub struct Faulty {
    server: Server,
    script: Script,
    life: u64,
    who: &'static str,
}

impl Faulty {
    /// Of the life that the script is in.
    #[must_use]
    pub fn new(server: &Server, script: &Script, who: &'static str) -> Self {
        Self { server: server.clone(), script: script.clone(), life: script.life(), who }
    }

    async fn answer(mut self, request: Request<Body>) -> Result<Answer, BoxError> {
        let uri = request.uri().clone();
        let is_watch = uri.query().is_some_and(|query| query.contains("watch=true"));
        let what = || {
            let verb = if is_watch { "WATCH" } else { request.method().as_str() };
            format!("{} {verb} {}", self.who, uri.path())
        };
        let fault = match self.script.turn(self.life, what) {
            Turn::Dead => return future::pending().await,
            Turn::Go => None,
            Turn::Meets(fault) => Some(fault),
        };
        match fault {
            Some(Fault::Refused(code)) => return Ok(refused(&Refused::at_once(code))),
            Some(Fault::Unreached) => return Err("connection refused".into()),
            Some(fault @ (Fault::Edited | Fault::Deleted)) => {
                if let Some(place) = parse_path(uri.path()) {
                    interfere(&self.server, &place, request.method(), fault);
                }
            }
            _ => {}
        }
        let answer = self.server.call(request).await?;
        match fault {
            Some(Fault::Lost) => Err("connection reset by peer".into()),
            Some(Fault::CrashAfter) => {
                self.script.crash();
                future::pending().await
            }
            _ if is_watch && answer.status().is_success() => {
                let script = self.script.clone();
                Ok(answer.map(|body| gated(body, &script)))
            }
            _ => Ok(answer),
        }
    }
}

impl Service<Request<Body>> for Faulty {
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

/// Another client is faster: with the object that is asked for, or with the first of its collection. One that is about to be made
/// is there for neither.
fn interfere(server: &Server, place: &Place, method: &Method, fault: Fault) {
    if *method == Method::POST {
        return;
    }
    let found = server.read(|objects| {
        let collection = format!("{}/{}", place.group, place.resource);
        let fits = |name: &str| place.name.as_ref().is_none_or(|wanted| wanted == name);
        let mut all = objects.of(&collection, place.namespace.as_deref());
        all.find(|(key, _)| fits(&key.name)).map(|(key, _)| (key.namespace.clone(), key.name.clone()))
    });
    let Some((namespace, name)) = found else { return };
    let namespace = Some(namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let resource = (place.group.as_str(), place.resource.as_str());
    let done = match fault {
        Fault::Deleted => {
            let gone = |write: &mut crate::api::Write<'_>| {
                write.delete(namespace, &name, &serde_json::Value::Null).map(drop)
            };
            server.write(resource.0, resource.1, gone)
        }
        _ => {
            let touch = |object: &mut serde_json::Value| {
                let version = object["metadata"]["resourceVersion"].clone();
                object["metadata"]["annotations"]["example.org/touched"] = version;
            };
            server.change(resource, namespace, &name, Half::Main, touch).map(drop)
        }
    };
    // What is gone or refused meanwhile was somebody's, too.
    drop(done);
}
