//! Bad objects that nobody thought of: each breaks one bound of a schema, and is made from it. A good object in which one value is
//! another, or is missing, or one that is too much; fields that the object leaves out are made first.

use serde_json::{Map, Value, json};

use super::Case;

/// All of `field` (`spec` or `status`) of a good object, in the order of the schema.
pub fn broken(schema: &Value, good: &Value, field: &str) -> Vec<Case> {
    let mut all = Vec::new();
    let mut here = Here { good, kind: good["kind"].as_str().unwrap().to_owned(), steps: Vec::new() };
    here.steps.push(Step::Field(field.to_owned()));
    breaks(&schema["properties"][field], &mut here, &mut all);
    all
}

#[derive(Clone)]
enum Step {
    Field(String),
    Item,
}

struct Here<'a> {
    good: &'a Value,
    kind: String,
    steps: Vec<Step>,
}

impl Here<'_> {
    fn path(&self) -> String {
        let mut path = String::new();
        for step in &self.steps {
            match step {
                Step::Field(name) if path.is_empty() => path.push_str(name),
                Step::Field(name) => path.push_str(&format!(".{name}")),
                Step::Item => path.push_str("[0]"),
            }
        }
        path
    }

    /// The good object with another value here.
    fn with(&self, value: Option<Value>) -> Value {
        let mut object = self.good.clone();
        let (last, way) = self.steps.split_last().unwrap();
        let mut place = &mut object;
        for (step, next) in way.iter().zip(&self.steps[1..]) {
            place = enter(place, step, matches!(next, Step::Item));
        }
        match (last, value) {
            (Step::Field(name), Some(value)) => place[name.as_str()] = value,
            (Step::Field(name), None) => drop(place.as_object_mut().unwrap().remove(name)),
            (Step::Item, Some(value)) => place[0] = value,
            (Step::Item, None) => unreachable!("an item is never missing"),
        }
        object
    }

    fn breaks(&self, what: &str, value: Value, all: &mut Vec<Case>) {
        all.push(self.case(what, Some(value)));
    }

    /// `TrainingJob spec.workers.count: beyond its maximum`; the refusal names the field.
    fn case(&self, what: &str, value: Option<Value>) -> Case {
        let path = self.path();
        Case {
            name: format!("{} {path}: {what}", self.kind),
            via_status: path.starts_with("status"),
            before: None,
            object: self.with(value),
            expect: vec![path],
        }
    }
}

/// What is there, made if it is not.
fn enter<'a>(place: &'a mut Value, step: &Step, is_list: bool) -> &'a mut Value {
    let made = || if is_list { json!([{}]) } else { json!({}) };
    match step {
        Step::Field(name) => {
            let inner = &mut place[name.as_str()];
            let empty = inner.is_null() || inner.as_array().is_some_and(Vec::is_empty);
            if empty {
                *inner = made();
            }
            inner
        }
        Step::Item => &mut place[0],
    }
}

fn breaks(schema: &Value, here: &mut Here<'_>, all: &mut Vec<Case>) {
    // What may be two types is a quantity or the like, and has a pattern.
    let either = schema["x-kubernetes-int-or-string"] == true;
    let kind = schema["type"].as_str().unwrap_or("");
    let other = match kind {
        "string" => json!(7),
        _ => json!("of another type"),
    };
    if !either && !kind.is_empty() {
        here.breaks(&format!("no {kind}"), other, all);
    }
    match kind {
        "integer" => {
            for (bound, by) in [("minimum", -1), ("maximum", 1)] {
                if let Some(limit) = schema[bound].as_f64() {
                    #[allow(clippy::cast_possible_truncation, reason = "bounds are whole and small")]
                    here.breaks(&format!("beyond its {bound}"), json!(limit as i64 + by), all);
                }
            }
            here.breaks("a fraction", json!(1.5), all);
        }
        "string" => string(schema, here, all),
        "array" => array(schema, here, all),
        "object" => object(schema, here, all),
        _ => {}
    }
}

fn string(schema: &Value, here: &Here<'_>, all: &mut Vec<Case>) {
    if !schema["enum"].is_null() {
        here.breaks("not one of those", json!("Nonsense"), all);
    } else if !schema["pattern"].is_null() {
        here.breaks("against its pattern", json!("\u{7}?!"), all);
    } else if !schema["format"].is_null() {
        here.breaks("against its format", json!("at noon"), all);
    }
    if let Some(longest) = schema["maxLength"].as_u64() {
        here.breaks("too long", json!("a".repeat(usize::try_from(longest).unwrap() + 1)), all);
    }
    if schema["minLength"].as_u64().is_some_and(|shortest| shortest > 0) {
        here.breaks("empty", json!(""), all);
    }
}

fn array(schema: &Value, here: &mut Here<'_>, all: &mut Vec<Case>) {
    if let Some(most) = schema["maxItems"].as_u64() {
        let item = match schema["items"]["type"].as_str() {
            Some("string") => json!("a"),
            _ => json!({}),
        };
        let many = vec![item; usize::try_from(most).unwrap() + 1];
        here.breaks("too many", many.into(), all);
    }
    if schema["minItems"].as_u64().is_some_and(|least| least > 0) {
        here.breaks("none", json!([]), all);
    }
    here.steps.push(Step::Item);
    breaks(&schema["items"], here, all);
    here.steps.pop();
}

fn object(schema: &Value, here: &mut Here<'_>, all: &mut Vec<Case>) {
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    for name in schema["required"].as_array().into_iter().flatten() {
        here.steps.push(Step::Field(name.as_str().unwrap().to_owned()));
        all.push(here.case("missing", None));
        here.steps.pop();
    }
    if !properties.is_empty() && schema["x-kubernetes-preserve-unknown-fields"] != true {
        here.steps.push(Step::Field("surprise".into()));
        here.breaks("unknown", json!(1), all);
        here.steps.pop();
    }
    for (name, inner) in properties {
        here.steps.push(Step::Field(name.clone()));
        breaks(inner, here, all);
        here.steps.pop();
    }
}
