//! Which resources a server has, and in what they differ.

use std::sync::Arc;

use serde_json::Value;

use super::objects::Key;
use super::schema::Schema;

/// One resource.
#[derive(Debug, Clone)]
pub struct Kind {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    /// As in `ConfigMap`.
    pub kind: String,
    /// As in `configmaps`.
    pub resource: String,
    /// Objects lie in namespaces.
    pub namespaced: bool,
    /// There is a status that only `/status` writes.
    pub status: bool,
    /// metadata.generation counts changes of what is wanted.
    pub generation: bool,
    /// An update needs no resourceVersion.
    pub unconditional: bool,
    /// openAPIV3Schema, of what a CustomResourceDefinition made.
    pub schema: Option<Arc<Schema>>,
}

impl Kind {
    /// `group/resource`.
    #[must_use]
    pub fn collection(&self) -> String {
        format!("{}/{}", self.group, self.resource)
    }

    /// Where the object of this name lies.
    #[must_use]
    pub fn key(&self, namespace: Option<&str>, name: &str) -> Key {
        let namespace = namespace.unwrap_or_default().to_owned();
        Key { collection: self.collection(), namespace, name: name.to_owned() }
    }

    /// `group/version`, or the version of the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// As messages call it: `configmaps`, `workunits.muster.dev`.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    /// The first served version of a CustomResourceDefinition. `None` if that is none.
    #[must_use]
    pub fn of_definition(definition: &Value) -> Option<Self> {
        let (spec, text) = (&definition["spec"], |value: &Value| value.as_str().map(str::to_owned));
        let version = spec["versions"].as_array()?.iter().find(|version| version["served"] == true)?;
        Some(Self {
            group: text(&spec["group"])?,
            version: text(&version["name"])?,
            kind: text(&spec["names"]["kind"])?,
            resource: text(&spec["names"]["plural"])?,
            namespaced: spec["scope"] == "Namespaced",
            status: version["subresources"]["status"].is_object(),
            generation: true,
            unconditional: false,
            schema: Some(Arc::new(Schema::new(version["schema"]["openAPIV3Schema"].clone()))),
        })
    }
}

/// Everything that a server has with these CustomResourceDefinitions.
#[must_use]
pub fn with_definitions(definitions: &[Value]) -> Arc<Vec<Kind>> {
    let mut kinds = built_in();
    kinds.extend(definitions.iter().filter_map(Kind::of_definition));
    Arc::new(kinds)
}

/// What every cluster has, as far as Muster uses it.
fn built_in() -> Vec<Kind> {
    // group, version, kind, resource, namespaced, status, generation
    let table = [
        ("", "v1", "Namespace", "namespaces", false, true, false),
        ("", "v1", "Node", "nodes", false, true, false),
        ("", "v1", "ConfigMap", "configmaps", true, false, false),
        ("", "v1", "Event", "events", true, false, false),
        ("", "v1", "Pod", "pods", true, true, true),
        ("", "v1", "ResourceQuota", "resourcequotas", true, true, false),
        ("", "v1", "Secret", "secrets", true, false, false),
        ("", "v1", "Service", "services", true, true, false),
        ("", "v1", "ServiceAccount", "serviceaccounts", true, false, false),
        ("batch", "v1", "Job", "jobs", true, true, true),
        ("coordination.k8s.io", "v1", "Lease", "leases", true, false, false),
        ("events.k8s.io", "v1", "Event", "events", true, false, false),
        ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", false, false, false),
        ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", false, false, false),
        ("rbac.authorization.k8s.io", "v1", "Role", "roles", true, false, false),
        ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", true, false, false),
    ];
    let kind = |(group, version, kind, resource, namespaced, status, generation): (
        &str,
        &str,
        &str,
        &str,
        _,
        _,
        _,
    )| Kind {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        resource: resource.to_owned(),
        namespaced,
        status,
        generation,
        unconditional: true,
        schema: None,
    };
    table.into_iter().map(kind).collect()
}
