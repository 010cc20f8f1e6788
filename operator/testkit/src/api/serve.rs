//! Requests and answers of HTTP.

use std::collections::BTreeMap;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use http::{Method, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::{Value, json};
use tower::{BoxError, Service};

use super::apply::List;
use super::kinds::Kind;
use super::objects::Key;
use super::path::{self, Place};
use super::select::Selector;
use super::watch::{Scope, bookmark};
use super::write::{Half, Write};
use super::{Refused, Server, State};

/// What an answer's body is made of.
pub type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

/// Objects of one page at most, whatever is asked for.
const PAGE: usize = 500;

impl Service<Request<Body>> for Server {
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let header = |name| {
                parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
            };
            let asked = Asked {
                method: parts.method.clone(),
                place: path::parse(parts.uri.path()),
                query: query(parts.uri.query().unwrap_or_default()),
                metadata_only: header(header::ACCEPT).contains("as=PartialObjectMetadata"),
                patch: header(header::CONTENT_TYPE),
                agent: header(header::USER_AGENT),
                body,
            };
            Ok(server.answer(&asked))
        })
    }
}

struct Asked {
    method: Method,
    place: Option<Place>,
    query: BTreeMap<String, String>,
    metadata_only: bool,
    patch: String,
    agent: String,
    body: Bytes,
}

impl Asked {
    fn is(&self, name: &str) -> bool {
        self.query.get(name).is_some_and(|value| value == "true" || value == "1")
    }

    fn json(&self) -> Result<Value, Refused> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Refused::bad(format!("the body is no JSON: {error}")))
    }

    fn manager(&self) -> String {
        let agent = || self.agent.split('/').next().unwrap_or_default().to_owned();
        self.query.get("fieldManager").cloned().unwrap_or_else(agent)
    }
}

impl Server {
    fn answer(&self, asked: &Asked) -> Answer {
        match self.try_answer(asked) {
            Ok(answer) => answer,
            Err(why) => refused(&why),
        }
    }

    fn try_answer(&self, asked: &Asked) -> Result<Answer, Refused> {
        let place = asked.place.as_ref().ok_or_else(Refused::no_such_path)?;
        let kind = self.kind_at(place)?;
        let half = match place.sub.as_deref() {
            None => Half::Main,
            Some("status") if kind.status => Half::Status,
            Some(_) => return Err(Refused::no_such_resource()),
        };
        let on_all = place.name.is_none() && asked.method != Method::POST;
        if kind.namespaced && place.namespace.is_none() && !on_all {
            return Err(no_route(kind));
        }
        let namespace = place.namespace.as_deref();
        match (&asked.method, place.name.as_deref()) {
            (&Method::GET, None) if asked.is("watch") => self.watch(kind, namespace, asked),
            (&Method::GET, None) => self.list(kind, namespace, asked),
            (&Method::GET, Some(name)) => {
                let found = self.read(|objects| objects.get(&kind.key(namespace, name)).cloned());
                let found = found.ok_or_else(|| Refused::not_found(&kind.qualified(), name))?;
                Ok(full(200, &shown(found, asked.metadata_only)))
            }
            (&Method::POST, None) if half == Half::Main => {
                let object = asked.json()?;
                let made = self.write_as(kind, &asked.manager(), |write| write.create(namespace, object))?;
                Ok(full(201, &shown(made, asked.metadata_only)))
            }
            (&Method::PUT, Some(name)) => {
                let object = asked.json()?;
                let new = self
                    .write_as(kind, &asked.manager(), |write| write.replace(namespace, name, half, object))?;
                Ok(full(200, &shown(new, asked.metadata_only)))
            }
            (&Method::PATCH, Some(name)) => self.patch(kind, namespace, name, half, asked),
            (&Method::DELETE, Some(name)) if half == Half::Main => {
                let options = asked.json()?;
                let (object, gone) =
                    self.write_as(kind, &asked.manager(), |write| write.delete(namespace, name, &options))?;
                if gone {
                    let uid = &object["metadata"]["uid"];
                    let details =
                        json!({"name": name, "group": kind.group, "kind": kind.resource, "uid": uid});
                    let status = json!({
                        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
                    });
                    return Ok(full(200, &status));
                }
                Ok(full(200, &shown(object, asked.metadata_only)))
            }
            _ => Err(Refused::method()),
        }
    }

    fn kind_at(&self, place: &Place) -> Result<&Kind, Refused> {
        let mut of_group =
            self.kinds.iter().filter(|kind| (&kind.group, &kind.version) == (&place.group, &place.version));
        let other = of_group.clone().next();
        let found = of_group.find(|kind| kind.resource == place.resource);
        found.ok_or_else(|| other.map_or_else(Refused::no_such_path, no_route))
    }

