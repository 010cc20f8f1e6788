//! `scalars.json` of a hand-over: what a state is besides its tensors. Canonical JSON with a closed set of fields.

use muster_numerics::state::State;
use muster_proof::{Digest, jcs};
use serde::{Deserialize, Serialize};

/// The largest file that is read, in bytes.
pub const MAX_SCALARS: u64 = 1024;

const FORMAT: &str = "muster.handover/1";

/// Step, job and beta products of a state. Built by [`Scalars::of`] or [`Scalars::parse`], so the products are numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scalars {
    format: String,
    step: u64,
    training_digest: Digest,
    b1p: String,
    b2p: String,
}

impl Scalars {
    /// Those of `state` of the job `training_digest`.
    pub fn of(training_digest: Digest, state: &State) -> Self {
        let [b1p, b2p] = [state.b1p, state.b2p].map(product_text);
        Self { format: FORMAT.into(), step: state.step, training_digest, b1p, b2p }
    }

    /// Reads the bytes of a `scalars.json`; only the canonical form.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_SCALARS {
            return Err(format!("longer than {MAX_SCALARS} bytes"));
        }
        let scalars: Self = jcs::deserialize_canonical(bytes).map_err(|error| error.to_string())?;
        if scalars.format != FORMAT {
            return Err(format!("format: is {:?}, not {FORMAT:?}", scalars.format));
        }
        check_product("b1p", &scalars.b1p)?;
        check_product("b2p", &scalars.b2p)?;
        Ok(scalars)
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// A step beyond 2^53, as a sentence.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        jcs::serialize(self).map_err(|error| error.to_string())
    }

    /// The state's number.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The job.
    pub fn training_digest(&self) -> Digest {
        self.training_digest
    }

    /// The running products of Adam's betas, b1p and b2p.
    pub fn beta_products(&self) -> [f64; 2] {
        // `parse` has read both, `of` has written them.
        [&self.b1p, &self.b2p].map(|text| product(text).unwrap_or(1.0))
    }
}

/// The 16 hex digits of a product of betas.
pub(super) fn product_text(value: f64) -> String {
    format!("{:016x}", value.to_bits())
}

/// The inverse of [`product_text`].
pub(super) fn product(text: &str) -> Option<f64> {
    u64::from_str_radix(text, 16).ok().map(f64::from_bits)
}

/// Refuses what is not the text of a product of numbers below 1, from 1.0 down to 0: anything else never came from
/// training.
pub(super) fn check_product(field: &str, text: &str) -> Result<(), String> {
    match product(text) {
        Some(x) if product_text(x) == text && (0.0..=1.0).contains(&x) && x.is_sign_positive() => Ok(()),
        _ => Err(format!("{field}: not the 16 hex digits of an f64 from 0 to 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_round_trip_and_edits_are_refused() {
        let empty = Vec::new;
        let state = State { step: 20, b1p: 0.81, b2p: 0.9025, w: empty(), m: empty(), v: empty() };
        let scalars = Scalars::of(Digest::of(b"job"), &state);
        let bytes = scalars.to_bytes().unwrap();
        assert_eq!(Scalars::parse(&bytes).unwrap(), scalars);
        assert_eq!((scalars.step(), scalars.beta_products()), (20, [0.81, 0.9025]));
        let text = String::from_utf8(bytes).unwrap();
        for (from, to, want) in [
            ("handover/1", "handover/2", "format"),
            ("\"step\":20", "\"step\":20,\"stop\":1", "stop"),
            ("\"step\":20", "\"step\":-1", "integer"),
            ("\"b1p\":\"3f", "\"b1p\":\"bf", "b1p"),
            ("\"b2p\":\"3f", "\"b2p\":\"3F", "b2p"),
            (",\"format\"", " ,\"format\"", "canonical"),
        ] {
            let bad = text.replace(from, to);
            assert_ne!(bad, text, "{from}");
            let error = Scalars::parse(bad.as_bytes()).unwrap_err();
            assert!(error.contains(want), "{want}: {error}");
        }
        assert!(Scalars::parse(&[b' '; 2000]).unwrap_err().contains("longer"));
    }
}
