//! Mode Observe: what this cluster's nodes have room for, by watching nodes and pods. Only where the policy asks for it
//! (`offer.observe`); it takes rights that the agent has not otherwise (`rbac::OBSERVE`). Counting is `muster_core::nodes`'s.
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Container, Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use muster_core::nodes::{Init, Nodes, Size, of_pod};
use muster_core::quota::Amounts;

use super::policy::Policies;
use super::units::Units;
use crate::runtime::Shutdown;

/// How often the policy is asked whether to look.
const LOOK: Duration = Duration::from_secs(2);
/// Nodes and pods come in pages of so many.
const PAGE: u32 = 500;

/// What was seen of the nodes.
#[derive(Debug, Default)]
pub struct Observed(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    nodes: Nodes,
    /// Both lists are whole: before that a sum would be too small, or too large.
    nodes_known: bool,
    pods_known: bool,
    /// Why nothing is known.
    trouble: Option<String>,
}

/// What can be said of the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// How many nodes there are for workers, and how many more workers fit.
    Known {
        /// Nodes.
        nodes: usize,
        /// Workers.
        room: i64,
    },
    /// Why nothing.
    Unknown(String),
}

impl Observed {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more workers of this size fit.
    #[must_use]
    pub fn room(&self, worker: &Amounts) -> Standing {
        let seen = self.seen();
        match (&seen.trouble, seen.nodes_known && seen.pods_known) {
            (None, true) => {
                Standing::Known { nodes: seen.nodes.count(), room: seen.nodes.fits(Size::of_worker(worker)) }
            }
            (Some(trouble), _) => Standing::Unknown(trouble.clone()),
            (None, false) => Standing::Unknown("nodes and pods are not listed yet".to_owned()),
        }
    }

