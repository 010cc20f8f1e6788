//! Create, update and delete: what a registry does before it asks the store (apiserver's `rest.BeforeCreate`, `BeforeUpdate`,
//! `BeforeDelete`).

use serde_json::{Map, Value, json};

use super::answer::Refused;
use super::kinds::Kind;
use super::objects::{Key, Objects};
use super::schema;

/// Which half of an object a request writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// All but the status, if that is apart.
    Main,
    /// The status alone.
    Status,
}

/// One request that writes to the objects of a server.
pub struct Write<'a> {
    pub kind: &'a Kind,
    pub objects: &'a mut Objects,
    /// Something that is kept beside the object changes, so it gets a new version whatever becomes of it.
    pub touched: bool,
    /// Times in objects are in whole seconds, RFC 3339.
    pub now: String,
}

/// Most names that generateName tries are taken by nobody; this many are tried.
const TRIES: u64 = 8;

impl Write<'_> {
    /// The object as it is.
    ///
    /// # Errors
    /// 404.
    pub fn found(&self, key: &Key) -> Result<Value, Refused> {
        self.objects.get(key).cloned().ok_or_else(|| Refused::not_found(&self.kind.qualified(), &key.name))
    }

    /// Makes an object; gives it as it is now.
    ///
    /// # Errors
    /// As the API server refuses it.
    pub fn create(&mut self, namespace: Option<&str>, mut object: Value) -> Result<Value, Refused> {
        self.check_body(&object, namespace)?;
        let namespace = namespace.unwrap_or_default();
        self.check_namespace(namespace)?;
        let version = self.objects.version();
        let metadata = metadata(&mut object);
        if metadata
            .get("resourceVersion")
            .is_some_and(|version| version.as_str().is_some_and(|v| !v.is_empty()))
        {
            return Err(Refused {
                code: 500,
                ..Refused::bad("resourceVersion should not be set on objects to be created")
            });
        }
        let named =
            metadata.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned);
        let name = match (named, metadata.get("generateName").and_then(Value::as_str)) {
            (Some(name), _) => name,
            (None, Some(prefix)) if !prefix.is_empty() => self.generated(namespace, prefix, version)?,
            (None, _) => {
                return Err(Refused::invalid(
                    "metadata.name: Required value: name or generateName is required",
                ));
            }
        };
        let key = self.kind.key(Some(namespace), &name);
        if self.objects.get(&key).is_some() {
            return Err(Refused::exists(&self.kind.qualified(), &name));
        }
        let metadata = self::metadata(&mut object);
        for field in [
            "resourceVersion",
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "managedFields",
        ] {
            metadata.remove(field);
        }
        metadata.insert("name".into(), json!(name));
        if self.kind.namespaced {
            metadata.insert("namespace".into(), json!(namespace));
        }
        // Names are made of its beginning, which is another one for each object.
        let begins = crate::entropy::mixed(version) >> 32;
        metadata.insert("uid".into(), json!(format!("{begins:08x}-0000-4000-8000-{:012x}", version + 1)));
        metadata.insert("creationTimestamp".into(), json!(self.now));
        if self.kind.generation {
            metadata.insert("generation".into(), json!(1));
        }
        tidy(metadata);
        if self.kind.status
            && let Some(object) = object.as_object_mut()
        {
            object.remove("status");
        }
        if self.kind.collection() == "/namespaces" {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(name);
        }
        self.finish(&mut object, None, &name)?;
        Ok(self.objects.put(key, object))
    }

    fn generated(&self, namespace: &str, prefix: &str, version: u64) -> Result<String, Refused> {
        // Whoever reads a trace sees from where the name is; no randomness.
        let name = |i: u64| format!("{prefix}{:05x}", (version + i).wrapping_mul(0x9_E377) & 0xF_FFFF);
        let free = |name: &String| self.objects.get(&self.kind.key(Some(namespace), name)).is_none();
        (0..TRIES).map(name).find(free).ok_or_else(|| Refused::exists(&self.kind.qualified(), prefix))
    }

    /// Replaces an object, or one half of it, by the whole that is wanted; gives it as it is now.
    ///
    /// # Errors
    /// As the API server refuses it.
    pub fn replace(
        &mut self,
        namespace: Option<&str>,
        name: &str,
        half: Half,
        object: Value,
    ) -> Result<Value, Refused> {
        self.check_body(&object, namespace)?;
        let key = self.kind.key(namespace, name);
        let old = self.found(&key)?;
        if object["metadata"]["name"].as_str().is_some_and(|named| named != name)
            || object["metadata"]["name"].is_null()
        {
            return Err(Refused::bad(format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                object["metadata"]["name"].as_str().unwrap_or_default()
            )));
        }
        if object["metadata"]["resourceVersion"].as_str().is_none_or(str::is_empty)
            && !self.kind.unconditional
        {
            return Err(Refused::invalid(format!(
                "{} {name:?} is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update",
                self.kind.qualified()
            )));
        }
        self.update(key, &old, half, object)
    }

    /// Writes `wanted`, which came of `old`, if that is still there.
    ///
    /// # Errors
    /// 409, 422.
    pub fn update(&mut self, key: Key, old: &Value, half: Half, mut wanted: Value) -> Result<Value, Refused> {
        let qualified = self.kind.qualified();
        let says = |field: &str| wanted["metadata"][field].as_str().filter(|text| !text.is_empty());
        if says("resourceVersion").is_some_and(|version| old["metadata"]["resourceVersion"] != version) {
            let why =
                "the object has been modified; please apply your changes to the latest version and try again";
            return Err(Refused::conflict(&qualified, &key.name, why));
        }
        if let Some(uid) = says("uid").filter(|uid| old["metadata"]["uid"] != *uid) {
            let there = old["metadata"]["uid"].as_str().unwrap_or_default();
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {there}");
            return Err(Refused::conflict(&qualified, &key.name, why));
        }
        let mut new = old.clone();
        match half {
            Half::Status => match wanted.get_mut("status").map(Value::take) {
                Some(status) => new["status"] = status,
                None => drop(new.as_object_mut().map(|new| new.remove("status"))),
            },
            Half::Main => {
                new = wanted;
                self.keep(&mut new, old);
                let added = |list: &Value| !finalizers(list).iter().all(|one| finalizers(old).contains(one));
                if !old["metadata"]["deletionTimestamp"].is_null() && added(&new) {
                    return Err(Refused::invalid(
                        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted",
                    ));
                }
            }
        }
        self.finish(&mut new, Some(old), &key.name)?;
        if half == Half::Main && self.kind.generation && without_ephemera(&new) != without_ephemera(old) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            new["metadata"]["generation"] = json!(generation);
        }
        if !new["metadata"]["deletionTimestamp"].is_null() && finalizers(&new).is_empty() && self.ends(&new) {
            // Watchers see what the store had, which is not what the update made of it.
            self.objects.remove(&key);
            return Ok(new);
        }
        if new == *old && !self.touched {
            return Ok(new);
        }
        Ok(self.objects.put(key, new))
    }

    /// What nobody writes stays as it was.
    fn keep(&self, new: &mut Value, old: &Value) {
        let (was, is) = (old["metadata"].clone(), metadata(new));
        for field in [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            match was.get(field) {
                Some(value) => is.insert(field.into(), value.clone()),
                None => is.remove(field),
            };
        }
        tidy(is);
        if self.kind.status
            && let Some(new) = new.as_object_mut()
        {
            match old.get("status") {
                Some(status) => new.insert("status".into(), status.clone()),
                None => new.remove("status"),
            };
        }
    }

    /// Deletes an object, or marks it for those who hold it; gives it as it is now, and whether it is gone.
    ///
    /// # Errors
    /// 404, 409.
    pub fn delete(
        &mut self,
        namespace: Option<&str>,
        name: &str,
        options: &Value,
    ) -> Result<(Value, bool), Refused> {
        let key = self.kind.key(namespace, name);
        let mut object = self.found(&key)?;
        for (field, word) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
            let there = &object["metadata"][field];
            if let Some(wanted) = options["preconditions"][field].as_str().filter(|wanted| there != wanted) {
                let there = there.as_str().unwrap_or_default();
                let why = format!(
                    "Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {there}"
                );
                return Err(Refused::conflict(&self.kind.qualified(), name, why));
            }
        }
        let waits = match options["propagationPolicy"].as_str() {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        let deleting = !object["metadata"]["deletionTimestamp"].is_null();
        if let Some(finalizer) =
            waits.filter(|one| !finalizers(&object).contains(&(*one).to_owned()) && !deleting)
        {
            let mut all = finalizers(&object);
            all.push(finalizer.to_owned());
            object["metadata"]["finalizers"] = json!(all);
        }
        if finalizers(&object).is_empty() && self.ends(&object) {
            let last = self.objects.remove(&key);
            return last
                .map(|last| (last, true))
                .ok_or_else(|| Refused::not_found(&self.kind.qualified(), name));
        }
        if deleting {
            return Ok((object, false));
        }
        object["metadata"]["deletionTimestamp"] = json!(self.now);
        object["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        if self.kind.generation {
            let generation = object["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            object["metadata"]["generation"] = json!(generation);
        }
        if self.kind.collection() == "/namespaces" {
            object["status"]["phase"] = json!("Terminating");
            // It has no grace.
            metadata(&mut object).remove("deletionGracePeriodSeconds");
        }
        Ok((self.objects.put(key, object), false))
    }

    /// A namespace goes when its own finalizer, which is not metadata's, does: that is the namespace controller's.
    fn ends(&self, object: &Value) -> bool {
        object["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty)
            || self.kind.collection() != "/namespaces"
    }

    fn check_body(&self, object: &Value, namespace: Option<&str>) -> Result<(), Refused> {
        if !object.is_object() {
            return Err(Refused::bad("the body of the request is no object"));
        }
        let (kind, version) = (&object["kind"], &object["apiVersion"]);
        if *kind != self.kind.kind.as_str() || *version != self.kind.api_version().as_str() {
            let want = format!("{}, Kind={}", self.kind.api_version(), self.kind.kind);
            return Err(Refused::bad(format!(
                "the body is a {version} {kind}, the URL's objects are {want}"
            )));
        }
        match (object["metadata"]["namespace"].as_str(), namespace) {
            (Some(said), Some(namespace)) if said != namespace => Err(Refused::bad(
                "the namespace of the provided object does not match the namespace sent on the request",
            )),
            _ => Ok(()),
        }
    }

    fn check_namespace(&self, namespace: &str) -> Result<(), Refused> {
        if !self.kind.namespaced {
            return Ok(());
        }
        let key =
            Key { collection: "/namespaces".into(), namespace: String::new(), name: namespace.to_owned() };
        match self.objects.get(&key) {
            None => Err(Refused::not_found("namespaces", namespace)),
            Some(found) if !found["metadata"]["deletionTimestamp"].is_null() => {
                Err(Refused::forbidden(format!(
                    "unable to create new content in namespace {namespace} because it is being terminated"
                )))
            }
            Some(_) => Ok(()),
        }
    }

    /// What a definition's schema adds and leaves out.
    fn finish(&self, object: &mut Value, old: Option<&Value>, name: &str) -> Result<(), Refused> {
        match &self.kind.schema {
            Some(schema) => schema::finish(schema, object, old, &format!("{} {name:?}", self.kind.kind)),
            None => {
                // Types in Go leave out what is empty.
                if let Some(object) = object.as_object_mut() {
                    object.retain(|name, value| name == "status" || !is_empty(value));
                }
                Ok(())
            }
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    match &mut object["metadata"] {
        Value::Object(metadata) => metadata,
        _ => unreachable!("it was made one"),
    }
}

/// Empty lists and maps of metadata are none.
fn tidy(metadata: &mut Map<String, Value>) {
    metadata.retain(|_, value| !is_empty(value));
}

pub(super) fn finalizers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

/// What generation counts: all but metadata and status.
fn without_ephemera(object: &Value) -> Value {
    let mut rest = object.clone();
    if let Some(rest) = rest.as_object_mut() {
        rest.remove("metadata");
        rest.remove("status");
    }
    rest
}
