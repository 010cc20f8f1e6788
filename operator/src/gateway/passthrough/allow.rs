//! The list of section 4, as a parser: what it does not understand it refuses, and what it returns is built anew, so that no
//! spelling of the caller's reaches the API server.
use axum::http::{HeaderMap, Method, Uri, header};
use muster_api::names::{PROVIDER_NAMESPACE_PREFIX, REPORT};

use crate::wire::gateway::API_PREFIX;

/// No query is longer.
const MAX_QUERY: usize = 4096;
/// No name of an object is longer (RFC 1123).
const MAX_NAME: usize = 253;

/// The path and query at the API server, or why the request is not on the list.
pub fn target(method: &Method, uri: &Uri, headers: &HeaderMap, provider: &str) -> Result<Uri, String> {
    let namespace = format!("{PROVIDER_NAMESPACE_PREFIX}{provider}");
    let refuse = || {
        format!(
            "this request is not one that agents may make; allowed are GET workunits, workunits/NAME[/status], \
             providerreports/report[/status], PATCH workunits/NAME/status and providerreports/report/status, \
             GET and PUT leases/agent, all in namespace {namespace}"
        )
    };
    if headers.contains_key(header::UPGRADE) {
        return Err("connections cannot be upgraded here".into());
    }
    let query = uri.query().unwrap_or_default();
    if query.len() > MAX_QUERY {
        return Err(format!("the query has more than {MAX_QUERY} bytes"));
    }
    let path =
        uri.path().strip_prefix(API_PREFIX).and_then(|path| path.strip_prefix('/')).ok_or_else(refuse)?;
    // The longest path on the list has nine segments.
    let segments: Vec<&str> = path.split('/').take(10).collect();
    if !segments.iter().all(|segment| is_plain(segment)) {
        return Err(refuse());
    }
    let ["apis", group, version, "namespaces", asked, resource @ ..] = segments.as_slice() else {
        return Err(refuse());
    };
    if *asked != namespace {
        return Err(refuse());
    }
    let allowed: &[Method] = match (*group, *version, resource) {
        ("muster.dev", "v1alpha1", ["workunits"]) => &[Method::GET],
        ("muster.dev", "v1alpha1", ["workunits", _]) => &[Method::GET],
        ("muster.dev", "v1alpha1", ["workunits", _, "status"]) => &[Method::GET, Method::PATCH],
        ("muster.dev", "v1alpha1", ["providerreports", REPORT]) => &[Method::GET],
        ("muster.dev", "v1alpha1", ["providerreports", REPORT, "status"]) => &[Method::GET, Method::PATCH],
        ("coordination.k8s.io", "v1", ["leases", "agent"]) => &[Method::GET, Method::PUT],
        _ => &[],
    };
    if !allowed.contains(method) {
        return Err(refuse());
    }
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    format!("/{}{query}", segments.join("/")).parse().map_err(|_| refuse())
}

