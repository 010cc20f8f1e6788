//! `H(context; a, b, ..)`, the one hash for structured things.
//!
//! ```text
//! H = SHA-256( 0x02 || u8 len(context) || context || u64le len(a) || a || u64le len(b) || b || .. )
//! ```
//!
//! 0x02 keeps it apart from the leaves (0x00) and nodes (0x01) of RFC 6962 trees, the context keeps the kinds
//! of records apart, and the lengths make the split into parts part of the input.

use sha2::{Digest as _, Sha256};

use crate::Digest;

/// A domain: which kind of thing is hashed. At most 255 bytes, checked when the constant is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context(&'static str);

impl Context {
    /// A context of this name; by convention `muster.<thing>/<version>`. Make it a `const`, so that a name
    /// that is too long does not compile.
    pub const fn new(name: &'static str) -> Self {
        assert!(name.len() <= 255, "a context has at most 255 bytes");
        Self(name)
    }

    /// The name.
    pub const fn name(self) -> &'static str {
        self.0
    }
}

/// A tensor's header and the root of its tiles.
pub const TENSOR: Context = Context::new("muster.tensor/1");
/// The scalars of a training state: step and the running products of Adam's betas.
pub const SCALARS: Context = Context::new("muster.scalars/1");
/// A resolved spec: all that reaches the bits of a training.
pub const TRAINING: Context = Context::new("muster.training/1");
/// The payload of a job record: gives the job id.
pub const JOB: Context = Context::new("muster.job/1");
/// What a commit says of its interval's step records without showing them.
pub const RECORD_SEAL: Context = Context::new("muster.seal/1");
/// What an auditor says of his replay before anybody else shows theirs.
pub const AUDIT_SEAL: Context = Context::new("muster.audit-seal/1");
/// The state after a step that could not be taken.
pub const FAILED: Context = Context::new("muster.failed/1");
/// What a replay answers that ends by the stop rule.
pub const ENDED: Context = Context::new("muster.ended/1");
/// One link of a job's chain of preimages.
pub const BEACON: Context = Context::new("muster.beacon/1");
/// What a revealed preimage decides.
pub const DRAW: Context = Context::new("muster.draw/1");

/// `H(context; parts)`, see the module.
pub fn h(context: Context, parts: &[&[u8]]) -> Digest {
    let mut sha = Sha256::new();
    // `Context` has at most 255 bytes, and a slice has fewer than 2^64: both casts are exact.
    sha.update([0x02, context.0.len() as u8]);
    sha.update(context.0.as_bytes());
    for part in parts {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part);
    }
    Digest::from_bytes(sha.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: Context = Context::new("t");

    /// The definition, written out by hand.
    #[test]
    fn bytes_are_as_specified() {
        let mut bytes = vec![2, 1, b't'];
        bytes.extend([2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b']);
        bytes.extend([0; 8]);
        assert_eq!(h(TEST, &[b"ab", b""]), Digest::of(&bytes));
        assert_eq!(h(TEST, &[]), Digest::of(&[2, 1, b't']));
        // The example of docs/spec/formats.md.
        let want = "7fb34f4ae4de6bf2e8ddf6f444030c5fcf95ad82a62723e4713738a3e06bdd8c";
        assert_eq!(h(Context::new("muster.test/1"), &[b"ab", b""]).to_hex(), want);
    }

    #[test]
    fn split_count_and_context_matter() {
        let all = [
            h(TEST, &[b"ab"]),
            h(TEST, &[b"a", b"b"]),
            h(TEST, &[b"ab", b""]),
            h(TEST, &[b"", b"ab"]),
            h(Context::new("ta"), &[b"b"]),
            h(Context::new("u"), &[b"ab"]),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
