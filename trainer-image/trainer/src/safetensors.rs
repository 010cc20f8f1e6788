//! The one spelling of a safetensors file: <https://github.com/huggingface/safetensors>, narrowed.
//!
//! ```text
//! u64le N | N bytes of JSON, padded with spaces to a multiple of 8 | the values
//! ```
//!
//! The format leaves freedoms (key order, free metadata, holes). Here there are none: keys sorted, values without gaps,
//! metadata `{"format":"pt"}`, F32 only. The reader accepts exactly what the writer writes, so two files with the same
//! tensors in the same order are the same bytes, and there is no room to hide anything in; the order of a model's values is
//! the model's. Other readers see an ordinary file.

use std::collections::BTreeMap;

use muster_proof::jcs;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The longest header that is read, in bytes: about 100 000 tensors.
pub const MAX_HEADER: u64 = 16 << 20;
/// Bytes before the header's JSON.
pub const PREFIX: u64 = 8;

const METADATA: &str = "__metadata__";
const DTYPE: &str = "F32";
const VALUE_BYTES: u64 = 4;

/// Why bytes are not a safetensors file of this spelling.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Fewer bytes than a header needs.
    #[error("it ends inside its header")]
    Truncated,
    /// The header claims to be longer than [`MAX_HEADER`].
    #[error("its header claims {0} bytes, at most {MAX_HEADER} are read")]
    TooLong(u64),
    /// The header is not the JSON it must be.
    #[error("its header is not what Muster writes: {0}")]
    Header(String),
    /// One tensor's entry is wrong.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// Its key.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file is longer or shorter than header and values.
    #[error("it has {got} bytes where its header describes {want}")]
    Length {
        /// Bytes that the header describes.
        want: u64,
        /// Bytes there are.
        got: u64,
    },
}

/// A tensor of a file: where its values are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Key in the file.
    pub name: String,
    /// One or two dimensions.
    pub shape: Vec<u64>,
    /// First byte of its values, counted from the end of the header.
    pub start: u64,
    /// One past its last byte.
    pub end: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A checked header: gapless, and the only spelling of its tensors in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

impl Header {
    /// The header of a file with these tensors (key, shape), in the order of their values.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a key that occurs twice, a shape without values, or sizes that overflow.
    pub fn new<I: IntoIterator<Item = (String, Vec<u64>)>>(tensors: I) -> Result<Self, Error> {
        let mut json = BTreeMap::from([(METADATA.to_owned(), json!({"format": "pt"}))]);
        let mut entries = Vec::new();
        let mut at = 0u64;
        for (name, shape) in tensors {
            if name.is_empty() || name == METADATA {
                return Err(tensor(&name, "not a name a tensor may have"));
            }
            let size = size_of(&name, &shape)?;
            let end = at.checked_add(size).ok_or_else(|| tensor(&name, "more bytes than can be counted"))?;
            let entry = json!({"dtype": DTYPE, "shape": shape, "data_offsets": [at, end]});
            if json.insert(name.clone(), entry).is_some() {
                return Err(tensor(&name, "occurs twice"));
            }
            entries.push(Entry { name, shape, start: at, end });
            at = end;
        }
        let json = Value::Object(json.into_iter().collect());
        let mut bytes = jcs::to_vec(&json).map_err(|error| Error::Header(error.to_string()))?;
        bytes.resize(bytes.len().next_multiple_of(8), b' ');
        if bytes.len() as u64 > MAX_HEADER {
            return Err(Error::TooLong(bytes.len() as u64));
        }
        Ok(Self { entries, bytes })
    }

    /// How many header bytes follow the first eight bytes of a file. Nothing was allocated yet.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn length(prefix: [u8; PREFIX as usize]) -> Result<u64, Error> {
        match u64::from_le_bytes(prefix) {
            length if length > MAX_HEADER => Err(Error::TooLong(length)),
            length => Ok(length),
        }
    }

    /// Reads the JSON of a header: the [`Header::length`] bytes after the prefix.
    ///
    /// # Errors
    /// [`Error::Header`], [`Error::Tensor`]: anything this module would not have written.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let unpadded = bytes.trim_ascii_end();
        let Value::Object(json) = jcs::parse(unpadded).map_err(|error| Error::Header(error.to_string()))?
        else {
            return Err(Error::Header("not a JSON object".into()));
        };
        let mut tensors = Vec::with_capacity(json.len());
        for (name, value) in json {
            if name == METADATA {
                continue; // compared below, with everything else
            }
            let raw: RawEntry = serde_json::from_value(value).map_err(|e| tensor(&name, e.to_string()))?;
            if raw.dtype != DTYPE {
                return Err(tensor(&name, format!("dtype is {:?}, not {DTYPE}", raw.dtype)));
            }
            tensors.push((raw.data_offsets, name, raw.shape));
        }
        tensors.sort();
        // Whatever else could differ (gaps, overlaps, metadata, spaces) differs from the one spelling.
        let header = Self::new(tensors.into_iter().map(|(_, name, shape)| (name, shape)))?;
        if header.bytes != bytes {
            return Err(Error::Header(
                "keys, offsets, metadata or padding are not in the one spelling".into(),
            ));
        }
        Ok(header)
    }

    /// The tensors in the order of their values.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The bytes before the values: prefix and padded JSON.
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = (self.bytes.len() as u64).to_le_bytes().to_vec();
        all.extend(&self.bytes);
        all
    }

    /// Bytes of the whole file.
    pub fn file_size(&self) -> u64 {
        PREFIX + self.bytes.len() as u64 + self.entries.last().map_or(0, |entry| entry.end)
    }
}

