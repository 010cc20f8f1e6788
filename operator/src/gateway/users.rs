//! Data and checkpoints for the users of the hub (docs/spec/gateway.md section 7).
//!
//! Everything is asked within a namespace. Whether the store has a blob from somebody else is nobody's business: a user
//! hears only of what his own namespace has put, or what a dataset, model or job of it leads to.
mod jobs;
mod quota;
#[cfg(test)]
mod tests;
mod urls;

pub use jobs::{Jobs, KubeJobs, is_object_name};

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Json, Router};
use futures::{StreamExt, TryStreamExt};
use muster_proof::Digest;
use serde::Deserialize;

use self::quota::Quota;
use super::access::{Authorizer, Refusal, User};
use super::blobs::{DRAIN, content_length, digest, no_blob, put_refusal, store_refusal, too_large};
use super::body::json;
use super::closures::{Closures, Of};
use super::door::Door;
use super::uploads::Uploads;
use super::urls::Urls;
use crate::runtime::blobdir::drain;
use crate::store::{Asset, ImportError, MAX_BLOB_BYTES, Namespace, Placed, Replace, Store, is_dns_label};
use crate::wire::gateway::{Checkpoint, Checkpoints, Dataset, Datasets, ManifestRef, Model, Models};

/// Questions to the store at once, for one request.
const AT_ONCE: usize = 16;

struct Users<A, J> {
    store: Arc<Store>,
    door: Door<A, J>,
    urls: Arc<Urls>,
    closures: Closures,
    uploads: Arc<Uploads>,
    quota: Quota,
}

/// Uploads of all users at once, and of one.
const UPLOADS: (usize, usize) = (16, 4);

/// The routes. Whoever layers them puts a [`User`] into the extensions first. A namespace may have `quota` bytes.
pub fn router<A: Authorizer, J: Jobs>(
    store: Arc<Store>,
    door: Door<A, J>,
    urls: Arc<Urls>,
    quota: u64,
) -> Router {
    let (uploads, quota) = (Uploads::new(UPLOADS.0, UPLOADS.1), Quota::new(quota));
    let users = Users { store, door, urls, closures: Closures::default(), uploads, quota };
    Router::new()
        .route("/v1/namespaces/{ns}/blobs/sha256/{hex}", put(put_blob::<A, J>).head(head_blob::<A, J>))
        .route("/v1/namespaces/{ns}/datasets", get(list_datasets::<A, J>))
        .route("/v1/namespaces/{ns}/datasets/{name}", put(put_name::<A, J>).layer(Extension(Asset::Dataset)))
        .route("/v1/namespaces/{ns}/models", get(list_models::<A, J>))
        .route("/v1/namespaces/{ns}/models/{name}", put(put_name::<A, J>).layer(Extension(Asset::Model)))
        .route("/v1/namespaces/{ns}/jobs/{job}/checkpoints", get(list_checkpoints::<A, J>))
        .route("/v1/namespaces/{ns}/jobs/{job}/blobs/sha256/{hex}", get(read_blob::<A, J>))
        .route("/v1/namespaces/{ns}/jobs/{job}/urls", post(urls::url::<A, J>))
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(users))
}

