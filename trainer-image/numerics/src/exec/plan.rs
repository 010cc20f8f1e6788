//! The buffer plan: every activation, statistic and activation gradient gets a place in one flat
//! buffer, once, from the graph alone. Places are shared by what is never alive together.

use std::ops::Range;

use super::ExecError;
use crate::graph::Graph;

/// Alignment of places in elements: one cache line.
const ALIGN: usize = 16;

/// Where things lie. Offsets are for the largest number of rows; fewer rows use a prefix.
#[derive(Debug)]
pub(super) struct Plan {
    /// Offset of each value.
    pub values: Vec<usize>,
    /// Offset of each node's saved statistics.
    pub saved: Vec<usize>,
    /// Offset of each value's gradient; unused for the loss.
    pub gradients: Vec<usize>,
    /// For each node and input: where a gradient contribution goes that is not the first of its value,
    /// to be added afterwards.
    pub staged: Vec<Vec<Option<usize>>>,
    /// For each node and parameter: whether its gradient already holds the contribution of a later node.
    pub held: Vec<Vec<bool>>,
    /// Elements of the flat buffer.
    pub elements: usize,
}

/// A place to be found, alive from time `from` to time `to`, both included.
struct Lifetime {
    from: usize,
    to: usize,
    elements: usize,
    slot: Slot,
}

enum Slot {
    Value(usize),
    Saved(usize),
    Gradient(usize),
    Staged(usize, usize),
}

impl Plan {
    /// Plans for `rows` rows. Time runs 0 .. N over the forward nodes, then back.
    pub(super) fn new(graph: &Graph, rows: usize) -> Result<Plan, ExecError> {
        let nodes = graph.nodes();
        let forward = |node: usize| node;
        let backward = |node: usize| 2 * nodes.len() - 1 - node;
        let too_large = ExecError::TooLarge { rows };
        let size = |width: usize| rows.checked_mul(width).ok_or(too_large.clone());

        let mut wanted = vec![];
        for (id, &width) in graph.values().iter().enumerate() {
            let mut to = 0;
            let mut first_gradient = None;
            for (i, node) in nodes.iter().enumerate() {
                let (needs, reads) = (node.op.needs(), node.inputs.contains(&id));
                if reads || node.output == id {
                    to = to.max(forward(i));
                }
                if (reads && needs.inputs) || (node.output == id && needs.output) {
                    to = to.max(backward(i));
                }
                if reads {
                    // The last reader in forward order contributes first.
                    first_gradient = Some(backward(i));
                }
            }
            let from =
                nodes.iter().position(|n| n.output == id).ok_or(ExecError::Internal("value without node"))?;
            wanted.push(Lifetime { from: forward(from), to, elements: size(width)?, slot: Slot::Value(id) });
            if let Some(first) = first_gradient {
                let slot = Slot::Gradient(id);
                wanted.push(Lifetime { from: first, to: backward(from), elements: size(width)?, slot });
            }
        }
        let mut staged = vec![];
        for (i, node) in nodes.iter().enumerate() {
            let elements = size(node.op.saved_width())?;
            wanted.push(Lifetime { from: forward(i), to: backward(i), elements, slot: Slot::Saved(i) });
            for (k, input) in node.inputs.iter().enumerate() {
                let contributed_before = nodes[i + 1..].iter().any(|later| later.inputs.contains(input))
                    || node.inputs[..k].contains(input);
                if contributed_before {
                    let (at, elements) = (backward(i), size(graph.values()[*input])?);
                    wanted.push(Lifetime { from: at, to: at, elements, slot: Slot::Staged(i, k) });
                }
            }
            staged.push(vec![None; node.inputs.len()]);
        }

        let mut plan = Plan {
            values: vec![0; graph.values().len()],
            saved: vec![0; nodes.len()],
            gradients: vec![0; graph.values().len()],
            staged,
            held: vec![],
            elements: 0,
        };
        plan.place(wanted, too_large)?;
        plan.share_parameters(graph)?;
        Ok(plan)
    }

    /// First fit, largest first: simple, and within a few per cent of the best on these graphs.
    fn place(&mut self, mut wanted: Vec<Lifetime>, too_large: ExecError) -> Result<(), ExecError> {
        wanted.sort_by_key(|w| std::cmp::Reverse(w.elements));
        let mut placed: Vec<(Range<usize>, Range<usize>)> = vec![]; // (offsets, time)
        for want in wanted {
            let mut taken: Vec<&Range<usize>> = placed
                .iter()
                .filter(|(_, time)| time.start <= want.to && want.from < time.end)
                .map(|(offsets, _)| offsets)
                .collect();
            taken.sort_by_key(|r| r.start);
            let mut offset = 0;
            for other in taken {
                if offset + want.elements <= other.start {
                    break;
                }
                offset = offset.max(other.end.next_multiple_of(ALIGN));
            }
            let end = offset.checked_add(want.elements).filter(|&end| end < isize::MAX as usize / 64);
            let end = end.ok_or(too_large.clone())?;
            self.elements = self.elements.max(end);
            placed.push((offset..end, want.from..want.to + 1));
            match want.slot {
                Slot::Value(id) => self.values[id] = offset,
                Slot::Saved(node) => self.saved[node] = offset,
                Slot::Gradient(id) => self.gradients[id] = offset,
                Slot::Staged(node, k) => self.staged[node][k] = Some(offset),
            }
        }
        Ok(())
    }

    /// A tensor that several nodes use gets its first contribution from the last of them, and the others add to it.
    fn share_parameters(&mut self, graph: &Graph) -> Result<(), ExecError> {
        for (i, node) in graph.nodes().iter().enumerate() {
            let later = |id| graph.nodes()[i + 1..].iter().any(|n| n.op.parameters().contains(&id));
            let held: Vec<bool> = node.op.parameters().into_iter().map(later).collect();
            if held.iter().enumerate().any(|(k, held)| *held && !node.op.adds(k)) {
                return Err(ExecError::Internal("a shared tensor whose op cannot add to its gradient"));
            }
            self.held.push(held);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::StepShape;
    use crate::spec::{Architecture, Arithmetic, ModelSpec, TiedEmbeddings};

    #[test]
    fn reuses_memory_and_stages_only_second_contributions() {
        let model = ModelSpec {
            architecture: Architecture::Gpt2,
            layers: 3,
            width: 32,
            heads: 2,
            context: 8,
            vocabulary: 10,
            tied_embeddings: TiedEmbeddings::Tied,
            llama: None,
        };
        let graph = Graph::build(&model, StepShape { batch: 2, shards: 1 }, Arithmetic::F32Chain).unwrap();
        let plan = Plan::new(&graph, 16).unwrap();
        let everything: usize = graph.values().iter().map(|w| 2 * 16 * w).sum();
        assert!(plan.elements < everything * 3 / 4, "{} of {everything}", plan.elements);
        // The residual stream is read by a norm and by an add; the add comes later, so first.
        let staged: Vec<&str> = graph
            .nodes()
            .iter()
            .zip(&plan.staged)
            .filter(|(_, s)| s.iter().any(Option::is_some))
            .map(|(n, _)| n.name.as_str())
            .collect();
        assert_eq!(staged, ["h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "h.2.ln_1", "h.2.ln_2"]);
        assert_eq!(plan.held[0], [true, false], "the embedding adds to the head's gradient");
        assert!(plan.held[1..].iter().flatten().all(|held| !held));
    }
}
