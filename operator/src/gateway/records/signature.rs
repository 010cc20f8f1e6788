//! What `model.sig` and `commit.tlog-proof` of a checkpoint are made of: its commit, where the log has it, and what the same key
//! says of the files. The proof itself a client makes out of tiles, which anyone may fetch.
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::model_signing::{Files, PAYLOAD_TYPE};
use muster_proof::records::{Commit, Payload as _};
use muster_trainer::checkpoint::MANIFEST_FILE;

use super::{Records, SUBRESOURCE, unreadable};
use crate::gateway::access::{Authorizer, Refusal, User};
use crate::gateway::blobs::store_refusal;
use crate::gateway::users::Jobs;
use crate::store::{Noted, Store};
use crate::wire::gateway::CheckpointSignature;

pub(super) async fn read<A: Authorizer, J: Jobs>(
    State(records): State<Arc<Records<A, J>>>,
    Extension(user): Extension<User>,
    Path((namespace, job, step)): Path<(String, String, String)>,
) -> Result<Json<CheckpointSignature>, Refusal> {
    let number = step.parse::<u64>().ok().filter(|number| number.to_string() == step);
    let step = number.ok_or_else(|| Refusal::bad_request("the path has a step, a number"))?;
    let uid = records.door.job(&user, SUBRESOURCE, &namespace, &job).await?;
    let missing = || {
        let text = format!("the log has no commit of a checkpoint of step {step} of job {namespace}/{job}");
        Refusal::new(StatusCode::NOT_FOUND, "NotLogged", text)
    };
    let store = |error| store_refusal(&error);
    let Some(Noted::Logged(noted)) = records.store.noted_commit(&uid, step).await.map_err(store)? else {
        return Err(missing());
    };
    let manifest = records.store.checkpoint(&uid, step).await.map_err(store)?.ok_or_else(missing)?;
    let own = records.clone();
    let entry = tokio::task::spawn_blocking(move || own.log.entry(&noted.record)).await;
    let entry = entry.map_err(|error| unreadable(&error))?.map_err(|error| unreadable(&error))?;
    let (index, commit) = entry.ok_or_else(missing)?;
    // The two names are not written at once: a commit of other bits, which a verdict has undone, may be noted.
    if !Commit::from_payload(commit.unverified_payload()).is_ok_and(|commit| commit.manifest == manifest) {
        return Err(missing());
    }
    let model = model(&records.store, &uid, step, &manifest, &commit).await.map_err(store)?;
    Ok(Json(CheckpointSignature { log: records.log.key().to_string(), index, commit, model }))
}

/// What was left of the step, if it is of this commit's signer and of this manifest.
async fn model(
    store: &Store,
    uid: &str,
    step: u64,
    manifest: &Digest,
    commit: &Envelope,
) -> std::io::Result<Option<Envelope>> {
    let model = match store.model(uid, step).await {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            tracing::error!(step, %error, "what was signed of a checkpoint's files is damaged");
            return Ok(None);
        }
        other => other?,
    };
    let signer = |envelope: &Envelope| envelope.signatures().first().map(|first| first.keyid);
    Ok(model.filter(|model| {
        let files = Files::parse_statement(model.unverified_payload());
        let of = files.is_ok_and(|files| files.as_slice().contains(&(MANIFEST_FILE.to_owned(), *manifest)));
        of && model.payload_type() == PAYLOAD_TYPE && signer(model) == signer(commit)
    }))
}