async fn head_blob<A: Authorizer, J: Jobs>(
    State(users): State<Arc<Users<A, J>>>,
    Extension(user): Extension<User>,
    Path((namespace, hex)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let namespace = users.may_write(&user, &namespace).await?;
    let digest = digest(&hex)?;
    let missing = || no_blob(&digest, &format!("namespace {namespace}"));
    let puts = users.store.user_puts(&namespace).await.map_err(|e| store_refusal(&e))?;
    let put = puts.get(&digest);
    if put.is_none() && !users.leads_to(&namespace, &digest).await? {
        return Err(missing());
    }
    // The answer is a promise until a name leads to the blob: tell garbage collection.
    if !users.store.touch(&digest).await.map_err(|e| store_refusal(&e))? {
        return Err(missing());
    }
    if let Some(size) = put {
        users.store.record_user_put(&namespace, &digest, *size).await.map_err(|e| store_refusal(&e))?;
    }
    let answer = users.store.answer(&digest, &Method::HEAD, &headers).await;
    answer.map_err(|error| store_refusal(&error))?.ok_or_else(missing)
}

async fn put_blob<A: Authorizer, J: Jobs>(
    State(users): State<Arc<Users<A, J>>>,
    Extension(user): Extension<User>,
    Path((namespace, hex)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mut body = body.into_data_stream();
    let answer = async {
        let namespace = users.may_write(&user, &namespace).await?;
        let (digest, size) = (digest(&hex)?, content_length(&headers)?);
        if size > MAX_BLOB_BYTES {
            return Err(too_large(MAX_BLOB_BYTES));
        }
        let _slot = users.uploads.enter(&user.name)?;
        let store = |error| store_refusal(&error);
        let room = users.room(&namespace, &digest, size).await?;
        let was_there = room.is_none() && users.store.size(&digest).await.map_err(store)?.is_some();
        users.store.put_proven(&digest, &mut body, size).await.map_err(|error| put_refusal(&error))?;
        users.store.record_user_put(&namespace, &digest, size).await.map_err(store)?;
        tracing::debug!(user = user.name, %namespace, %digest, size, "blob put");
        // 200 only for what this namespace has: what others have does not show.
        Ok(if was_there { StatusCode::OK } else { StatusCode::CREATED })
    };
    let answer: Result<StatusCode, Refusal> = answer.await;
    drain(&mut body, DRAIN).await;
    answer.into_response()
}

/// Of `PUT .../datasets/{name}` and `PUT .../models/{name}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PutName {
    #[serde(default)]
    replace: bool,
}

/// The route says of what the name is.
async fn put_name<A: Authorizer, J: Jobs>(
    State(users): State<Arc<Users<A, J>>>,
    Extension(user): Extension<User>,
    Extension(asset): Extension<Asset>,
    Path((namespace, name)): Path<(String, String)>,
    query: Result<Query<PutName>, axum::extract::rejection::QueryRejection>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let namespace = users.may_write(&user, &namespace).await?;
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, "BadRequest", text);
    let Query(query) = query.map_err(|_| bad("the only parameter here is replace=true".to_owned()))?;
    let word = asset.word();
    if !is_dns_label(&name) {
        let text = "a name here is a DNS label: lower-case letters, digits and '-', at most 63";
        return Err(bad(text.to_owned()));
    }
    let ManifestRef { manifest } = json(body).await?;
    users.all_there(asset, &namespace, &manifest).await?;
    let replace = if query.replace { Replace::Existing } else { Replace::Never };
    match users.store.place(asset, &namespace, &name, &manifest, replace).await {
        Ok(Placed::Taken) => {
            let text = format!(
                "{word} {namespace}/{name} is another one; replace it with ?replace=true, or take another name"
            );
            Err(Refusal::new(StatusCode::CONFLICT, "NameTaken", text))
        }
        Ok(placed) => {
            tracing::info!(user = user.name, %namespace, name, %manifest, ?placed, "{word}");
            Ok(if placed == Placed::New { StatusCode::CREATED } else { StatusCode::OK })
        }
        Err(ImportError::Io(error)) => Err(store_refusal(&error)),
        Err(error) => Err(bad(error.to_string())),
    }
}

async fn list_datasets<A: Authorizer, J: Jobs>(
    State(users): State<Arc<Users<A, J>>>,
    Extension(user): Extension<User>,
    Path(namespace): Path<String>,
) -> Result<Json<Datasets>, Refusal> {
    let (users, namespace) = (&users, users.may_list(&user, &namespace).await?);
    let named = users.named(Asset::Dataset, &namespace).await?;
    let datasets = futures::stream::iter(named).map(|(name, manifest)| async move {
        let read = users.store.dataset_manifest(&manifest).await;
        Ok::<_, Refusal>(users.listed(Asset::Dataset, &name, &manifest, read)?.map(|parsed| {
            let (tokens, vocabulary) = (parsed.tokens(), u64::from(parsed.vocabulary()));
            Dataset { name, manifest, tokens, vocabulary }
        }))
    });
    let datasets: Vec<Option<Dataset>> = datasets.buffered(AT_ONCE).try_collect().await?;
    Ok(Json(Datasets { datasets: datasets.into_iter().flatten().collect() }))
}

