//! Audit objects: written when what they say has changed, removed when there are too many. The log is the record; an object
//! that is lost is written again by the next hub.
use std::collections::{BTreeMap, BTreeSet};

use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt};
use muster_api::names::labels;
use muster_api::v1alpha1::{Audit, TrainingJob};
use muster_proof::Digest;
use muster_proof::history::AuditView;

use super::object::{kept, object, status};
use crate::hub::apply;
use crate::hub::context::Context;
use crate::hub::error::Error;
use crate::runtime::client::within;

/// What the log does not say of an audit.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// By draw, the unit that replays for it.
    pub units: &'a BTreeMap<Digest, String>,
    /// Why nobody can be asked, if that is so.
    pub no_auditor: Option<&'a str>,
}

/// Writes what differs from `written`, which becomes what is there.
///
/// # Errors
/// The API server's; then everything is read again.
pub async fn settle(
    ctx: &Context,
    job: &TrainingJob,
    audits: &[AuditView],
    names: Names<'_>,
    written: &mut Option<BTreeMap<String, Audit>>,
) -> Result<(), Error> {
    let namespace = job.namespace().ok_or(Error::Incomplete("TrainingJob", "namespace"))?;
    let api: Api<Audit> = Api::namespaced(ctx.client.clone(), &namespace);
    let mut there = match written.take() {
        Some(there) => there,
        None => read(ctx, &namespace, &job.uid().unwrap_or_default()).await?,
    };
    let mut stay = BTreeSet::new();
    for audit in kept(audits) {
        let new = object(job, audit);
        let name = new.name_any();
        let unit = names.units.get(&audit.draw).map(String::as_str);
        let status_of = |there: &Audit| status(audit, there, unit, names.no_auditor, ctx.now());
        let same = |old: &Audit| old.spec == new.spec && old.status.as_ref() == Some(&status_of(old));
        if !there.get(&name).is_some_and(same) {
            let mut made = apply::apply(&api, "audit", &name, &new).await?;
            let said = status_of(&made);
            apply::status(&api, "audit", &made, &made.status.clone().unwrap_or_default(), &said).await?;
            made.status = Some(said);
            there.insert(name.clone(), made);
        }
        stay.insert(name);
    }
    let gone: Vec<String> = there.keys().filter(|object| !stay.contains(*object)).cloned().collect();
    for object in gone {
        let uid = there.remove(&object).and_then(|audit| audit.uid());
        apply::delete(&api, "audit", &object, uid).await?;
    }
    *written = Some(there);
    Ok(())
}

async fn read(ctx: &Context, namespace: &str, uid: &str) -> Result<BTreeMap<String, Audit>, Error> {
    let api: Api<DeserializeGuard<Audit>> = Api::namespaced(ctx.client.clone(), namespace);
    let mine = ListParams::default().labels(&format!("{}={uid}", labels::JOB_UID));
    let list = within("list audits", api.list(&mine)).await?;
    let found = list.items.into_iter().filter_map(|audit| audit.0.ok());
    Ok(found.map(|audit| (audit.name_any(), audit)).collect())
}