    fn patch(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        half: Half,
        asked: &Asked,
    ) -> Result<Answer, Refused> {
        let (patch, key) = (asked.json()?, kind.key(namespace, name));
        if asked.patch.starts_with("application/apply-patch") {
            return self.apply(kind, key, half, (&patch, asked));
        }
        let new = self.write_as(kind, &asked.manager(), |write| {
            let old = write.found(&key)?;
            // A patch that says no version is for whichever is there.
            let wanted = patched(&old, patch, &asked.patch)?;
            write.update(key, &old, half, wanted)
        })?;
        Ok(full(200, &shown(new, asked.metadata_only)))
    }

    fn apply(
        &self,
        kind: &Kind,
        key: Key,
        half: Half,
        (wanted, asked): (&Value, &Asked),
    ) -> Result<Answer, Refused> {
        let manager = asked.query.get("fieldManager").filter(|manager| !manager.is_empty());
        let manager = manager
            .ok_or_else(|| Refused::invalid("fieldManager: Required value: is required for apply patch"))?;
        if !wanted.is_object() {
            return Err(Refused::bad("the body of the request is no object"));
        }
        let lists = |names: &[&str]| kind.list_at(names);
        let mut state = self.state();
        let State { objects, owners } = &mut *state;
        let old = objects.get(&key).cloned();
        let mut owned = owners.get(&key).cloned().unwrap_or_default();
        let base = old.clone().unwrap_or_else(|| json!({}));
        let merged = owned.apply(manager, &base, wanted, asked.is("force"), &lists)?;
        let mut write = Write { kind, objects, touched: owners.get(&key) != Some(&owned), now: (self.now)() };
        let (code, new) = match old {
            Some(old) => (200, write.update(key.clone(), &old, half, merged)?),
            None if half == Half::Status => return Err(Refused::not_found(&kind.qualified(), &key.name)),
            None => {
                let mut merged = merged;
                merged["metadata"]["name"] = json!(key.name);
                (201, write.create(Some(&*key.namespace).filter(|namespace| !namespace.is_empty()), merged)?)
            }
        };
        match objects.get(&key) {
            Some(_) => drop(owners.insert(key, owned)),
            // That was the last finalizer of an object that is being deleted.
            None => drop(owners.remove(&key)),
        }
        Ok(full(code, &shown(new, asked.metadata_only)))
    }

    fn list(&self, kind: &Kind, namespace: Option<&str>, asked: &Asked) -> Result<Answer, Refused> {
        let selector = selector(asked)?;
        let limit = asked.query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
        let after = asked.query.get("continue").filter(|token| !token.is_empty());
        self.read(|objects| {
            let collection = kind.collection();
            let name = |key: &Key| format!("{}/{}", key.namespace, key.name);
            let mut left = objects
                .of(&collection, namespace)
                .filter(|(key, object)| {
                    selector.matches(object) && after.is_none_or(|after| name(key) > *after)
                })
                .peekable();
            let (mut items, mut last) = (Vec::new(), String::new());
            while items.len() < limit.unwrap_or(usize::MAX).min(PAGE)
                && let Some((key, object)) = left.next()
            {
                last = name(key);
                let mut item = shown(object.clone(), asked.metadata_only);
                // Items of Go's own types do not repeat what the list says.
                if kind.schema.is_none()
                    && !asked.metadata_only
                    && let Some(item) = item.as_object_mut()
                {
                    item.retain(|name, _| name != "apiVersion" && name != "kind");
                }
                items.push(item);
            }
            let mut metadata = json!({"resourceVersion": objects.version().to_string()});
            if left.peek().is_some() {
                metadata["continue"] = json!(last);
            }
            let (list, version) = match asked.metadata_only {
                true => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
                false => (format!("{}List", kind.kind), kind.api_version()),
            };
            Ok(full(200, &json!({"kind": list, "apiVersion": version, "metadata": metadata, "items": items})))
        })
    }

