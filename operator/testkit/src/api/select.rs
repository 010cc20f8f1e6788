//! Label and field selectors of lists and watches (Kubernetes, "Labels and Selectors", "Field Selectors").

use serde_json::Value;

/// Which objects of a collection are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, bool, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

impl Selector {
    /// Reads both selectors of a query.
    ///
    /// # Errors
    /// A sentence, for what is not understood.
    pub fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self, String> {
        let labels =
            split(labels.unwrap_or_default()).into_iter().map(requirement).collect::<Result<_, _>>()?;
        let fields = fields.unwrap_or_default().split(',').filter(|text| !text.is_empty()).map(|text| {
            let (field, is, value) = match (text.split_once("!="), text.split_once("==")) {
                (Some((field, value)), _) => (field, false, value),
                (None, Some((field, value))) => (field, true, value),
                (None, None) => {
                    let (field, value) =
                        text.split_once('=').ok_or(format!("{text:?} is no field selector"))?;
                    (field, true, value)
                }
            };
            Ok::<_, String>((field.to_owned(), is, value.to_owned()))
        });
        Ok(Self { labels, fields: fields.collect::<Result<_, _>>()? })
    }

    /// Whether the object is one of them.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        let labelled = self.labels.iter().all(|wanted| match wanted {
            Requirement::In(key, values) => label(key).is_some_and(|label| values.iter().any(|v| v == label)),
            // Also without the label.
            Requirement::NotIn(key, values) => {
                label(key).is_none_or(|label| values.iter().all(|v| v != label))
            }
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Missing(key) => label(key).is_none(),
        });
        labelled
            && self.fields.iter().all(|(field, is, value)| {
                let mut at = object;
                for part in field.split('.') {
                    at = &at[part];
                }
                let found = match at {
                    Value::Null => String::new(),
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                (found == *value) == *is
            })
    }
}

/// At commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_i32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let set = |word: &str| {
        let (key, values) = text.split_once(word)?;
        let values = values.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some((key.trim().to_owned(), values.split(',').map(|v| v.trim().to_owned()).collect()))
    };
    if let Some((key, values)) = set(" notin ") {
        return Ok(Requirement::NotIn(key, values));
    }
    if let Some((key, values)) = set(" in ") {
        return Ok(Requirement::In(key, values));
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(Requirement::NotIn(key.trim().to_owned(), vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement::In(key.trim().to_owned(), vec![value.trim().to_owned()]));
    }
    let plain = |key: &str| !key.is_empty() && !key.contains([' ', '(', ')']);
    match text.strip_prefix('!') {
        Some(key) if plain(key.trim()) => Ok(Requirement::Missing(key.trim().to_owned())),
        None if plain(text) => Ok(Requirement::Exists(text.to_owned())),
        _ => Err(format!("{text:?} is no label selector")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_select() {
        let object =
            json!({"metadata": {"name": "a", "labels": {"x": "1", "app": "m"}}, "status": {"phase": "Run"}});
        let holds = |labels: &str, fields: &str| {
            Selector::parse(Some(labels), Some(fields)).unwrap().matches(&object)
        };
        for yes in [
            "",
            "x",
            "x=1",
            "x==1",
            "x!=2",
            "y!=2",
            "!y",
            "x in (1,2),app=m",
            "x notin (3, 4)",
            "y notin (1)",
        ] {
            assert!(holds(yes, ""), "{yes}");
        }
        for no in ["y", "x=2", "x!=1", "!x", "x in (2,3)", "x notin (1,2)", "x=1,y"] {
            assert!(!holds(no, ""), "{no}");
        }
        assert!(holds("", "metadata.name=a,status.phase!=Done") && holds("", "status.none="));
        assert!(!holds("", "metadata.name=b") && !holds("", "metadata.name!=a"));
        for bad in ["x y", "(", "!"] {
            Selector::parse(Some(bad), None).unwrap_err();
        }
        Selector::parse(None, Some("phase")).unwrap_err();
    }
}
