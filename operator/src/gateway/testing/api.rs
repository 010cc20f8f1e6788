//! An API server in memory, over real HTTP, as far as the gateway uses one: objects, lists, watches, TokenRequest, TokenReview,
//! SubjectAccessReview.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use muster_core::hub_keys;
use muster_proof::Digest;
use muster_proof::key::SigningKey;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::wire::join_record::{claim_name, token_name};

/// A request as the API server saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

#[derive(Default)]
struct Objects {
    by_path: BTreeMap<String, Value>,
    /// Collection's path, event.
    events: Vec<(String, Value)>,
}

struct Known {
    user: String,
    audiences: Vec<String>,
    /// Path and UID of the Secret without which it is dead.
    bound: Option<(String, String)>,
}

/// The API server.
pub struct FakeApi {
    pub url: String,
    objects: Mutex<Objects>,
    news: watch::Sender<u64>,
    version: AtomicU64,
    tokens: Mutex<HashMap<String, Known>>,
    pub allowed: Mutex<HashSet<String>>,
    pub seen: Mutex<Vec<Seen>>,
    pub reviews: AtomicU64,
    pub down: AtomicBool,
}

impl FakeApi {
    pub async fn start() -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Arc::new(Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            objects: Mutex::default(),
            news: watch::channel(0).0,
            version: AtomicU64::new(1),
            tokens: Mutex::default(),
            allowed: Mutex::default(),
            seen: Mutex::default(),
            reviews: AtomicU64::new(0),
            down: AtomicBool::new(false),
        });
        let router = Router::new().fallback(answer).with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        api
    }

    /// Writes an object under its path, as another client would.
    pub fn put(&self, path: &str, mut object: Value) -> Value {
        let mut objects = self.objects.lock().unwrap();
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        let (collection, name) = path.rsplit_once('/').unwrap();
        let old = objects.by_path.get(path).cloned();
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.insert("name".into(), json!(name));
        metadata.insert("resourceVersion".into(), json!(version.to_string()));
        let uid = old.as_ref().map_or_else(
            || json!(format!("00000000-0000-4000-8000-{version:012}")),
            |o| o["metadata"]["uid"].clone(),
        );
        metadata.insert("uid".into(), uid);
        objects.by_path.insert(path.to_owned(), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        objects.events.push((collection.to_owned(), json!({"type": kind, "object": object.clone()})));
        self.news.send_replace(version);
        object
    }

    pub fn delete(&self, path: &str) -> Option<Value> {
        let mut objects = self.objects.lock().unwrap();
        let mut object = objects.by_path.remove(path)?;
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let collection = path.rsplit_once('/').unwrap().0.to_owned();
        objects.events.push((collection, json!({"type": "DELETED", "object": object.clone()})));
        self.news.send_replace(version);
        Some(object)
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.objects.lock().unwrap().by_path.get(path).cloned()
    }

    pub fn names(&self, collection: &str) -> Vec<String> {
        let objects = self.objects.lock().unwrap();
        let inside = |path: &String| Some(path.strip_prefix(collection)?.strip_prefix('/')?.to_owned());
        objects.by_path.keys().filter_map(inside).collect()
    }

    /// A token that TokenReview knows.
    pub fn token(&self, token: &str, user: &str, audience: &str) {
        let known = Known { user: user.into(), audiences: vec![audience.into()], bound: None };
        self.tokens.lock().unwrap().insert(token.into(), known);
    }

    /// A provider with these keys, its ServiceAccount, and the event it makes.
    pub fn provider(&self, name: &str, keys: &[Digest], scheduling: &str) {
        let keys: Vec<_> = keys.iter().map(|key| json!({"fingerprint": key})).collect();
        self.put(
            &format!("/apis/muster.dev/v1alpha1/computeproviders/{name}"),
            json!({
                "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider", "metadata": {},
                "spec": {"owner": "acme", "acceptedKeys": keys, "scheduling": scheduling},
                "status": {"minEpoch": 3},
            }),
        );
        self.put(
            &format!("/api/v1/namespaces/muster-agents/serviceaccounts/{name}"),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "muster-agents"}}),
        );
    }

    /// A join token's record.
    pub fn join_token(&self, provider: &str, secret: &[u8; 32], expires: &str, accept: &str) -> Digest {
        let hash = Digest::of(secret);
        self.put(
            &map_path(&token_name(provider)),
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "muster-agents"},
                "data": {"tokenHash": hash, "expires": expires, "accept": accept},
            }),
        );
        hash
    }

    pub fn claim(&self, provider: &str, hash: &Digest) -> Option<Value> {
        self.get(&map_path(&claim_name(provider, hash)))
    }

    pub fn publish_hub(&self) {
        let key = SigningKey::generate(super::HUB_KEY).unwrap();
        let set = hub_keys::sign(1, &[key.public()], &key).unwrap();
        self.put(
            "/api/v1/namespaces/muster-system/configmaps/muster-hub-public",
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "muster-system"},
                "data": {"incarnation": "4", "keys": serde_json::to_string(&[set]).unwrap()},
            }),
        );
    }

    /// Requests so far whose path has this in it.
    pub fn requests(&self, part: &str) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.target.contains(part)).cloned().collect()
    }

    fn create(&self, collection: &str, object: Value) -> Response {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let path = format!("{collection}/{name}");
        // Asked and written under one lock in a real server; here only one of two creates gets past this line.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap();
        if self.get(&path).is_some() {
            return status(StatusCode::CONFLICT, "AlreadyExists");
        }
        (StatusCode::CREATED, Json(self.put(&path, object))).into_response()
    }

    fn make_token(&self, account: &str, mut request: Value) -> Response {
        let Some(object) = self.get(&format!("/api/v1/namespaces/muster-agents/serviceaccounts/{account}"))
        else {
            return status(StatusCode::NOT_FOUND, "NotFound");
        };
        let bound = &request["spec"]["boundObjectRef"];
        let path = format!("/api/v1/namespaces/muster-agents/secrets/{}", bound["name"].as_str().unwrap());
        match self.get(&path) {
            None => return status(StatusCode::NOT_FOUND, "NotFound"),
            Some(secret) if secret["metadata"]["uid"] != bound["uid"] => {
                return status(StatusCode::CONFLICT, "Conflict");
            }
            Some(_) => {}
        }
        let mut audiences: Vec<String> =
            serde_json::from_value(request["spec"]["audiences"].clone()).unwrap_or_default();
        if audiences.is_empty() {
            audiences.push("api".into());
        }
        let number = self.version.fetch_add(1, Ordering::SeqCst);
        let token = format!("{}.{account}.{number}", audiences[0]);
        let bound = Some((path, bound["uid"].as_str().unwrap().to_owned()));
        let user = format!("system:serviceaccount:muster-agents:{account}");
        self.tokens.lock().unwrap().insert(token.clone(), Known { user, audiences, bound });
        request["metadata"] = object["metadata"].clone();
        request["status"] = json!({"token": token, "expirationTimestamp": "2100-01-01T00:00:00Z"});
        (StatusCode::CREATED, Json(request)).into_response()
    }

    fn review(&self, mut review: Value) -> Response {
        self.reviews.fetch_add(1, Ordering::SeqCst);
        let tokens = self.tokens.lock().unwrap();
        let wanted: Vec<String> = serde_json::from_value(review["spec"]["audiences"].clone())
            .unwrap_or_else(|_| vec!["api".into()]);
        let known = tokens.get(review["spec"]["token"].as_str().unwrap()).filter(|known| {
            let lives = known.bound.as_ref().is_none_or(|(path, uid)| {
                self.get(path).is_some_and(|secret| secret["metadata"]["uid"] == json!(uid))
            });
            lives && known.audiences.iter().any(|audience| wanted.contains(audience))
        });
        review["status"] = match known {
            Some(known) => json!({
                "authenticated": true, "audiences": wanted,
                "user": {"username": known.user, "groups": ["system:authenticated"]},
            }),
            None => json!({"authenticated": false}),
        };
        (StatusCode::CREATED, Json(review)).into_response()
    }

    fn access(&self, mut review: Value) -> Response {
        let a = &review["spec"]["resourceAttributes"];
        let text = |field: &str| a[field].as_str().unwrap_or_default().to_owned();
        let asked = [
            review["spec"]["user"].as_str().unwrap_or_default().to_owned(),
            text("verb"),
            format!("{}.{}/{}", text("resource"), text("group"), text("subresource")),
            text("namespace"),
            text("name"),
        ]
        .join(" ");
        review["status"] = json!({"allowed": self.allowed.lock().unwrap().contains(asked.trim())});
        (StatusCode::CREATED, Json(review)).into_response()
    }

    fn list(&self, path: &str, query: &BTreeMap<String, String>) -> Response {
        let matches = selector(query);
        let objects = self.objects.lock().unwrap();
        let inside = |(p, o): (&String, &Value)| {
            let name = p.strip_prefix(path)?.strip_prefix('/')?;
            (!name.contains('/') && matches(o)).then(|| o.clone())
        };
        let items: Vec<_> = objects.by_path.iter().filter_map(inside).collect();
        let version = self.version.load(Ordering::SeqCst).to_string();
        Json(json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version}, "items": items}))
            .into_response()
    }

    fn watch(self: Arc<Self>, path: String, query: &BTreeMap<String, String>) -> Response {
        let since: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
        let matches = selector(query);
        let news = self.news.subscribe();
        let start = (self, 0, news);
        let stream = futures::stream::unfold(start, move |(api, from, mut news)| {
            let (path, matches) = (path.clone(), matches.clone());
            async move {
                loop {
                    news.borrow_and_update();
                    let (lines, to) = {
                        let objects = api.objects.lock().unwrap();
                        let new = objects.events[from..].iter().filter(|(collection, event)| {
                            let version: u64 = event["object"]["metadata"]["resourceVersion"]
                                .as_str()
                                .unwrap()
                                .parse()
                                .unwrap();
                            *collection == path && version > since && matches(&event["object"])
                        });
                        (new.map(|(_, event)| format!("{event}\n")).collect::<String>(), objects.events.len())
                    };
                    if !lines.is_empty() {
                        return Some((Ok::<_, std::io::Error>(lines), (api, to, news)));
                    }
                    news.changed().await.ok()?;
                }
            }
        });
        Body::from_stream(stream).into_response()
    }
}

