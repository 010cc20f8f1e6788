//! Acceptance: what a schema cannot say is checked, names become digests, and the result is written down once.
use std::io::ErrorKind;

use k8s_openapi::api::core::v1 as core;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use muster_api::v1alpha1::{Resolved as ResolvedStatus, TrainingJobStatus};
use muster_core::lifecycle::Audits;
use muster_core::lifecycle::conditions::{self, Acceptance, Before, Pause, Stage, View};
use muster_trainer::dataset::Manifest;
use muster_trainer::hf;

use super::{CATALOGUE_AGAIN, LOG_AGAIN, LOG_UNAVAILABLE, Look, key, status};
use crate::hub::error::Error;
use crate::hub::ledger::grants;
use crate::resolve::{self, ResolveError};
use crate::runtime::client::within;
use crate::store::{Asset, Namespace};

/// Says once that another controller has this job, and nothing ever after: its status is the other's.
pub async fn not_managed(look: &Look<'_>) -> Result<Action, Error> {
    if look.job.status.as_ref().is_none_or(|status| status.conditions.is_empty()) {
        let message = format!(
            "spec.managedBy is {}, so this hub leaves the job alone; its own value is {}",
            look.job.spec.managed_by,
            muster_api::names::MANAGED_BY
        );
        refuse(look, "NotManaged", message).await?;
    }
    Ok(Action::await_change())
}

/// What became of a job that was not accepted yet.
pub enum Accepted {
    /// It is in the log; its status from now on, to be written.
    Yes(Box<TrainingJobStatus>),
    /// Something is in the way, and said in its status; when to look again.
    Not(Action),
}

/// Resolves and logs the job, or says what is in the way.
pub async fn accept(look: &Look<'_>) -> Result<Accepted, Error> {
    let again = || Ok(Accepted::Not(Action::requeue(CATALOGUE_AGAIN)));
    let spec = &look.job.spec;
    if let (Some(resolved), Some(digest)) = (look.old().resolved, look.old().training_digest) {
        // Resolved by an older hub: only the log does not have it yet.
        return logged(look, &resolved, &digest).await;
    }
    if let Err(error) = resolve::check_supported(spec) {
        refuse(look, error.reason(), error.to_string()).await?;
        return Ok(Accepted::Not(Action::await_change()));
    }
    let Some(namespace) = living(look).await? else { return again() };
    let Some(manifest) = dataset(look, &namespace, &spec.data.dataset).await? else { return again() };
    let held_out = match &spec.training.eval {
        None => None,
        Some(eval) => match dataset(look, &namespace, &eval.dataset).await? {
            None => return again(),
            found => found,
        },
    };
    let init = match &spec.init {
        None => None,
        Some(init) => match model(look, &namespace, &init.model).await? {
            None => return again(),
            found => found,
        },
    };
    match look.ctx.resolutions.of(spec, manifest, held_out, init).await? {
        Ok(resolved) => {
            // The blob first: whoever reads the digest in the status may ask for it.
            look.ctx.store.put_bytes(resolved.bytes.clone()).await?;
            let status = ResolvedStatus {
                spec: resolved.digest.to_string(),
                dataset: resolved.dataset.to_string(),
                genesis: resolved.genesis.to_string(),
                image: look.ctx.image.digest.clone(),
            };
            logged(look, &status, &resolved.training_digest.to_string()).await
        }
        Err(error) => {
            refuse(look, error.reason(), error.to_string()).await?;
            match error {
                ResolveError::DigestMismatch { .. } | ResolveError::OtherModel { .. } => again(),
                _ => Ok(Accepted::Not(Action::await_change())),
            }
        }
    }
}

/// The dataset that a job names, or says what is in the way.
async fn dataset(look: &Look<'_>, namespace: &Namespace, name: &str) -> Result<Option<Manifest>, Error> {
    let found = look.ctx.store.whole_dataset(namespace, name).await;
    let remedy = format!(
        "prepare one with `muster data prepare FILE... --out DIR` and push it with `muster data push {namespace}/{name} DIR`"
    );
    let told =
        Told { asset: Asset::Dataset, unknown: "UnknownDataset", invalid: "InvalidDataset", command: "data" };
    found_or_told(look, found, &told, (namespace, name), remedy).await
}