/// A word that means itself: no percent-encoding, no dots that lead elsewhere, nothing empty.
fn is_plain(segment: &str) -> bool {
    let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = segment.as_bytes();
    bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(|&c| word(c))
        && bytes.last().is_some_and(|&c| word(c))
        && bytes.iter().all(|&c| word(c) || c == b'-' || c == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    const MUSTER: &str = "/k8s/apis/muster.dev/v1alpha1/namespaces/muster-p-east";
    const LEASES: &str = "/k8s/apis/coordination.k8s.io/v1/namespaces/muster-p-east/leases";

    fn ask(method: &str, path: &str) -> Result<String, String> {
        let uri: Uri = path.parse().map_err(|_| "no URI".to_owned())?;
        let method: Method = method.parse().unwrap();
        target(&method, &uri, &HeaderMap::new(), "east").map(|uri| uri.to_string())
    }

    #[test]
    fn what_agents_need_is_allowed_and_reaches_the_same_path() {
        let m = |rest: &str| format!("{MUSTER}/{rest}");
        for (method, path) in [
            ("GET", m("workunits")),
            ("GET", m("workunits?limit=500&resourceVersion=0")),
            ("GET", m("workunits?watch=true&allowWatchBookmarks=true&timeoutSeconds=290")),
            ("GET", m("workunits?labelSelector=muster.dev%2Fjob-uid%3D4f2a")),
            ("GET", m("workunits/4f2a9c1b-0-1")),
            ("GET", m("workunits/4f2a9c1b-0-1/status")),
            ("PATCH", m("workunits/4f2a9c1b-0-1/status")),
            ("PATCH", m("workunits/4f2a9c1b-0-1/status?fieldManager=muster-agent&force=true")),
            ("GET", m("workunits/a.b")),
            ("GET", m("providerreports/report")),
            ("GET", m("providerreports/report/status")),
            ("PATCH", m("providerreports/report/status")),
            ("GET", format!("{LEASES}/agent")),
            ("PUT", format!("{LEASES}/agent")),
        ] {
            let got = ask(method, &path).unwrap_or_else(|why| panic!("{method} {path}: {why}"));
            assert_eq!(format!("/k8s{got}"), path, "{method}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let m = |rest: &str| format!("{MUSTER}/{rest}");
        let l = |rest: &str| format!("{LEASES}{rest}");
        let east = |path: &str| path.to_owned();
        for (method, path) in [
            // Other verbs.
            ("POST", m("workunits")),
            ("PUT", m("workunits/u")),
            ("PATCH", m("workunits/u")),
            ("DELETE", m("workunits/u")),
            ("DELETE", m("workunits")),
            ("HEAD", m("workunits")),
            ("OPTIONS", m("workunits")),
            ("CONNECT", m("workunits")),
            ("PUT", m("workunits/u/status")),
            ("PUT", m("providerreports/report/status")),
            ("PATCH", m("providerreports/report")),
            ("PATCH", l("/agent")),
            ("DELETE", l("/agent")),
            ("POST", l("")),
            ("BREW", m("workunits")),
            // Other objects.
            ("GET", m("providerreports")),
            ("GET", m("providerreports/other")),
            ("GET", m("accounts")),
            ("GET", m("accounts/account")),
            ("GET", l("")),
            ("GET", l("/other")),
            ("GET", l("/agent/status")),
            ("GET", m("trainingjobs")),
            ("GET", m("secrets")),
            ("GET", m("")),
            ("GET", MUSTER.to_owned()),
            // Other subresources, and more of them.
            ("GET", m("workunits/u/scale")),
            ("GET", m("workunits/u/status/x")),
            ("GET", m("workunits/u/proxy/http:x:80")),
            ("GET", m("workunits/u/exec")),
            // Other namespaces, groups, versions, none of them.
            ("GET", MUSTER.replace("east", "west") + "/workunits"),
            ("GET", MUSTER.replace("muster-p-east", "muster-agents") + "/workunits"),
            ("GET", MUSTER.replace("muster-p-east", "muster-p-eas") + "/workunits"),
            ("GET", MUSTER.replace("muster-p-east", "muster-p-east2") + "/workunits"),
            ("GET", east("/k8s/apis/muster.dev/v1alpha1/workunits")),
            ("GET", east("/k8s/apis/muster.dev/v1alpha1/watch/namespaces/muster-p-east/workunits")),
            ("GET", east("/k8s/apis/muster.dev/v1/namespaces/muster-p-east/workunits")),
            ("GET", east("/k8s/apis/muster.evil/v1alpha1/namespaces/muster-p-east/workunits")),
            ("GET", east("/k8s/apis/coordination.k8s.io/v1/namespaces/muster-p-east/workunits")),
            ("GET", east("/k8s/api/v1/namespaces/muster-p-east/secrets")),
            ("GET", east("/k8s/api/v1/namespaces/muster-agents/serviceaccounts/east/token")),
            ("GET", east("/k8s/apis")),
            ("GET", east("/k8s/version")),
            ("GET", east("/k8s/metrics")),
            ("GET", east("/k8s/")),
            // Other spellings.
            ("GET", MUSTER.replace("/k8s/apis", "/k8s//apis") + "/workunits"),
            ("GET", m("workunits/")),
            ("GET", m("/workunits")),
            ("GET", m("workunits//status")),
            ("GET", m("workunits/..")),
            ("GET", m("workunits/.")),
            ("GET", m("../muster-p-west/workunits")),
            ("GET", m("workunits/%2e%2e")),
            ("GET", m("workunits/u%2fstatus")),
            ("GET", m("workunits/u%2Fstatus")),
            ("GET", m("workunits/%75")),
            ("GET", m("workunits/u%00")),
            ("GET", m("workunits/U")),
            ("GET", m("workunits/u;x=1")),
            ("GET", m("workunits/a:b")),
            ("GET", m("workunits/-a")),
            ("GET", m(&format!("workunits/{}", "a".repeat(254)))),
            ("GET", m(&format!("workunits?x={}", "a".repeat(4096)))),
            ("GET", MUSTER.replace("/k8s", "/K8S") + "/workunits"),
        ] {
            assert!(ask(method, &path).is_err(), "{method} {path}");
        }
    }

    #[test]
    fn nothing_is_upgraded() {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let uri: Uri = format!("{MUSTER}/workunits").parse().unwrap();
        assert!(target(&Method::GET, &uri, &headers, "east").is_err());
    }
}
