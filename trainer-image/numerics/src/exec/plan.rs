//! The plan of a step: in which order nodes run forward and back, and where in one flat buffer every
//! activation, statistic and activation gradient lies. Made once, from the graph alone. Places are shared
//! by what is never alive together.

use std::ops::Range;

use super::{ExecError, Recompute};
use crate::graph::Graph;

/// Alignment of places in elements: one cache line.
const ALIGN: usize = 16;

/// A step as a list. Offsets are for the largest number of rows; fewer rows use a prefix.
#[derive(Debug)]
pub(super) struct Plan {
    pub actions: Vec<Action>,
    /// How many of the actions are the way forward; backward follows, and forward again before it.
    pub forward: usize,
    /// For each node and parameter: whether its gradient already holds the contribution of a later node.
    pub held: Vec<Vec<bool>>,
    /// Elements of the flat buffer.
    pub elements: usize,
}

/// One node, forward or backward, and the offsets of what it reads and writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Action {
    pub node: usize,
    pub backward: bool,
    pub inputs: Vec<usize>,
    pub output: usize,
    pub saved: usize,
    /// Backward only, and not of the loss.
    pub d_output: usize,
    /// Backward only.
    pub d_inputs: Vec<Contribution>,
}

/// Where the gradient of an input goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contribution {
    /// Where it is made.
    pub made: usize,
    /// What it is added to then, unless it is the first of its value.
    pub sum: Option<usize>,
}

/// A place to be found, alive from action `from` to action `to`, both included.
struct Place {
    from: usize,
    to: usize,
    elements: usize,
}

/// What is alive while the actions are gone through.
struct Walk<'a> {
    graph: &'a Graph,
    rows: usize,
    places: Vec<Place>,
    /// The place of each value, since it was last computed.
    values: Vec<Option<usize>>,
    saved: Vec<Option<usize>>,
    gradients: Vec<Option<usize>>,
}

impl Plan {
    /// Plans for `rows` rows.
    pub(super) fn new(graph: &Graph, rows: usize, recompute: Recompute) -> Result<Plan, ExecError> {
        let mut walk = Walk {
            graph,
            rows,
            places: vec![],
            values: vec![None; graph.values().len()],
            saved: vec![None; graph.nodes().len()],
            gradients: vec![None; graph.values().len()],
        };
        let order = order(graph, recompute);
        let mut actions = vec![];
        for (at, (node, backward)) in order.into_iter().enumerate() {
            actions.push(if backward { walk.backward(at, node)? } else { walk.forward(at, node)? });
        }
        let mut plan = Plan { actions, forward: graph.nodes().len(), held: vec![], elements: 0 };
        plan.place(walk.places, rows)?;
        plan.share_parameters(graph)?;
        Ok(plan)
    }

