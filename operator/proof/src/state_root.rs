//! StateRoot: the digest of a whole training state, what a checkpoint claims and an audit recomputes.
//!
//! ```text
//! StateRoot = root of the RFC 6962 tree over the 32-byte data
//!             scalars, then for each tensor in canonical order: its tensor roots w, m, v
//! scalars   = H("muster.scalars/1"; u64le step, f64le b1p, f64le b2p)
//! ```
//!
//! `step` counts from 1, 0 is the genesis; `b1p` and `b2p` are the running products of Adam's betas, 1.0 at
//! genesis. The canonical order, names and orientation of the tensors are the specification's, whatever the
//! file's; the caller keeps it. A tied tensor occurs once.

use std::collections::BTreeSet;

use crate::Digest;
use crate::hash::{self, h};
use crate::merkle::TreeHasher;
use crate::tensor::{Error, Role, tensor_root};

/// Computes a StateRoot tensor by tensor, without copying values.
///
/// ```
/// # use muster_proof::StateRootBuilder;
/// let mut state = StateRootBuilder::new(0, 1.0, 1.0);
/// let (w, zero) = ([0.1f32; 6], [0.0f32; 6]);
/// state.tensor("wte", &[2, 3], &w, &zero, &zero)?;
/// assert!(state.finish().to_string().starts_with("sha256:"));
/// # Ok::<(), muster_proof::tensor::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct StateRootBuilder {
    tree: TreeHasher,
    names: BTreeSet<String>,
}

impl StateRootBuilder {
    /// The state after step `step` (0: genesis) with these products of Adam's betas.
    pub fn new(step: u64, b1p: f64, b2p: f64) -> Self {
        let scalars = h(hash::SCALARS, &[&step.to_le_bytes(), &b1p.to_le_bytes(), &b2p.to_le_bytes()]);
        let mut tree = TreeHasher::new();
        tree.push(scalars.as_bytes());
        Self { tree, names: BTreeSet::new() }
    }

    /// Adds the next tensor in canonical order: weights and both moments, row-major, all of shape `[n]` or
    /// `[rows, columns]`.
    ///
    /// # Errors
    /// See [`Error`]. After an error the builder has not changed.
    pub fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
        w: &[f32],
        m: &[f32],
        v: &[f32],
    ) -> Result<&mut Self, Error> {
        let w = tensor_root(name, Role::Weight, shape, w)?;
        let m = tensor_root(name, Role::FirstMoment, shape, m)?;
        let v = tensor_root(name, Role::SecondMoment, shape, v)?;
        self.roots(name, w, m, v)
    }

    /// Adds the next tensor by its three tensor roots, computed elsewhere: on other threads by
    /// [`tensor_root`], or piece by piece by [`TensorHasher`](crate::tensor::TensorHasher).
    ///
    /// # Errors
    /// [`Error::Duplicate`].
    pub fn roots(&mut self, name: &str, w: Digest, m: Digest, v: Digest) -> Result<&mut Self, Error> {
        if !self.names.insert(name.to_owned()) {
            return Err(Error::Duplicate(name.to_owned()));
        }
        for root in [w, m, v] {
            self.tree.push(root.as_bytes());
        }
        Ok(self)
    }

    /// The StateRoot of the tensors so far.
    pub fn finish(&self) -> Digest {
        self.tree.root()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle;

    /// The definition, written out by hand.
    #[test]
    fn equals_the_definition() {
        let (w, m, v) = ([1.0f32, 2.0], [0.5f32, -0.5], [0.25f32, 0.0]);
        let mut state = StateRootBuilder::new(7, 0.9, 0.95);
        state.tensor("b", &[2], &w, &m, &v).unwrap();
        state.tensor("a", &[1, 2], &w, &m, &v).unwrap();

        let mut scalars = vec![2, 16];
        scalars.extend(b"muster.scalars/1");
        for eight in [7u64.to_le_bytes(), 0.9f64.to_le_bytes(), 0.95f64.to_le_bytes()] {
            scalars.extend(8u64.to_le_bytes());
            scalars.extend(eight);
        }
        let mut leaves = vec![Digest::of(&scalars)];
        for (name, shape) in [("b", "[2]"), ("a", "[1,2]")] {
            for (role, values) in [("w", w), ("m", m), ("v", v)] {
                let mut tile = vec![0];
                tile.extend(values.iter().flat_map(|x| x.to_le_bytes()));
                let header = format!(
                    r#"{{"dtype":"F32","name":"{name}","ops":"muster.ops/1","role":"{role}","shape":{shape}}}"#
                );
                leaves.push(h(hash::TENSOR, &[header.as_bytes(), Digest::of(&tile).as_bytes()]));
            }
        }
        assert_eq!(state.finish(), merkle::root(leaves.iter().map(Digest::as_bytes)));
    }

    /// The examples of docs/spec/formats.md, computed by another implementation.
    #[test]
    fn examples_of_the_specification() {
        let ramp = |n: usize, scale: f32| (0..n).map(|i| i as f32 * scale).collect::<Vec<_>>();
        let weights = |n: usize| ramp(n, 0.5).iter().map(|x| x - 3.0).collect::<Vec<_>>();

        let wte = tensor_root("wte", Role::Weight, &[2, 3], &weights(6)).unwrap();
        assert_eq!(wte.to_hex(), "8f9b650ff43cf05a65e4f54da5917fb3d48ab13684858e1d4c880fdc6cbee98c");

        let mut genesis = StateRootBuilder::new(0, 1.0, 1.0);
        genesis.tensor("wte", &[2, 3], &weights(6), &[0.0; 6], &[0.0; 6]).unwrap();
        let want = "cd239f93951c225dbe012498fc40a9be30571c57e81844a338ed433a9e00de46";
        assert_eq!(genesis.finish().to_hex(), want);

        let mut later = StateRootBuilder::new(3, 0.729, 0.857375);
        for (name, shape) in [("h.0.attn.qkv.weight", &[65, 130][..]), ("h.0.attn.qkv.bias", &[4097])] {
            let n = shape.iter().product();
            later.tensor(name, shape, &weights(n), &ramp(n, 0.25), &ramp(n, 0.125)).unwrap();
        }
        let want = "2a1bc5bc01de70bf9b6407239569bb563e05980cc5c686959620c414100fb193";
        assert_eq!(later.finish().to_hex(), want);
    }

    #[test]
    fn each_input_counts() {
        let root = |step, b1p, name, w: f32, m: f32| {
            let mut state = StateRootBuilder::new(step, b1p, 1.0);
            state.tensor(name, &[1], &[w], &[m], &[0.0]).unwrap();
            state.finish()
        };
        let all = [
            root(0, 1.0, "t", 1.0, 0.0),
            root(1, 1.0, "t", 1.0, 0.0),
            root(0, 0.9, "t", 1.0, 0.0),
            root(0, 1.0, "u", 1.0, 0.0),
            root(0, 1.0, "t", 0.0, 1.0),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn a_tensor_occurs_once_and_errors_change_nothing() {
        let mut state = StateRootBuilder::new(0, 1.0, 1.0);
        state.tensor("t", &[1], &[1.0], &[0.0], &[0.0]).unwrap();
        let before = state.finish();
        assert_eq!(
            state.tensor("t", &[1], &[1.0], &[0.0], &[0.0]).err(),
            Some(Error::Duplicate("t".to_owned()))
        );
        assert!(state.tensor("u", &[1], &[1.0], &[], &[0.0]).is_err());
        assert_eq!(state.finish(), before);
    }
}