/// The header of a file that is all in memory; its values begin at the returned offset.
///
/// # Errors
/// As [`Header::parse`], and [`Error::Truncated`], [`Error::Length`].
pub fn parse(file: &[u8]) -> Result<(Header, usize), Error> {
    let (prefix, rest) = file.split_first_chunk().ok_or(Error::Truncated)?;
    let length = Header::length(*prefix)?;
    let json = usize::try_from(length).ok().and_then(|n| rest.get(..n)).ok_or(Error::Truncated)?;
    let header = Header::parse(json)?;
    let (want, got) = (header.file_size(), file.len() as u64);
    if want != got {
        return Err(Error::Length { want, got });
    }
    Ok((header, json.len() + prefix.len()))
}

fn size_of(name: &str, shape: &[u64]) -> Result<u64, Error> {
    if shape.is_empty() || shape.len() > 2 || shape.contains(&0) {
        return Err(tensor(name, format!("shape {shape:?} is not [n] or [rows, columns]")));
    }
    shape
        .iter()
        .try_fold(VALUE_BYTES, |size, n| size.checked_mul(*n))
        .ok_or_else(|| tensor(name, "more bytes than can be counted"))
}

fn tensor(name: &str, problem: impl Into<String>) -> Error {
    Error::Tensor { name: name.escape_debug().take(100).collect(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let header = Header::new([("a.weight".into(), vec![5]), ("b".into(), vec![2, 3])]).unwrap();
        let mut bytes = header.bytes();
        bytes.extend((0..44).map(|i| i as u8));
        bytes
    }

    #[test]
    fn the_spelling_is_the_published_one() {
        let file = file();
        let json = r#"{"__metadata__":{"format":"pt"},"a.weight":{"data_offsets":[0,20],"dtype":"F32","shape":[5]},"b":{"data_offsets":[20,44],"dtype":"F32","shape":[2,3]}}"#;
        let (header, values) = parse(&file).unwrap();
        assert_eq!(values % 8, 0, "values are aligned");
        assert_eq!(std::str::from_utf8(&file[8..values]).unwrap().trim_end(), json);
        assert_eq!(header.entries()[1], Entry { name: "b".into(), shape: vec![2, 3], start: 20, end: 44 });
        assert_eq!(header.file_size(), file.len() as u64);
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let file = file();
        for n in 0..file.len() {
            assert!(parse(&file[..n]).is_err(), "{n} bytes");
        }
        assert!(matches!(parse(&[file, vec![0]].concat()), Err(Error::Length { .. })));
    }

    /// Whatever bit flips in the header: an error, or (a letter of a name) another valid header. Never a panic, and
    /// never a header that would be written differently.
    #[test]
    fn every_bit_flip_of_the_header_is_answered() {
        let file = file();
        let (_, values) = parse(&file).unwrap();
        for bit in 0..values * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok((header, _)) = parse(&bad) {
                assert_eq!(header.bytes(), bad[..values], "bit {bit}");
                assert_eq!(header.file_size(), bad.len() as u64);
            }
        }
    }

    /// Pseudo-random garbage, cuts and splices: the parser answers.
    #[test]
    fn garbage_is_answered() {
        let good = file();
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..1 + next() % 6 {
                let at = next() % bytes.len();
                match next() % 3 {
                    0 => bytes[at] = next() as u8,
                    1 => drop(bytes.drain(at..bytes.len().min(at + 1 + next() % 9))),
                    _ => bytes.insert(at, b"{}[],:\"0"[next() % 8]),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            if let Ok((header, values)) = parse(&bytes) {
                assert_eq!(header.bytes(), bytes[..values]);
            }
        }
    }

    #[test]
    fn hostile_headers_are_named() {
        let check = |json: &str| {
            let mut bytes = json.as_bytes().to_vec();
            bytes.resize(bytes.len().next_multiple_of(8), b' ');
            Header::parse(&bytes).unwrap_err().to_string()
        };
        let meta = r#""__metadata__":{"format":"pt"}"#;
        let entry = r#""a":{"data_offsets":[0,4],"dtype":"F32","shape":[1]}"#;
        assert!(check(&format!("{{{meta},{entry},{entry}}}")).contains("twice"));
        assert!(check(&format!("{{{entry},{meta}}}")).contains("one spelling"));
        assert!(check(&format!("{{{entry}}}")).contains("one spelling"));
        assert!(check(&format!("{{{meta},{}}}", entry.replace("[0,4]", "[4,8]"))).contains("one spelling"));
        assert!(check(&format!("{{{meta},{}}}", entry.replace("F32", "F16"))).contains("dtype"));
        assert!(check(&format!("{{{meta},{}}}", entry.replace("[1]", "[0]"))).contains("shape"));
        let huge = format!("[{},{}]", 1u64 << 52, 1u64 << 52);
        assert!(check(&format!("{{{meta},{}}}", entry.replace("[1]", &huge))).contains("counted"));
        assert!(check(&"[".repeat(100_000)).contains("nested"));
        assert_eq!(Header::length(u64::MAX.to_le_bytes()), Err(Error::TooLong(u64::MAX)));
        assert!(parse(&[0xff; 8]).is_err());
    }
}
