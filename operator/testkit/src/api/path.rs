//! Paths of the Kubernetes API (Kubernetes API Concepts, "Resource URIs").

/// What a path is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Empty for the core group.
    pub group: String,
    /// As in `v1alpha1`.
    pub version: String,
    /// In the plural.
    pub resource: String,
    /// `None` for what has none, and for lists over all of them.
    pub namespace: Option<String>,
    /// `None` for a collection.
    pub name: Option<String>,
    /// As in `status`.
    pub sub: Option<String>,
}

/// Reads a path; `None` for one that is no resource's.
#[must_use]
pub fn parse(path: &str) -> Option<Place> {
    let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, resource, name, sub) = match *rest {
        // Namespaces are objects, too; two of their parts are no resource's.
        ["namespaces"] => (None, "namespaces", None, None),
        ["namespaces", name] => (None, "namespaces", Some(name), None),
        ["namespaces", name, sub @ ("status" | "finalize")] => (None, "namespaces", Some(name), Some(sub)),
        ["namespaces", namespace, resource] => (Some(namespace), resource, None, None),
        ["namespaces", namespace, resource, name] => (Some(namespace), resource, Some(name), None),
        ["namespaces", namespace, resource, name, sub] => (Some(namespace), resource, Some(name), Some(sub)),
        [resource] => (None, resource, None, None),
        [resource, name] => (None, resource, Some(name), None),
        [resource, name, sub] => (None, resource, Some(name), Some(sub)),
        _ => return None,
    };
    let all = [Some(version), Some(resource), namespace, name, sub];
    if all.into_iter().flatten().any(str::is_empty) {
        return None;
    }
    Some(Place {
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        sub: sub.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read() {
        for (path, want) in [
            ("/api/v1/namespaces", "|v1|namespaces||"),
            ("/api/v1/namespaces/a", "|v1|namespaces||a"),
            ("/api/v1/namespaces/a/status", "|v1|namespaces||a/status"),
            ("/api/v1/namespaces/a/pods", "|v1|pods|a|"),
            ("/api/v1/pods", "|v1|pods||"),
            ("/apis/batch/v1/namespaces/a/jobs/j", "batch|v1|jobs|a|j"),
            (
                "/apis/muster.dev/v1alpha1/namespaces/a/workunits/w/status",
                "muster.dev|v1alpha1|workunits|a|w/status",
            ),
            ("/apis/muster.dev/v1alpha1/computeproviders/east", "muster.dev|v1alpha1|computeproviders||east"),
        ] {
            let Place { group, version, resource, namespace, name, sub } = parse(path).unwrap();
            let sub = sub.map_or(String::new(), |sub| format!("/{sub}"));
            let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
            assert_eq!(format!("{group}|{version}|{resource}|{namespace}|{name}{sub}"), want, "{path}");
        }
        for bad in [
            "",
            "/",
            "/healthz",
            "/api/v1",
            "/apis/batch/v1/",
            "/api/v1/namespaces//pods",
            "/api/v1/a/b/c/d/e/f",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
