//! Canonical JSON after RFC 8785 (JCS) and strict parsing.
//!
//! Two limits make the format exact without a float printer: numbers are integers within +-(2^53 - 1), and
//! nesting is at most [`MAX_DEPTH`]. Decimals travel as strings. Fractions, exponents and `-0` are refused
//! when parsing and when printing, with an error that says so.
//!
//! Parsing refuses what ordinary parsers forgive and attackers use: duplicate keys, bytes after the value,
//! endless nesting.

use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, Serialize};
use serde_json::{Map, Value};

/// The largest integer that every JSON reader keeps exactly: 2^53 - 1 (RFC 8259 section 6).
pub const MAX_INTEGER: i64 = (1 << 53) - 1;
/// How deep arrays and objects may nest.
pub const MAX_DEPTH: usize = 64;

/// Why a value has no canonical form, or bytes are not a value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number that is no integer within +-(2^53 - 1).
    #[error("{0} is not an integer within +-(2^53 - 1); write decimals as strings")]
    Number(String),
    /// Arrays and objects nest too deep.
    #[error("nested deeper than {MAX_DEPTH} levels")]
    Depth,
    /// Not JSON, a duplicate key, bytes after the value, or not of the expected type.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// JSON, but not in its canonical form.
    #[error("not in canonical form (RFC 8785)")]
    NotCanonical,
}

/// The canonical bytes of `value`.
///
/// # Errors
/// [`Error::Number`], [`Error::Depth`].
pub fn to_vec(value: &Value) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    write(&mut out, value, 0)?;
    Ok(out)
}

/// The canonical bytes of anything that serialises to JSON. Its type must hold no floats: what is not a number
/// would become `null`.
///
/// # Errors
/// As [`to_vec`], and what `T` itself refuses to serialise.
pub fn serialize<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    to_vec(&serde_json::to_value(value)?)
}

fn write(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    match value {
        Value::Null => out.extend(b"null"),
        Value::Bool(true) => out.extend(b"true"),
        Value::Bool(false) => out.extend(b"false"),
        Value::Number(number) => match number.as_i64() {
            Some(n) if (-MAX_INTEGER..=MAX_INTEGER).contains(&n) => out.extend(n.to_string().bytes()),
            _ => return Err(Error::Number(number.to_string())),
        },
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(out, item, depth + 1)?;
            }
            out.push(b']');
        }
        Value::Object(map) => {
            // RFC 8785 section 3.2.3: by UTF-16 code units, which is not the order of UTF-8 bytes.
            let mut members: Vec<_> = map.iter().collect();
            members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push(b'{');
            for (i, (key, member)) in members.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(out, key);
                out.push(b':');
                write(out, member, depth + 1)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// RFC 8785 section 3.2.2.2: the short escapes where there is one, else \u00xx for controls, all else as is.
fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend(b"\\\""),
            b'\\' => out.extend(b"\\\\"),
            0x08 => out.extend(b"\\b"),
            b'\t' => out.extend(b"\\t"),
            b'\n' => out.extend(b"\\n"),
            0x0c => out.extend(b"\\f"),
            b'\r' => out.extend(b"\\r"),
            0..0x20 => out.extend(format!("\\u{byte:04x}").bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Reads one JSON value strictly: no duplicate keys, integers only, at most [`MAX_DEPTH`] levels, nothing
/// after it but whitespace. The form need not be canonical.
///
/// # Errors
/// [`Error::Json`] with line and column. Limits on the size of `bytes` are the caller's.
pub fn parse(bytes: &[u8]) -> Result<Value, Error> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }.deserialize(&mut json)?;
    json.end()?;
    Ok(value)
}

/// Reads one JSON value strictly, and only if `bytes` are its canonical form.
///
/// # Errors
/// As [`parse`], and [`Error::NotCanonical`].
pub fn parse_canonical(bytes: &[u8]) -> Result<Value, Error> {
    let value = parse(bytes)?;
    if to_vec(&value)? != bytes { Err(Error::NotCanonical) } else { Ok(value) }
}

/// [`parse_canonical`] into a type. Let the type deny unknown fields, or a field nobody looks at is signed
/// too.
///
/// # Errors
/// As [`parse_canonical`], and if the value does not fit `T`.
pub fn deserialize_canonical<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    Ok(serde_json::from_value(parse_canonical(bytes)?)?)
}

/// Whether `bytes` are the canonical form of some value.
pub fn is_canonical(bytes: &[u8]) -> bool {
    parse_canonical(bytes).is_ok()
}

/// Builds a [`Value`] while refusing what [`Value`]'s own reader forgives.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth + 1;
        if depth > MAX_DEPTH { Err(E::custom(Error::Depth)) } else { Ok(Self { depth }) }
    }
}

fn integer<E: de::Error>(number: Option<i64>, text: impl fmt::Display) -> Result<Value, E> {
    match number {
        Some(n) if (-MAX_INTEGER..=MAX_INTEGER).contains(&n) => Ok(Value::from(n)),
        _ => Err(E::custom(Error::Number(text.to_string()))),
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        integer(Some(value), value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        integer(i64::try_from(value).ok(), value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        integer(None, value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format_args!("key {key:?} occurs twice")));
            }
            let value = access.next_value_seed(inner)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests;