    /// Follows nodes and pods while the policy asks for it, until `shutdown`.
    pub async fn follow(
        self: Arc<Self>,
        client: Client,
        policies: Arc<Policies>,
        units: Arc<Units>,
        shutdown: Shutdown,
    ) {
        let asked = || policies.current().observes();
        loop {
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            if !asked() {
                continue;
            }
            let ended = async {
                while asked() {
                    tokio::time::sleep(LOOK).await;
                }
            };
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                () = ended => {}
                () = self.watch(&client, &units) => {}
            }
            *self.seen() = Seen::default();
        }
    }

    async fn watch(&self, client: &Client, units: &Units) {
        let config = || watcher::Config::default().page_size(PAGE);
        let mut nodes = watcher(Api::<Node>::all(client.clone()), config()).default_backoff().boxed();
        let mut pods = watcher(Api::<Pod>::all(client.clone()), config()).default_backoff().boxed();
        let (mut listed_nodes, mut listed_pods) = (BTreeSet::new(), BTreeSet::new());
        loop {
            let done = tokio::select! {
                biased;
                event = nodes.next() => event.map(|event| self.node(event, &mut listed_nodes)),
                event = pods.next() => event.map(|event| self.pod(event, &mut listed_pods)),
            };
            match done {
                None => return,
                Some(Ok(true)) => units.changed.notify_one(),
                Some(Ok(false)) => {}
                Some(Err(error)) => {
                    tracing::warn!(%error, "offer.observe: cannot follow nodes and pods");
                    let text = format!(
                        "offer.observe: {error}; the agent needs the rights that `muster rbac observe` prints"
                    );
                    self.seen().trouble = Some(text);
                }
            }
        }
    }

    /// Whether that ends a list.
    fn node(
        &self,
        event: Result<watcher::Event<Node>, watcher::Error>,
        listed: &mut BTreeSet<String>,
    ) -> Result<bool, watcher::Error> {
        let mut seen = self.seen();
        match event? {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(node) => {
                listed.insert(node.name_any());
                seen.nodes.node(&node.name_any(), allocatable(&node));
            }
            watcher::Event::Apply(node) => seen.nodes.node(&node.name_any(), allocatable(&node)),
            watcher::Event::Delete(node) => seen.nodes.node(&node.name_any(), None),
            watcher::Event::InitDone => {
                seen.nodes.only_nodes(&std::mem::take(listed));
                (seen.nodes_known, seen.trouble) = (true, None);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn pod(
        &self,
        event: Result<watcher::Event<Pod>, watcher::Error>,
        listed: &mut BTreeSet<String>,
    ) -> Result<bool, watcher::Error> {
        let mut seen = self.seen();
        let uid = |pod: &Pod| pod.uid().unwrap_or_default();
        match event? {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(pod) => {
                listed.insert(uid(&pod));
                seen.nodes.pod(&uid(&pod), taken(&pod));
            }
            watcher::Event::Apply(pod) => seen.nodes.pod(&uid(&pod), taken(&pod)),
            watcher::Event::Delete(pod) => seen.nodes.pod(&uid(&pod), None),
            watcher::Event::InitDone => {
                seen.nodes.only_pods(&std::mem::take(listed));
                (seen.pods_known, seen.trouble) = (true, None);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What a node can give; `None` if the template's pods cannot run there.
fn allocatable(node: &Node) -> Option<Size> {
    let (spec, status) = (node.spec.as_ref()?, node.status.as_ref()?);
    // Workers tolerate nothing but a node's short absence.
    let repels =
        spec.taints.iter().flatten().any(|taint| matches!(&*taint.effect, "NoSchedule" | "NoExecute"));
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    if spec.unschedulable == Some(true) || repels || !ready || node.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let amount = |name: &str| status.allocatable.as_ref()?.get(name).map(|quantity| &*quantity.0);
    Some(Size::read(amount("cpu"), amount("memory"), amount("pods")))
}

/// What a pod takes, and of which node; `None` if it has none yet, or is over.
fn taken(pod: &Pod) -> Option<(String, Size)> {
    let spec = pod.spec.as_ref()?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let node = spec.node_name.clone()?;
    let init: Vec<Init> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| match container.restart_policy.as_deref() {
            Some("Always") => Init::Sidecar(requests(container)),
            _ => Init::Once(requests(container)),
        })
        .collect();
    let containers: Vec<Size> = spec.containers.iter().map(requests).collect();
    Some((node, of_pod(&init, &containers, size(spec.overhead.as_ref()))))
}

fn requests(container: &Container) -> Size {
    size(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

fn size(amounts: Option<&std::collections::BTreeMap<String, Quantity>>) -> Size {
    let amount = |name: &str| amounts?.get(name).map(|quantity| &*quantity.0);
    Size::read(amount("cpu"), amount("memory"), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, change: impl Fn(&mut Value)) -> Node {
        let mut node = json!({
            "metadata": {"name": name}, "spec": {},
            "status": {
                "allocatable": {"cpu": "4", "memory": "16Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        change(&mut node);
        serde_json::from_value(node).unwrap()
    }

    fn pod(uid: &str, phase: &str, cpu: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn room(observed: &Observed) -> Standing {
        observed.room(&muster_core::quota::of_worker("900m", "768Mi").unwrap())
    }

    #[test]
    fn nothing_is_said_before_both_lists_are_whole() {
        let observed = Observed::default();
        let (mut nodes, mut pods) = (BTreeSet::new(), BTreeSet::new());
        let unknown = |observed: &Observed| matches!(room(observed), Standing::Unknown(_));
        for event in [watcher::Event::Init, watcher::Event::InitApply(node("n", |_| ()))] {
            assert!(!observed.node(Ok(event), &mut nodes).unwrap());
        }
        assert!(observed.node(Ok(watcher::Event::InitDone), &mut nodes).unwrap() && unknown(&observed));
        observed.pod(Ok(watcher::Event::Init), &mut pods).unwrap();
        observed.pod(Ok(watcher::Event::InitApply(pod("a", "Running", "1500m"))), &mut pods).unwrap();
        observed.pod(Ok(watcher::Event::InitDone), &mut pods).unwrap();
        assert_eq!(room(&observed), Standing::Known { nodes: 1, room: 2 });
        observed.pod(Ok(watcher::Event::Apply(pod("a", "Succeeded", "1500m"))), &mut pods).unwrap();
        assert_eq!(room(&observed), Standing::Known { nodes: 1, room: 4 }, "it holds nothing any more");
        observed.node(Ok(watcher::Event::Init), &mut nodes).unwrap();
        observed.node(Ok(watcher::Event::InitDone), &mut nodes).unwrap();
        assert_eq!(room(&observed), Standing::Known { nodes: 0, room: 0 }, "a new list without it");
    }

    #[test]
    fn nodes_that_workers_cannot_have_do_not_count() {
        assert!(allocatable(&node("n", |_| ())).is_some());
        for (field, value) in [
            ("/spec", json!({"unschedulable": true})),
            ("/spec", json!({"taints": [{"key": "gpu", "effect": "NoSchedule"}]})),
            ("/status/conditions/0/status", json!("Unknown")),
        ] {
            let node = node("n", |node| *node.pointer_mut(field).unwrap() = value.clone());
            assert_eq!(allocatable(&node), None, "{value}");
        }
        let mild = json!({"taints": [{"key": "gpu", "effect": "PreferNoSchedule"}]});
        assert!(allocatable(&node("n", |node| node["spec"] = mild.clone())).is_some());
    }
}