fn selector(query: &BTreeMap<String, String>) -> impl Fn(&Value) -> bool + Clone + Send + use<> {
    let name = query.get("fieldSelector").and_then(|s| s.strip_prefix("metadata.name=")).map(str::to_owned);
    let labels: Vec<String> =
        query.get("labelSelector").map(|s| s.split(',').map(str::to_owned).collect()).unwrap_or_default();
    move |object| {
        let named = name.as_ref().is_none_or(|name| object["metadata"]["name"] == json!(name));
        let labelled = labels.iter().all(|wanted| match wanted.split_once('=') {
            Some((label, value)) => object["metadata"]["labels"][label] == json!(value),
            None => object["metadata"]["labels"][wanted].is_string(),
        });
        named && labelled
    }
}

fn map_path(name: &str) -> String {
    format!("/api/v1/namespaces/muster-agents/configmaps/{name}")
}

fn status(code: StatusCode, reason: &str) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(), "reason": reason,
        "message": reason,
    });
    (code, Json(body)).into_response()
}

async fn answer(State(api): State<Arc<FakeApi>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
    let target = parts.uri.to_string();
    let seen = Seen {
        method: parts.method.clone(),
        target: target.clone(),
        headers: parts.headers,
        body: body.clone(),
    };
    api.seen.lock().unwrap().push(seen);
    if api.down.load(Ordering::SeqCst) {
        return status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    }
    let path = parts.uri.path().to_owned();
    let query: BTreeMap<String, String> = parts.uri.query().map(decode).unwrap_or_default();
    let json = || serde_json::from_slice::<Value>(&body).unwrap_or_default();
    if parts.method == Method::POST {
        return match path.rsplit('/').collect::<Vec<_>>().as_slice() {
            ["tokenreviews", ..] => api.review(json()),
            ["subjectaccessreviews", ..] => api.access(json()),
            ["token", account, ..] => api.make_token(account, json()),
            _ => api.create(&path, json()),
        };
    }
    if query.get("watch").is_some_and(|watch| watch == "true") {
        return api.watch(path, &query);
    }
    // Collections have names in the plural; objects of the tests do not.
    let is_collection = path.ends_with('s') && api.get(&path).is_none() && !path.ends_with("/status");
    match parts.method {
        Method::GET if is_collection => api.list(&path, &query),
        Method::GET => match api.get(&path) {
            Some(object) => Json(object).into_response(),
            None => status(StatusCode::NOT_FOUND, "NotFound"),
        },
        Method::DELETE => match api.get(&path) {
            Some(found)
                if json()["preconditions"]["uid"]
                    .as_str()
                    .is_some_and(|uid| found["metadata"]["uid"] != uid) =>
            {
                status(StatusCode::CONFLICT, "Conflict")
            }
            Some(_) => Json(api.delete(&path)).into_response(),
            None => status(StatusCode::NOT_FOUND, "NotFound"),
        },
        Method::PATCH => {
            let mut object = api.get(&path).unwrap_or_else(|| json!({"metadata": {}}));
            merge(&mut object, json());
            Json(api.put(&path, object)).into_response()
        }
        _ => Json(api.put(&path, json())).into_response(),
    }
}

/// As RFC 7386, without removal.
fn merge(old: &mut Value, patch: Value) {
    match (old, patch) {
        (Value::Object(old), Value::Object(patch)) => {
            for (name, value) in patch {
                merge(old.entry(name).or_insert(Value::Null), value);
            }
        }
        (old, patch) => *old = patch,
    }
}

/// As far as the tests' own queries go.
fn decode(query: &str) -> BTreeMap<String, String> {
    let plain = |text: &str| text.replace("%3D", "=").replace("%2F", "/").replace("%2C", ",");
    query.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (plain(k), plain(v))).collect()
}
