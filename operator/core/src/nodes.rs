//! What a member's nodes have room for, where its provider lets the agent look at them (mode Observe). Requests are counted as the
//! scheduler counts them; of a pod only its node and its requests are kept.
use std::collections::BTreeMap;

use crate::quota::{Amounts, thousandths};

/// What a node has, or a pod asks for, in thousandths of a core, a byte and a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Cores.
    pub cpu: i128,
    /// Bytes.
    pub memory: i128,
    /// Pods.
    pub pods: i128,
}

impl Size {
    /// From quantities; what is missing or cannot be read counts as nothing.
    #[must_use]
    pub fn read(cpu: Option<&str>, memory: Option<&str>, pods: Option<&str>) -> Self {
        let amount = |text: Option<&str>| text.and_then(thousandths).unwrap_or(0);
        Self { cpu: amount(cpu), memory: amount(memory), pods: amount(pods) }
    }

    /// One worker, as a quota counts it.
    #[must_use]
    pub fn of_worker(worker: &Amounts) -> Self {
        let amount = |name| worker.get(name).copied().unwrap_or(0);
        Self { cpu: amount("requests.cpu"), memory: amount("requests.memory"), pods: 1000 }
    }

    fn plus(self, other: Self) -> Self {
        let add = i128::saturating_add;
        Self {
            cpu: add(self.cpu, other.cpu),
            memory: add(self.memory, other.memory),
            pods: add(self.pods, other.pods),
        }
    }

    fn most(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.max(other.cpu),
            memory: self.memory.max(other.memory),
            pods: self.pods.max(other.pods),
        }
    }
}

/// One of a pod's init containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// Ends before the next one starts.
    Once(Size),
    /// Runs on beside all that follow: a native sidecar.
    Sidecar(Size),
}

/// What a pod takes of its node.
///
/// Source: Kubernetes, "Sidecar Containers", Resource sharing within containers; `overhead` is its RuntimeClass's.
#[must_use]
pub fn of_pod(init: &[Init], containers: &[Size], overhead: Size) -> Size {
    let (mut beside, mut most) = (Size::default(), Size::default());
    for one in init {
        match *one {
            Init::Once(size) => most = most.most(size.plus(beside)),
            Init::Sidecar(size) => {
                beside = beside.plus(size);
                most = most.most(beside);
            }
        }
    }
    let running = containers.iter().fold(beside, |sum, size| sum.plus(*size));
    Size { pods: 1000, ..most.most(running).plus(overhead) }
}

/// Nodes that workers may run on, and what runs there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nodes {
    nodes: BTreeMap<String, Size>,
    pods: BTreeMap<String, (String, Size)>,
}

impl Nodes {
    /// A node and what it can give to pods; `None` if no worker may run there.
    pub fn node(&mut self, name: &str, allocatable: Option<Size>) {
        match allocatable {
            Some(size) => self.nodes.insert(name.to_owned(), size),
            None => self.nodes.remove(name),
        };
    }

    /// A pod on its node; `None` if it takes nothing (any more).
    pub fn pod(&mut self, uid: &str, on: Option<(String, Size)>) {
        match on {
            Some(on) => self.pods.insert(uid.to_owned(), on),
            None => self.pods.remove(uid),
        };
    }

    /// Nodes that are left after a new list, which these names are.
    pub fn only_nodes(&mut self, names: &std::collections::BTreeSet<String>) {
        self.nodes.retain(|name, _| names.contains(name));
    }

    /// The same of pods, by their uids.
    pub fn only_pods(&mut self, uids: &std::collections::BTreeSet<String>) {
        self.pods.retain(|uid, _| uids.contains(uid));
    }

    /// How many nodes workers may run on.
    #[must_use]
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// How many more workers of this size fit, each on one node.
    #[must_use]
    pub fn fits(&self, worker: Size) -> i64 {
        let mut held: BTreeMap<&str, Size> = BTreeMap::new();
        for (node, size) in self.pods.values() {
            let sum = held.entry(node).or_default();
            *sum = sum.plus(*size);
        }
        let room = |(name, has): (&String, &Size)| {
            let held = held.get(name.as_str()).copied().unwrap_or_default();
            let of = |has: i128, held: i128, each: i128| match each {
                0 => i128::MAX,
                each => (has - held).max(0) / each,
            };
            let cpu = of(has.cpu, held.cpu, worker.cpu);
            cpu.min(of(has.memory, held.memory, worker.memory)).min(of(has.pods, held.pods, worker.pods))
        };
        let all = self.nodes.iter().map(room).fold(0, i128::saturating_add);
        i64::try_from(all).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(cpu: &str, memory: &str) -> Size {
        Size::read(Some(cpu), Some(memory), None)
    }

    #[test]
    fn workers_fit_node_by_node() {
        let mut nodes = Nodes::default();
        let worker = Size { pods: 1000, ..size("1", "1Gi") };
        assert_eq!(nodes.fits(worker), 0);
        nodes.node("a", Some(Size::read(Some("2500m"), Some("64Gi"), Some("110"))));
        nodes.node("b", Some(Size::read(Some("2500m"), Some("1500Mi"), Some("110"))));
        assert_eq!(nodes.fits(worker), 3, "five cores in all, and half a core on each is of no use");
        nodes.pod("1", Some(("a".into(), Size { pods: 1000, ..size("600m", "1Gi") })));
        nodes.pod("2", Some(("elsewhere".into(), size("100", "1Ti"))));
        assert_eq!(nodes.fits(worker), 2);
        nodes.node("b", None);
        assert_eq!((nodes.fits(worker), nodes.count()), (1, 1));
        nodes.pod("1", None);
        nodes.node("a", Some(Size::read(Some("2500m"), Some("64Gi"), Some("1"))));
        assert_eq!(nodes.fits(worker), 1, "a node has places for so many pods");
        nodes.pod("3", Some(("a".into(), size("900", "1Ti"))));
        assert_eq!(nodes.fits(worker), 0, "more is taken than there is");
    }

    #[test]
    fn a_pod_takes_what_the_scheduler_says() {
        let none = Size::default();
        let of = |init: &[Init], containers: &[Size]| of_pod(init, containers, none).cpu;
        let [one, two, five] = ["1", "2", "5"].map(|cpu| size(cpu, "0"));
        assert_eq!(of(&[], &[one, two]), 3000);
        assert_eq!(of(&[Init::Once(five)], &[one, two]), 5000, "before the others, not beside them");
        assert_eq!(of(&[Init::Sidecar(two), Init::Once(five)], &[one]), 7000);
        assert_eq!(of(&[Init::Once(five), Init::Sidecar(two)], &[one]), 5000);
        assert_eq!(of(&[Init::Sidecar(two)], &[one, one]), 4000);
        assert_eq!(of_pod(&[], &[one], size("250m", "0")).cpu, 1250);
    }

    #[test]
    fn what_a_new_list_does_not_have_is_gone() {
        let mut nodes = Nodes::default();
        nodes.node("a", Some(size("1", "1Gi")));
        nodes.pod("1", Some(("a".into(), none())));
        nodes.only_nodes(&["b".to_owned()].into());
        nodes.only_pods(&["2".to_owned()].into());
        assert_eq!(nodes, Nodes::default());
    }

    fn none() -> Size {
        Size::default()
    }
}
