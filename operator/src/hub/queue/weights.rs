//! How much of what is lent a tenant may have, beside others: label `muster.dev/weight` of its namespace.
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use muster_api::names::labels;
use muster_core::queue::WEIGHT;

use crate::runtime::patience::Patience;

/// The greatest one.
pub const MOST: u32 = 1_000_000;

/// As they were last seen.
#[derive(Debug, Default)]
pub(super) struct Weights(Mutex<BTreeMap<String, u32>>);

impl Weights {
    /// By namespace; of those that have one.
    pub fn all(&self) -> BTreeMap<String, u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, u32>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The weight that a namespace's label says; what is none counts as the one that all others have.
fn weight(namespace: &PartialObjectMeta<Namespace>) -> u32 {
    let text = namespace.labels().get(labels::WEIGHT).map_or("", String::as_str);
    match text.parse() {
        Ok(weight) if (1..=MOST).contains(&weight) => weight,
        _ => {
            let namespace = namespace.name_any();
            tracing::warn!(
                namespace,
                text,
                "label muster.dev/weight is not a number from 1 to {MOST}; it counts as {WEIGHT}"
            );
            WEIGHT
        }
    }
}

/// Follows the labels for ever.
pub(super) async fn follow(client: Client, weights: &Weights, changed: impl Fn()) {
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let labelled = watcher::Config::default().labels(labels::WEIGHT);
    let events = watcher(api, labelled).backoff(Patience::default());
    pin_mut!(events);
    let mut listed = BTreeMap::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(one)) => _ = listed.insert(one.name_any(), weight(&one)),
            Ok(watcher::Event::InitDone) => weights.change(|all| *all = std::mem::take(&mut listed)),
            Ok(watcher::Event::Apply(one)) => {
                weights.change(|all| _ = all.insert(one.name_any(), weight(&one)))
            }
            Ok(watcher::Event::Delete(one)) => weights.change(|all| _ = all.remove(&one.name_any())),
            Err(error) => {
                tracing::debug!(%error, "weights of tenants");
                continue;
            }
        }
        changed();
    }
}