async fn list_models<A: Authorizer, J: Jobs>(
    State(users): State<Arc<Users<A, J>>>,
    Extension(user): Extension<User>,
    Path(namespace): Path<String>,
) -> Result<Json<Models>, Refusal> {
    let (users, namespace) = (&users, users.may_list(&user, &namespace).await?);
    let named = users.named(Asset::Model, &namespace).await?;
    let models = futures::stream::iter(named).map(|(name, manifest)| async move {
        let read = users.store.model_manifest(&manifest).await;
        Ok::<_, Refusal>(users.listed(Asset::Model, &name, &manifest, read)?.map(|parsed| {
            let bytes = parsed.files().iter().map(|file| file.size).sum();
            Model { name, manifest, model: parsed.model().clone(), bytes, state_root: parsed.state_root() }
        }))
    });
    let models: Vec<Option<Model>> = models.buffered(AT_ONCE).try_collect().await?;
    Ok(Json(Models { models: models.into_iter().flatten().collect() }))
}

async fn list_checkpoints<A: Authorizer, J: Jobs>(
    State(users): State<Arc<Users<A, J>>>,
    Extension(user): Extension<User>,
    Path((namespace, job)): Path<(String, String)>,
) -> Result<Json<Checkpoints>, Refusal> {
    let uid = users.door.job(&user, "checkpoints", &namespace, &job).await?;
    let all = users.store.checkpoints(&uid).await.map_err(|error| store_refusal(&error))?;
    let checkpoints = futures::stream::iter(all).map(|(step, manifest)| {
        let users = users.clone();
        async move {
            match users.store.checkpoint_manifest(&manifest).await {
                Ok(Some(parsed)) => Ok(Some(Checkpoint { step, manifest, state_root: parsed.state_root() })),
                Ok(None) => Ok(None),
                Err(error) => Err(store_refusal(&error)),
            }
        }
    });
    let checkpoints: Vec<Option<Checkpoint>> = checkpoints.buffered(AT_ONCE).try_collect().await?;
    Ok(Json(Checkpoints { checkpoints: checkpoints.into_iter().flatten().collect() }))
}

