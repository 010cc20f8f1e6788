//! The header of a safetensors file as anybody may spell it: <https://github.com/huggingface/safetensors>. Keys in any order, values in
//! any order, any of the types; but every byte of the file belongs to exactly one tensor, and no key occurs twice.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::shown;

/// Key of what is no tensor.
const METADATA: &str = "__metadata__";
/// The most dimensions that are read. Published models have four in a buffer.
const MAX_DIMENSIONS: usize = 8;
/// The longest key, in bytes.
const MAX_KEY: usize = 512;
/// Types and their bytes an element. Those of less than a byte are not read.
const DTYPES: [(&str, u64); 15] = [
    ("BOOL", 1),
    ("U8", 1),
    ("I8", 1),
    ("F8_E5M2", 1),
    ("F8_E4M3", 1),
    ("U16", 2),
    ("I16", 2),
    ("F16", 2),
    ("BF16", 2),
    ("U32", 4),
    ("I32", 4),
    ("F32", 4),
    ("U64", 8),
    ("I64", 8),
    ("F64", 8),
];

/// Where a tensor's values are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The type's name.
    pub dtype: &'static str,
    /// Its lengths; none for a scalar.
    pub shape: Vec<u64>,
    /// First byte of its values, counted from the end of the header.
    pub start: u64,
    /// One past its last byte.
    pub end: u64,
}

/// The tensors of a file.
pub type Header = BTreeMap<String, Entry>;

/// Reads the JSON of a header, of a file with `values` bytes after it.
///
/// # Errors
/// A sentence, naming the tensor where there is one.
pub fn parse(json: &[u8], values: u64) -> Result<Header, String> {
    let Tensors(raw) = serde_json::from_slice(json).map_err(|error| format!("its header: {error}"))?;
    let mut header = Header::new();
    for (name, raw) in raw {
        let entry = raw.check().map_err(|problem| format!("tensor {}: {problem}", shown(&name)))?;
        header.insert(name, entry);
    }
    let mut places: Vec<_> =
        header.iter().map(|(name, entry)| ((entry.start, entry.end), name.as_str())).collect();
    places.sort_unstable();
    let mut at = 0;
    for ((start, end), name) in places {
        if start != at {
            let how = if start < at { "overlaps the one before" } else { "has a hole before it" };
            return Err(format!("tensor {}: {how}", shown(name)));
        }
        at = end;
    }
    if at != values {
        return Err(format!("it has {values} bytes of values where its header describes {at}"));
    }
    Ok(header)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl Raw {
    fn check(self) -> Result<Entry, String> {
        let Self { dtype, shape, data_offsets: [start, end] } = self;
        let (dtype, size) = *DTYPES
            .iter()
            .find(|(name, _)| *name == dtype)
            .ok_or_else(|| format!("type {:?} is not read", shown(&dtype)))?;
        if shape.len() > MAX_DIMENSIONS {
            return Err(format!("{} dimensions, at most {MAX_DIMENSIONS} are read", shape.len()));
        }
        let bytes = shape.iter().try_fold(size, |bytes, n| bytes.checked_mul(*n));
        if bytes.is_none() || end.checked_sub(start) != bytes {
            return Err(format!("shape {shape:?} of {dtype} does not fill bytes {start} to {end}"));
        }
        Ok(Entry { dtype, shape, start, end })
    }
}

/// All members but the metadata, which say nothing of the tensors.
struct Tensors(BTreeMap<String, Raw>);

impl<'de> Deserialize<'de> for Tensors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members).map(Self)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = BTreeMap<String, Raw>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut tensors = BTreeMap::new();
        let mut metadata = false;
        while let Some(key) = access.next_key::<String>()? {
            let again = if key == METADATA {
                std::mem::replace(&mut metadata, true)
            } else {
                tensors.contains_key(&key)
            };
            if again {
                return Err(A::Error::custom(format_args!("key {:?} occurs twice", shown(&key))));
            }
            if key == METADATA {
                access.next_value::<IgnoredAny>()?;
            } else if key.is_empty() || key.len() > MAX_KEY {
                return Err(A::Error::custom(format_args!(
                    "key {:?} is not of 1 to {MAX_KEY} bytes",
                    shown(&key)
                )));
            } else {
                let value = access.next_value()?;
                tensors.insert(key, value);
            }
        }
        Ok(tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = r#""a":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]}"#;
    const B: &str = r#""b":{"dtype":"F32","shape":[],"data_offsets":[0,4]}"#;
    const EMPTY: &str = r#""e":{"dtype":"U8","shape":[0,7],"data_offsets":[4,4]}"#;
    const METADATA: &str = r#""__metadata__":{"format":"pt","x":"y"}"#;

    fn of(members: &[&str], values: u64) -> Result<Header, String> {
        parse(format!("{{{}}}  ", members.join(" , ")).as_bytes(), values)
    }

    #[test]
    fn any_spelling_of_the_format_is_read() {
        let header = of(&[A, METADATA, EMPTY, B], 16).unwrap();
        let want = Entry { dtype: "BF16", shape: vec![2, 3], start: 4, end: 16 };
        assert_eq!((header.len(), &header["a"]), (3, &want));
        assert_eq!(of(&[B, EMPTY, A], 16).unwrap(), header);
        assert!(of(&[], 0).unwrap().is_empty());
    }

    #[test]
    fn hostile_headers_are_refused_by_name() {
        let huge = u64::MAX;
        for (members, words) in [
            (vec![A.into(), B.into(), A.into()], "key \"a\" occurs twice"),
            (vec![METADATA.into(), METADATA.into(), A.into(), B.into()], "occurs twice"),
            (vec![A.into()], "tensor a: has a hole before it"),
            (vec![A.into(), B.into(), A.replace("\"a\"", "\"c\"")], "tensor c: overlaps"),
            (vec![B.into()], "16 bytes of values where its header describes 4"),
            (vec![A.replace("[2,3]", "[2,4]"), B.into()], "tensor a: shape [2, 4] of BF16"),
            (vec![A.replace("[4,16]", "[16,4]"), B.into()], "tensor a: shape"),
            (vec![A.replace("[2,3]", &format!("[{huge},{huge}]")), B.into()], "tensor a: shape"),
            (vec![A.replace("[2,3]", "[9223372036854775808,2]"), B.into()], "tensor a: shape"),
            (vec![A.replace("[2,3]", "[2,3,1,1,1,1,1,1,1]"), B.into()], "9 dimensions"),
            (vec![A.replace("[2,3]", "[-2,-3]"), B.into()], "its header"),
            (vec![A.replace("[4,16]", "[4.0,16]"), B.into()], "its header"),
            (vec![A.replace("BF16", "F4"), B.into()], "tensor a: type \"F4\""),
            (vec![A.replace("\"dtype\"", "\"more\":1,\"dtype\""), B.into()], "unknown field"),
            (vec![A.replace("\"a\"", &format!("\"{}\"", "x".repeat(513))), B.into()], "513"),
        ] {
            let members: Vec<&str> = members.iter().map(String::as_str).collect();
            let error = of(&members, 16).unwrap_err();
            assert!(error.contains(words) || words == "513" && error.contains("512"), "{words}: {error}");
        }
        for bad in ["", "[]", "{", "{}{}", "{\"a\":null}"] {
            parse(bad.as_bytes(), 0).unwrap_err();
        }
        parse("{\"a\":".repeat(100_000).as_bytes(), 0).unwrap_err();
    }
}