    /// First fit, largest first: simple, and within a few per cent of the best on these graphs. Then the actions'
    /// numbers of places become offsets.
    fn place(&mut self, places: Vec<Place>, rows: usize) -> Result<(), ExecError> {
        let mut offsets = vec![0; places.len()];
        let mut wanted: Vec<(usize, Place)> = places.into_iter().enumerate().collect();
        wanted.sort_by_key(|(_, w)| std::cmp::Reverse(w.elements));
        let mut placed: Vec<(Range<usize>, Range<usize>)> = vec![]; // (offsets, time)
        for (number, want) in wanted {
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
            let end = end.ok_or(ExecError::TooLarge { rows })?;
            self.elements = self.elements.max(end);
            placed.push((offset..end, want.from..want.to + 1));
            offsets[number] = offset;
        }
        for action in &mut self.actions {
            let inputs = action.inputs.iter_mut();
            for place in inputs.chain([&mut action.output, &mut action.saved, &mut action.d_output]) {
                *place = offsets[*place];
            }
            for contribution in &mut action.d_inputs {
                contribution.made = offsets[contribution.made];
                contribution.sum = contribution.sum.map(|sum| offsets[sum]);
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

/// (node, backward) of every action. All nodes forward, then all back; a layer that is recomputed runs forward once
/// more before it runs back, as far as that reads it. The last layer has only just been computed.
fn order(graph: &Graph, recompute: Recompute) -> Vec<(usize, bool)> {
    let count = graph.nodes().len();
    let mut order: Vec<(usize, bool)> = (0..count).map(|node| (node, false)).collect();
    let again = match (recompute, graph.layers()) {
        (Recompute::Never, _) | (_, []) => &[],
        (Recompute::Layers, [rest @ .., _]) => rest,
    };
    for node in (0..count).rev() {
        if let Some(layer) = again.iter().find(|layer| layer.end == node + 1) {
            order.extend(needed(graph, layer).into_iter().map(|node| (node, false)));
        }
        order.push((node, true));
    }
    order
}

/// The nodes of a layer whose output or statistics its backward reads, or another of them.
fn needed(graph: &Graph, layer: &Range<usize>) -> Vec<usize> {
    let nodes = &graph.nodes()[layer.clone()];
    let mut needed = vec![false; nodes.len()];
    for (i, node) in nodes.iter().enumerate().rev() {
        let op = &node.op;
        let read = nodes.iter().zip(&needed).any(|(reader, forward)| {
            reader.inputs.contains(&node.output) && (reader.op.needs().inputs || *forward)
        });
        needed[i] = read || op.needs().output || op.saved_width() > 0;
    }
    layer.clone().zip(needed).filter(|(_, needed)| *needed).map(|(node, _)| node).collect()
}

impl Walk<'_> {
    fn new_place(&mut self, at: usize, width: usize) -> Result<usize, ExecError> {
        let elements = self.rows.checked_mul(width).ok_or(ExecError::TooLarge { rows: self.rows })?;
        self.places.push(Place { from: at, to: at, elements });
        Ok(self.places.len() - 1)
    }

    fn forward(&mut self, at: usize, node: usize) -> Result<Action, ExecError> {
        let n = &self.graph.nodes()[node];
        let mut inputs = vec![];
        for id in &n.inputs {
            inputs.push(self.read(at, self.values[*id], true)?);
        }
        let output = self.new_place(at, self.graph.values()[n.output])?;
        let saved = self.new_place(at, n.op.saved_width())?;
        (self.values[n.output], self.saved[node]) = (Some(output), Some(saved));
        Ok(Action { node, inputs, output, saved, ..Action::default() })
    }

    fn backward(&mut self, at: usize, node: usize) -> Result<Action, ExecError> {
        let n = &self.graph.nodes()[node];
        let needs = n.op.needs();
        let mut inputs = vec![];
        for id in &n.inputs {
            inputs.push(self.read(at, self.values[*id], needs.inputs)?);
        }
        let output = self.read(at, self.values[n.output], needs.output)?;
        let saved = self.read(at, self.saved[node], true)?;
        let is_loss = node + 1 == self.graph.nodes().len();
        let d_output = if is_loss { output } else { self.read(at, self.gradients[n.output], true)? };
        let mut d_inputs = vec![];
        for id in &n.inputs {
            let made = self.new_place(at, self.graph.values()[*id])?;
            let sum = self.gradients[*id];
            match sum {
                Some(sum) => self.places[sum].to = at,
                None => self.gradients[*id] = Some(made),
            }
            d_inputs.push(Contribution { made, sum });
        }
        Ok(Action { node, backward: true, inputs, output, saved, d_output, d_inputs })
    }

    /// A place that there must be, kept until now if it is looked at.
    fn read(&mut self, at: usize, place: Option<usize>, is_needed: bool) -> Result<usize, ExecError> {
        let place = place.ok_or(ExecError::Internal("a value is read before it is computed"))?;
        if is_needed {
            self.places[place].to = at;
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::StepShape;
    use crate::spec::{Architecture, Arithmetic, ModelSpec, TiedEmbeddings};

    fn graph(layers: u64) -> Graph {
        let model = ModelSpec {
            architecture: Architecture::Gpt2,
            layers,
            width: 32,
            heads: 2,
            context: 8,
            vocabulary: 10,
            tied_embeddings: TiedEmbeddings::Tied,
            llama: None,
        };
        Graph::build(&model, StepShape { batch: 2, shards: 1 }, Arithmetic::F32Chain).unwrap()
    }

    fn names<'a>(graph: &'a Graph, actions: impl Iterator<Item = &'a Action>) -> Vec<&'a str> {
        actions.map(|action| graph.nodes()[action.node].name.as_str()).collect()
    }

    #[test]
    fn reuses_memory_and_stages_only_second_contributions() {
        let graph = graph(3);
        let plan = Plan::new(&graph, 16, Recompute::Never).unwrap();
        let everything: usize = graph.values().iter().map(|w| 2 * 16 * w).sum();
        assert!(plan.elements < everything * 3 / 4, "{} of {everything}", plan.elements);
        // The residual stream is read by a norm and by an add; the add comes later, so first.
        let staged = plan.actions.iter().filter(|a| a.d_inputs.iter().any(|d| d.sum.is_some()));
        let norms = ["h.2.ln_2", "h.2.ln_1", "h.1.ln_2", "h.1.ln_1", "h.0.ln_2", "h.0.ln_1"];
        assert_eq!(names(&graph, staged), norms);
        assert_eq!(plan.held[0], [true, false], "the embedding adds to the head's gradient");
        assert!(plan.held[1..].iter().flatten().all(|held| !held));
    }

    #[test]
    fn recomputed_layers_keep_only_what_lies_between_them() {
        let graph = graph(9);
        let never = Plan::new(&graph, 16, Recompute::Never).unwrap();
        let layers = Plan::new(&graph, 16, Recompute::Layers).unwrap();
        assert!(layers.elements * 3 < never.elements, "{} and {}", layers.elements, never.elements);
        // All but the sum that is the next layer's input, and all but the last layer.
        let again = layers.actions[layers.forward..].iter().filter(|action| !action.backward);
        let again = names(&graph, again);
        assert_eq!(again.len(), 8 * 8, "{again:?}");
        assert!(again.iter().all(|name| !name.starts_with("h.8.")), "{again:?}");
        let last = ["h.0.ln_1", "h.0.attn.qkv", "h.0.attn", "h.0.attn.proj", "h.0.attn.add", "h.0.ln_2"];
        assert_eq!(again[7 * 8..][..6], last);
        assert_eq!(again[7 * 8 + 6..], ["h.0.mlp.fc", "h.0.mlp.gelu"]);
    }
}
