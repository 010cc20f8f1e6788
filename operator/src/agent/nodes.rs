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
    held: Nodes,
    nodes: List,
    pods: List,
}

/// One of the two lists that are followed.
#[derive(Debug, Default)]
struct List {
    /// What the list that is being read has named so far.
    named: BTreeSet<String>,
    standing: Listed,
}

#[derive(Debug, Default)]
enum Listed {
    /// Not whole: a sum would be too small, or too large.
    #[default]
    NotYet,
    Whole,
    /// Why it cannot be read, or not be followed any more.
    Not(String),
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
        match (&seen.nodes.standing, &seen.pods.standing) {
            (Listed::Whole, Listed::Whole) => {
                Standing::Known { nodes: seen.held.count(), room: seen.held.fits(Size::of_worker(worker)) }
            }
            (Listed::Not(why), _) | (_, Listed::Not(why)) => Standing::Unknown(why.clone()),
            _ => Standing::Unknown("nodes and pods are not listed yet".to_owned()),
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
        loop {
            let whole = tokio::select! {
                biased;
                event = nodes.next() => event.map(|event| self.take(event)),
                event = pods.next() => event.map(|event| self.take(event)),
            };
            match whole {
                None => return,
                Some(true) => units.changed.notify_one(),
                Some(false) => {}
            }
        }
    }

    /// Whether a list is whole with this.
    fn take<K: Counted>(&self, event: Result<watcher::Event<K>, watcher::Error>) -> bool {
        let mut seen = self.seen();
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "offer.observe: nodes and pods are not followed at present");
                if lasts(&error) {
                    K::list(&mut seen).standing = Listed::Not(format!(
                        "offer.observe: {error}; the agent needs the rights that `muster rbac observe` prints"
                    ));
                }
                return false;
            }
        };
        match event {
            watcher::Event::Init => K::list(&mut seen).named.clear(),
            watcher::Event::InitApply(object) => {
                K::list(&mut seen).named.insert(object.key());
                object.count(&mut seen.held);
            }
            watcher::Event::Apply(object) => {
                object.count(&mut seen.held);
                return K::list(&mut seen).goes_on();
            }
            watcher::Event::Delete(object) => {
                object.forget(&mut seen.held);
                return K::list(&mut seen).goes_on();
            }
            watcher::Event::InitDone => {
                let list = K::list(&mut seen);
                list.standing = Listed::Whole;
                let named = std::mem::take(&mut list.named);
                K::only(&mut seen.held, &named);
                return true;
            }
        }
        false
    }
}

impl List {
    /// A change was heard: a watch that could not be started has. Whether that is news.
    fn goes_on(&mut self) -> bool {
        let news = matches!(self.standing, Listed::Not(_));
        if news {
            self.standing = Listed::Whole;
        }
        news
    }
}

/// Whether what is known grows old with it. A watch that breaks is resumed where it was, without a new list and without a word,
/// so that only what does not pass by itself counts: no list, or no right (or no kind) to watch.
fn lasts(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(_) => true,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 401 | 403 | 404),
        _ => false,
    }
}

/// An object that counts for what nodes have room for.
trait Counted: Clone + 'static {
    fn list(seen: &mut Seen) -> &mut List;
    fn key(&self) -> String;
    fn count(&self, held: &mut Nodes);
    fn forget(&self, held: &mut Nodes);
    fn only(held: &mut Nodes, keys: &BTreeSet<String>);
}

impl Counted for Node {
    fn list(seen: &mut Seen) -> &mut List {
        &mut seen.nodes
    }

    fn key(&self) -> String {
        self.name_any()
    }

    fn count(&self, held: &mut Nodes) {
        held.node(&self.key(), allocatable(self));
    }

    fn forget(&self, held: &mut Nodes) {
        held.node(&self.key(), None);
    }

    fn only(held: &mut Nodes, keys: &BTreeSet<String>) {
        held.only_nodes(keys);
    }
}

impl Counted for Pod {
    fn list(seen: &mut Seen) -> &mut List {
        &mut seen.pods
    }

    fn key(&self) -> String {
        self.uid().unwrap_or_default()
    }

    fn count(&self, held: &mut Nodes) {
        held.pod(&self.key(), taken(self));
    }

    fn forget(&self, held: &mut Nodes) {
        held.pod(&self.key(), None);
    }

    fn only(held: &mut Nodes, keys: &BTreeSet<String>) {
        held.only_pods(keys);
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

    fn list<K: Counted>(observed: &Observed, objects: Vec<K>) {
        assert!(!observed.take::<K>(Ok(watcher::Event::Init)));
        for object in objects {
            assert!(!observed.take(Ok(watcher::Event::InitApply(object))));
        }
        assert!(observed.take::<K>(Ok(watcher::Event::InitDone)));
    }

    #[test]
    fn nothing_is_said_before_both_lists_are_whole() {
        let observed = Observed::default();
        let unknown = |observed: &Observed| matches!(room(observed), Standing::Unknown(_));
        assert!(unknown(&observed));
        list(&observed, vec![node("n", |_| ())]);
        assert!(unknown(&observed));
        list(&observed, vec![pod("a", "Running", "1500m")]);
        assert_eq!(room(&observed), Standing::Known { nodes: 1, room: 2 });
        observed.take(Ok(watcher::Event::Apply(pod("a", "Succeeded", "1500m"))));
        assert_eq!(room(&observed), Standing::Known { nodes: 1, room: 4 }, "it holds nothing any more");
        list::<Node>(&observed, Vec::new());
        assert_eq!(room(&observed), Standing::Known { nodes: 0, room: 0 }, "a new list without it");
    }

    fn said(code: u16) -> kube::Error {
        let status = json!({"status": "Failure", "message": "no", "reason": "", "code": code});
        kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
    }

    /// A watch that breaks begins again where it was: no list, and perhaps no event for hours.
    #[test]
    fn a_watch_that_breaks_and_resumes_says_nothing() {
        let observed = Observed::default();
        let known = Standing::Known { nodes: 1, room: 4 };
        list(&observed, vec![node("n", |_| ())]);
        list::<Pod>(&observed, Vec::new());
        for error in [
            watcher::Error::WatchFailed(said(500)),
            watcher::Error::WatchStartFailed(said(503)),
            watcher::Error::WatchError(Box::new(serde_json::from_value(json!({"code": 410})).unwrap())),
        ] {
            assert!(!observed.take::<Pod>(Err(error)));
            assert_eq!(room(&observed), known);
        }
    }

    #[test]
    fn a_list_that_cannot_be_read_is_said_until_it_can() {
        for error in [watcher::Error::InitialListFailed, watcher::Error::WatchStartFailed] {
            let observed = Observed::default();
            list(&observed, vec![node("n", |_| ())]);
            list::<Pod>(&observed, Vec::new());
            observed.take::<Pod>(Err(error(said(403))));
            list(&observed, vec![node("n", |_| ())]);
            let Standing::Unknown(why) = room(&observed) else { panic!("the other list is not this one") };
            assert!(why.contains("muster rbac observe"), "{why}");
            assert!(observed.take(Ok(watcher::Event::Apply(pod("a", "Running", "1")))), "it is heard again");
            assert_eq!(room(&observed), Standing::Known { nodes: 1, room: 3 });
        }
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