async fn read_blob<A: Authorizer, J: Jobs>(
    State(users): State<Arc<Users<A, J>>>,
    Extension(user): Extension<User>,
    Path((namespace, job, hex)): Path<(String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let digest = digest(&hex)?;
    users.may_read(&user, &namespace, &job, &digest).await?;
    let answer = users.store.answer(&digest, &method, &headers).await.map_err(|e| store_refusal(&e))?;
    answer.ok_or_else(|| no_blob(&digest, &format!("job {namespace}/{job}")))
}

impl<A: Authorizer, J: Jobs> Users<A, J> {
    async fn may_write(&self, user: &User, namespace: &str) -> Result<Namespace, Refusal> {
        self.door.may(user, "create", "data", namespace, None).await?;
        self.door.living(namespace).await
    }

    /// Refuses a blob that is no checkpoint's of this job.
    async fn may_read(
        &self,
        user: &User,
        namespace: &str,
        job: &str,
        digest: &Digest,
    ) -> Result<(), Refusal> {
        let uid = self.door.job(user, "checkpoints", namespace, job).await?;
        let store = |error| store_refusal(&error);
        let all = self.store.checkpoints(&uid).await.map_err(store)?;
        // The newest is what people want.
        for manifest in all.values().rev() {
            let leads = self.closures.leads_to(&self.store, Of::Checkpoint, manifest, digest).await;
            if leads.map_err(store)? {
                return Ok(());
            }
        }
        Err(no_blob(digest, &format!("job {namespace}/{job}")))
    }

    async fn may_list(&self, user: &User, namespace: &str) -> Result<Namespace, Refusal> {
        self.door.may(user, "list", "data", namespace, None).await?;
        self.door.living(namespace).await
    }

    /// The names of a namespace with the manifests that they lead to.
    async fn named(&self, asset: Asset, namespace: &Namespace) -> Result<Vec<(String, Digest)>, Refusal> {
        let store = |error| store_refusal(&error);
        let names = self.store.names(asset, namespace).await.map_err(store)?;
        let found = futures::stream::iter(names).map(|name| async move {
            let manifest = self.store.named(asset, namespace, &name).await.map_err(|e| store_refusal(&e))?;
            Ok::<_, Refusal>(manifest.map(|manifest| (name, manifest)))
        });
        let found: Vec<Option<(String, Digest)>> = found.buffered(AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// What is listed of a name: nothing if it has lost its manifest, which the log is told.
    fn listed<M>(
        &self,
        asset: Asset,
        name: &str,
        manifest: &Digest,
        read: std::io::Result<Option<M>>,
    ) -> Result<Option<M>, Refusal> {
        let found = read.map_err(|error| store_refusal(&error))?;
        if found.is_none() {
            tracing::error!(name, %manifest, "a {} has lost its manifest", asset.word());
        }
        Ok(found)
    }

    /// The manifests of all that the namespace has names for.
    async fn manifests(&self, namespace: &Namespace) -> Result<Vec<(Asset, Digest)>, Refusal> {
        let mut all = Vec::new();
        for asset in [Asset::Dataset, Asset::Model] {
            all.extend(
                self.named(asset, namespace).await?.into_iter().map(|(_, manifest)| (asset, manifest)),
            );
        }
        Ok(all)
    }

    async fn leads_to(&self, namespace: &Namespace, digest: &Digest) -> Result<bool, Refusal> {
        for (asset, manifest) in self.manifests(namespace).await? {
            let leads = self.closures.leads_to(&self.store, Of::Asset(asset), &manifest, digest).await;
            if leads.map_err(|error| store_refusal(&error))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Refuses a manifest that is none, or leads to what is not there or not this namespace's: whoever could name others'
    /// files could train on them.
    async fn all_there(&self, asset: Asset, namespace: &Namespace, manifest: &Digest) -> Result<(), Refusal> {
        let mine = &self.held(namespace).await?;
        if !mine.contains_key(manifest) {
            return Err(missing(asset, manifest));
        }
        let files = match self.store.files_of(asset, manifest).await {
            Ok(Some(files)) => files,
            Ok(None) => return Err(missing(asset, manifest)),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                let text = match asset {
                    Asset::Dataset => format!("{error}; push what `muster data prepare` made"),
                    Asset::Model => format!("{error}; push a model's directory with `muster model push`"),
                };
                return Err(Refusal::new(StatusCode::BAD_REQUEST, "BadManifest", text));
            }
            Err(error) => return Err(store_refusal(&error)),
        };
        let files = futures::stream::iter(files).map(|(file, size)| async move {
            if !mine.contains_key(&file) {
                return Err(missing(asset, &file));
            }
            let store = |error| store_refusal(&error);
            // Touched: a collection that has begun may not know that a name leads there now.
            let there = self.store.size(&file).await.map_err(store)? == Some(size)
                && self.store.touch(&file).await.map_err(store)?;
            if there { Ok(()) } else { Err(missing(asset, &file)) }
        });
        files.buffered(AT_ONCE).try_collect::<()>().await
    }
}

fn missing(asset: Asset, blob: &Digest) -> Refusal {
    let word = asset.word();
    let text = format!("blob {blob} of the {word} is not here; put it, then name the {word} again");
    Refusal::new(StatusCode::CONFLICT, "BlobMissing", text)
}
