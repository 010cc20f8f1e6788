//! The values that fields of records have. Each is checked when it is made, so a record that was parsed holds no text that
//! is not a name and no number out of its range.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

use crate::{Digest, jcs};

/// A value is not what its field wants. The reader of the record says which field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("want {0}")]
pub struct Unfit(pub &'static str);

/// Whole numbers with a range, each a type of its own: an epoch is no step.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident: $low:expr => $high:expr, $want:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The number, if it is within the type's range.
            ///
            /// # Errors
            /// [`Unfit`].
            pub const fn new(value: u64) -> Result<Self, Unfit> {
                let (low, high): (u64, u64) = ($low, $high);
                if low <= value && value <= high { Ok(Self(value)) } else { Err(Unfit($want)) }
            }

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(u64::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    )*};
}

const MAX: u64 = jcs::MAX_INTEGER as u64;

numbers! {
    /// A step of a job. Steps count from 1; 0 is the genesis.
    Step: 0 => 1 << 40, "a step from 0 to 2^40";
    /// Steps of an interval.
    IntervalSteps: 1 => 100_000, "1 to 100000 steps";
    /// An interval of a job, from 0: interval k has the steps kC+1 to (k+1)C.
    Interval: 0 => 1 << 40, "an interval from 0 to 2^40";
    /// An island of a job, from 0.
    Island: 0 => 255, "an island from 0 to 255";
    /// How many islands a job has.
    Islands: 1 => 256, "1 to 256 islands";
    /// The fencing number of (job, island), from 1.
    Epoch: 1 => (1 << 31) - 1, "an epoch from 1 to 2^31-1";
    /// An attempt of a unit, from 1.
    Attempt: 1 => (1 << 31) - 1, "an attempt from 1 to 2^31-1";
    /// A worker of an attempt, from 0.
    Rank: 0 => 255, "a rank from 0 to 255";
    /// A window of a grant, from 0.
    Window: 0 => 1 << 40, "a window from 0 to 2^40";
    /// A time span.
    Seconds: 1 => 1 << 40, "1 to 2^40 seconds";
    /// Money, or a price: millionths of a credit.
    MicroCredits: 0 => MAX, "micro-credits from 0 to 2^53-1";
    /// How many preimages a chain has.
    ChainLength: 1 => 1 << 24, "a length from 1 to 2^24";
    /// A place in a chain of preimages, from 0 in the order of the draws.
    ChainIndex: 0 => (1 << 24) - 1, "an index from 0 to 2^24-1";
    /// A place in a draw's order of auditors, from 0.
    Place: 0 => 1 << 16, "a place from 0 to 65536";
}

/// Text that prints, parses and serialises in one way.
macro_rules! text {
    ([$($generics:tt)*] $name:ty) => {
        impl<$($generics)*> Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de, $($generics)*> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

/// An RFC 1123 label of at most `MAX` characters, as the API has names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label<const MAX: usize>(String);

/// A provider's name. Its namespace on the hub, `muster-p-<provider>`, must be a label too.
pub type ProviderName = Label<40>;
/// Who stands behind providers.
pub type OwnerName = Label<63>;
/// The name of a WorkUnit.
pub type UnitName = Label<40>;
/// `metadata.uid` of an object.
pub type Uid = Label<63>;

impl<const MAX: usize> Label<MAX> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> FromStr for Label<MAX> {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = (1..=MAX).contains(&text.len())
            && text.bytes().all(|b| inner(b) || b == b'-')
            && text.bytes().next().is_some_and(inner)
            && text.bytes().last().is_some_and(inner);
        if good {
            return Ok(Self(text.to_owned()));
        }
        Err(Unfit(match MAX {
            40 => "a DNS label of at most 40 characters",
            _ => "a DNS label of at most 63 characters",
        }))
    }
}

impl<const MAX: usize> fmt::Display for Label<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text!([const MAX: usize] Label<MAX>);

/// A log's origin (C2SP tlog-checkpoint): the name that stands in every checkpoint, such as `hub.example.org/muster`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(String);

impl Origin {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = Unfit;

    /// Printable ASCII without space and plus: it is also the name of the log's key in a signed note.
    fn from_str(text: &str) -> Result<Self, Unfit> {
        if (1..=255).contains(&text.len()) && is_key_name(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(Unfit("a log's origin: 1 to 255 printable ASCII characters without space and plus"))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text!([] Origin);

fn is_key_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'+')
}

/// A witness's verifier key (C2SP signed-note): `<name>+<8 hex of its hash>+<base64 of 0x04 and the Ed25519 key>`. 0x04 is
/// cosignature/v1. That the 32 bytes are a point of the curve is asked when it is used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WitnessKey(String);

impl WitnessKey {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WitnessKey {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        const WANT: Unfit =
            Unfit("a witness's verifier key of at most 256 bytes: <name>+<hash>+<base64 of 0x04 and key>");
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let (name, rest) = text.split_once('+').filter(|_| text.len() <= 256).ok_or(WANT)?;
        let (hash, key) = rest.split_once('+').ok_or(WANT)?;
        let key = STANDARD.decode(key).map_err(|_| WANT)?;
        if !is_key_name(name) || key.len() != 33 || key.first() != Some(&0x04) {
            return Err(WANT);
        }
        let whole = Sha256::new().chain_update(name).chain_update(b"\n").chain_update(&key).finalize();
        let own: String = whole.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        if own == hash { Ok(Self(text.to_owned())) } else { Err(WANT) }
    }
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text!([] WitnessKey);

/// 32 random bytes that hide what is sealed until they are shown; 64 lower-case hex digits in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce([u8; 32]);

impl Nonce {
    /// These bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Nonce {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let digest = Digest::from_hex(text).map_err(|_| Unfit("64 lower-case hex digits"))?;
        Ok(Self(*digest.as_bytes()))
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Digest::from_bytes(self.0).to_hex())
    }
}

text!([] Nonce);

/// What names a job: [`super::job_id`]. Not the record id of its record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub Digest);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether `items` are in strictly ascending order: sorted, and none twice.
pub(super) fn ascending<T: Ord>(items: impl IntoIterator<Item = T>) -> bool {
    let mut items = items.into_iter();
    let Some(mut before) = items.next() else { return true };
    items.all(|item| {
        let up = before < item;
        before = item;
        up
    })
}
