//! The few JSON forms a graph needs, written as RFC 8785 demands: sorted keys, no spaces, ASCII
//! strings without escapes, integers only. Hand-made because a digest must not depend on which map
//! type a dependency's features select.

use std::fmt::Write;

/// A JSON value of the canonical subset.
pub(crate) enum Json {
    Integer(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl Json {
    pub(crate) fn text(value: &str) -> Json {
        Json::Text(value.to_owned())
    }

    pub(crate) fn index(value: usize) -> Json {
        Json::Integer(value as u64)
    }

    /// Appends the canonical form. Strings are ours: names of ops and tensors, printable ASCII
    /// without quotes or backslashes (the graph's `check` makes sure of it).
    pub(crate) fn write(&self, out: &mut String) {
        match self {
            // Writing to a String cannot fail.
            Json::Integer(value) => drop(write!(out, "{value}")),
            Json::Text(value) => drop(write!(out, "\"{value}\"")),
            Json::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Json::Object(fields) => {
                let mut sorted: Vec<&(&str, Json)> = fields.iter().collect();
                sorted.sort_by_key(|(key, _)| *key);
                out.push('{');
                for (i, (key, value)) in sorted.into_iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    let _ = write!(out, "\"{key}\":");
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_and_nothing_is_padded() {
        let value = Json::Object(vec![
            ("b", Json::List(vec![Json::Integer(1), Json::text("x")])),
            ("a", Json::Object(vec![])),
        ]);
        let mut out = String::new();
        value.write(&mut out);
        assert_eq!(out, r#"{"a":{},"b":[1,"x"]}"#);
    }
}