/// The model whose weights a job begins with, or says what is in the way.
async fn model(look: &Look<'_>, namespace: &Namespace, name: &str) -> Result<Option<hf::Manifest>, Error> {
    let found = look.ctx.store.whole_model(namespace, name).await;
    let remedy = format!("push one with `muster model push {namespace}/{name} DIR`");
    let told =
        Told { asset: Asset::Model, unknown: "UnknownModel", invalid: "InvalidModel", command: "model" };
    found_or_told(look, found, &told, (namespace, name), remedy).await
}

/// How people are told that a name is of no use.
struct Told {
    asset: Asset,
    /// Reason, where it leads nowhere.
    unknown: &'static str,
    /// Reason, where what it leads to is not whole.
    invalid: &'static str,
    /// Of `muster`, that pushes it.
    command: &'static str,
}

/// What was found under a name; `remedy` if nothing was.
async fn found_or_told<M>(
    look: &Look<'_>,
    found: std::io::Result<Option<M>>,
    told: &Told,
    (namespace, name): (&Namespace, &str),
    remedy: String,
) -> Result<Option<M>, Error> {
    let word = told.asset.word();
    match found {
        Ok(Some(manifest)) => return Ok(Some(manifest)),
        Ok(None) => {
            let there = match look.ctx.store.names(told.asset, namespace).await?.as_slice() {
                [] => "it has none yet".to_owned(),
                known => format!("it has: {}", known.join(", ")),
            };
            let text = format!(
                "no {word} {name} in the catalogue of namespace {} ({there}); {remedy}",
                namespace.name()
            );
            refuse(look, told.unknown, text).await?;
        }
        // Not for a retry to solve: a person must bring it again.
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            let remedy =
                format!("push it again with `muster {} push {namespace}/{name} DIR --replace`", told.command);
            refuse(look, told.invalid, format!("{word} {name}: {error}; {remedy}")).await?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(None)
}

/// The job's namespace as it lives now: what an earlier one of its name had is not the job's.
async fn living(look: &Look<'_>) -> Result<Option<Namespace>, Error> {
    let name = look.job.namespace().unwrap_or_default();
    let api: Api<core::Namespace> = Api::all(look.ctx.client.clone());
    // A watch may lag behind the job, and know only the earlier one.
    let living = async || {
        let found = within("get namespace", api.get_metadata_opt(&name)).await?;
        Ok(found.and_then(|namespace| namespace.metadata.uid))
    };
    let uid = look.ctx.namespaces.ask(&name, living).await?;
    Ok(uid.map(|uid| Namespace::new(&name, &uid)).transpose()?)
}

/// Logs the job.
async fn logged(
    look: &Look<'_>,
    resolved: &ResolvedStatus,
    training_digest: &str,
) -> Result<Accepted, Error> {
    let names = match grants::job(look.ctx, look.job, resolved, training_digest).await {
        Ok(names) => names,
        Err(error) => {
            let reason = match error.refusal() {
                Some("DigestMismatch") => "DigestMismatch",
                _ => LOG_UNAVAILABLE,
            };
            tracing::warn!(job = key(look.job), %error, "the job is not in the log");
            refuse(look, reason, error.to_string()).await?;
            return Ok(Accepted::Not(Action::requeue(LOG_AGAIN)));
        }
    };
    let mut new = said(look, Acceptance::Resolved(training_digest.to_owned()));
    new.training_digest = Some(training_digest.to_owned());
    new.resolved = Some(resolved.clone());
    new.job_id = Some(names.id.to_string());
    Ok(Accepted::Yes(Box::new(new)))
}

async fn refuse(look: &Look<'_>, reason: &str, message: String) -> Result<(), Error> {
    let new = said(look, Acceptance::No(reason.to_owned(), message));
    look.write(&new).await?;
    Ok(())
}

/// The status of a job of which only its acceptance is known.
fn said(look: &Look<'_>, accepted: Acceptance) -> TrainingJobStatus {
    let steps = u64::try_from(look.job.spec.training.steps).unwrap_or(0);
    let all = conditions::conditions(&View {
        leave: None,
        accepted,
        pause: Pause::Never,
        unit: None,
        unplaced: None,
        after: None,
        before: Before::Still,
        steps,
        stopped_at: None,
        durable_step: 0,
        stage: Stage::Training,
        audits: Audits::None,
        outcome: None,
    });
    status::with_conditions(look, &all, look.ctx.now())
}

#[cfg(test)]
mod tests;
