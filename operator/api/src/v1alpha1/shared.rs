//! Types that more than one kind uses.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far an admin trusts a provider. Ordered: a job that wants `Standard` also runs on `Trusted`.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum TrustTier {
    /// Anyone. What it computes is believed only after an audit.
    #[default]
    Untrusted,
    /// Known to the admin.
    Standard,
    /// As good as the hub's own.
    Trusted,
}

/// How numbers are multiplied and added. Part of a job's identity: each choice has its own bits.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum Arithmetic {
    /// f32 fused multiply-add in one fixed order.
    #[default]
    #[serde(rename = "f32-chain")]
    F32Chain,
    /// 16-bit integers with exact sums.
    #[serde(rename = "i16-exact")]
    I16Exact,
}

impl Arithmetic {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::F32Chain, Self::I16Exact];

    /// The name in the API, and in the resolved spec.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32Chain => "f32-chain",
            Self::I16Exact => "i16-exact",
        }
    }
}