    fn watch(&self, kind: &Kind, namespace: Option<&str>, asked: &Asked) -> Result<Answer, Refused> {
        let scope = Scope {
            collection: kind.collection(),
            namespace: namespace.map(str::to_owned),
            selector: selector(asked)?,
        };
        let from = asked.query.get("resourceVersion").map(String::as_str).unwrap_or_default();
        let (mut first, version, news) = self.read(|objects| {
            let (first, version) = match from {
                "" | "0" => (scope.present(objects), Some(objects.version())),
                from => (Vec::new(), from.parse().ok()),
            };
            (first, version, objects.news())
        });
        let version = version.ok_or_else(|| Refused::bad(format!("invalid resource version {from:?}")))?;
        if asked.is("sendInitialEvents") {
            first.push(bookmark(&kind.api_version(), &kind.kind, version, true));
        }
        let metadata_only = asked.metadata_only;
        let line = move |mut event: Value| {
            let object = event["object"].take();
            let is_object = object["kind"] != "Status";
            event["object"] = shown(object, metadata_only && is_object);
            Ok::<_, std::io::Error>(Frame::data(Bytes::from(format!("{event}\n"))))
        };
        let server = self.clone();
        let later = stream::unfold(Some((version, news)), move |state| {
            let (server, scope) = (server.clone(), scope.clone());
            async move {
                let (mut version, news) = state?;
                loop {
                    // Before the look, so that no change falls between the two.
                    let mut changed = Box::pin(news.clone().notified_owned());
                    changed.as_mut().enable();
                    match server.read(|objects| scope.events(objects, version)) {
                        Ok((events, now)) if events.is_empty() => version = now,
                        Ok((events, now)) => return Some((events, Some((now, news)))),
                        // The last word of a watch.
                        Err(refused) => {
                            return Some((vec![json!({"type": "ERROR", "object": refused.status()})], None));
                        }
                    }
                    changed.await;
                }
            }
        });
        let lines: BoxStream<'static, _> =
            stream::iter(vec![first]).chain(later).flat_map(stream::iter).map(line).boxed();
        let body = StreamBody::new(lines).boxed_unsync();
        let answer = Response::builder().header(header::CONTENT_TYPE, "application/json").body(body);
        Ok(answer.unwrap_or_default())
    }
}

impl Kind {
    /// How the list at this path is put together when it is applied.
    pub(super) fn list_at(&self, names: &[&str]) -> List {
        match names {
            ["metadata", "finalizers"] => return List::Set,
            ["metadata", "ownerReferences"] => return List::Map(vec!["uid".into()]),
            _ => {}
        }
        let Some(mut at) = self.schema.as_ref().map(|schema| &schema.raw) else { return List::Atomic };
        for name in names {
            at = match *name {
                "[]" => &at["items"],
                name if at["properties"][name].is_object() => &at["properties"][name],
                _ => &at["additionalProperties"],
            };
        }
        match at["x-kubernetes-list-type"].as_str() {
            Some("set") => List::Set,
            Some("map") => {
                let keys = at["x-kubernetes-list-map-keys"].as_array();
                List::Map(
                    keys.into_iter().flatten().filter_map(|key| key.as_str().map(str::to_owned)).collect(),
                )
            }
            _ => List::Atomic,
        }
    }
}

/// Of a path in a group of the server's own that leads nowhere, a Status; definitions have no routes, so that in theirs it is
/// as if the group were not there.
fn no_route(of_group: &Kind) -> Refused {
    match of_group.schema {
        None => Refused::no_such_resource(),
        Some(_) => Refused::no_such_path(),
    }
}

/// What a patch of this media type makes of an object.
fn patched(old: &Value, patch: Value, media_type: &str) -> Result<Value, Refused> {
    let mut wanted = old.clone();
    match media_type.split(';').next().unwrap_or_default() {
        "application/merge-patch+json" => json_patch::merge(&mut wanted, &patch),
        "application/json-patch+json" => {
            let patch: json_patch::Patch = serde_json::from_value(patch)
                .map_err(|error| Refused::bad(format!("error decoding patch: {error}")))?;
            json_patch::patch(&mut wanted, &patch).map_err(|error| {
                Refused::invalid(format!(
                    "the server rejected our request due to an error in our request: {error}"
                ))
            })?;
        }
        _ => return Err(Refused::media_type()),
    }
    Ok(wanted)
}

fn selector(asked: &Asked) -> Result<Selector, Refused> {
    let of = |name: &str| asked.query.get(name).map(String::as_str);
    Selector::parse(of("labelSelector"), of("fieldSelector")).map_err(Refused::bad)
}

/// The object, or what is asked for of it.
fn shown(object: Value, metadata_only: bool) -> Value {
    if !metadata_only {
        return object;
    }
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn query(text: &str) -> BTreeMap<String, String> {
    form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

/// The answer of a server that says no.
pub(crate) fn refused(why: &Refused) -> Answer {
    if !why.reason.is_empty() {
        return full(why.code, &why.status());
    }
    let body = Full::new(Bytes::from(why.message.clone())).map_err(|never| match never {}).boxed_unsync();
    Response::builder()
        .status(why.code)
        .header(header::CONTENT_TYPE, "text/plain")
        .body(body)
        .unwrap_or_default()
}

fn full(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    let answer = Response::builder().status(code).header(header::CONTENT_TYPE, "application/json").body(body);
    answer.unwrap_or_default()
}
