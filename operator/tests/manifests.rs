//! What can be said of `manifests/` without a cluster: nothing is forgotten, and what belongs together is spelt alike.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use muster::agent::render;
use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn documents(folder: &Path) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let found: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        all.extend(found.into_iter().filter(|d| !d.is_null()).map(|d| (name.clone(), d)));
    }
    all
}

fn all() -> Vec<(String, Value)> {
    ["manifests/base", "manifests/hub", "manifests/member"]
        .iter()
        .flat_map(|f| documents(&folder(f)))
        .collect()
}

fn of_kind(kind: &str) -> Vec<Value> {
    all().into_iter().map(|(_, d)| d).filter(|d| d["kind"] == kind).collect()
}

#[test]
fn every_file_is_listed_and_every_listed_file_is_there() {
    for name in ["crds", "manifests/base", "manifests/hub", "manifests/processes", "manifests/member"] {
        let folder = folder(name);
        let list: Value =
            serde_saphyr::from_str(&std::fs::read_to_string(folder.join("kustomization.yaml")).unwrap())
                .unwrap();
        let listed: BTreeSet<String> =
            list["resources"].as_array().unwrap().iter().map(|r| r.as_str().unwrap().to_owned()).collect();
        for resource in &listed {
            assert!(folder.join(resource).exists(), "{name}: {resource}");
        }
        for entry in std::fs::read_dir(&folder).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            assert!(
                file == "kustomization.yaml" || listed.contains(&file),
                "{name}/{file} is not applied by anyone"
            );
        }
    }
}

#[test]
fn every_namespace_enforces_the_restricted_profile() {
    let namespaces = of_kind("Namespace");
    assert_eq!(namespaces.len(), 3);
    for namespace in namespaces {
        assert_eq!(
            namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted",
            "{namespace}"
        );
    }
}

#[test]
fn every_policy_is_bound_and_denies() {
    let bindings = of_kind("ValidatingAdmissionPolicyBinding");
    for policy in of_kind("ValidatingAdmissionPolicy") {
        assert_eq!(policy["spec"]["failurePolicy"], "Fail", "{policy}");
        let name = &policy["metadata"]["name"];
        let bound = bindings.iter().find(|b| b["spec"]["policyName"] == *name);
        assert_eq!(bound.unwrap()["spec"]["validationActions"][0], "Deny", "{name}");
    }
}

#[test]
fn accounts_are_there_and_get_no_token_unasked() {
    let accounts = of_kind("ServiceAccount");
    for account in &accounts {
        assert_eq!(account["automountServiceAccountToken"], false, "{account}");
    }
    for binding in [of_kind("RoleBinding"), of_kind("ClusterRoleBinding")].concat() {
        // The one thing that is for everybody.
        if binding["metadata"]["name"] == "muster-public" {
            continue;
        }
        for subject in binding["subjects"].as_array().unwrap() {
            let same = |a: &Value| {
                a["metadata"]["name"] == subject["name"] && a["metadata"]["namespace"] == subject["namespace"]
            };
            assert!(accounts.iter().any(same), "{binding}");
        }
    }
    let trainer = accounts.iter().filter(|a| a["metadata"]["name"] == render::SERVICE_ACCOUNT);
    assert_eq!(trainer.count(), 1, "the pods' own account");
}

/// What every authenticated user may do: read two objects by name, nothing else.
#[test]
fn what_is_public_is_two_names() {
    let everybody: Vec<_> = [of_kind("RoleBinding"), of_kind("ClusterRoleBinding")]
        .concat()
        .into_iter()
        .filter(|binding| {
            binding["subjects"].as_array().unwrap().iter().any(|s| s["kind"] != "ServiceAccount")
        })
        .collect();
    assert_eq!(everybody.len(), 1);
    assert_eq!(everybody[0]["kind"], "RoleBinding");
    let role = of_kind("Role").into_iter().find(|role| role["metadata"]["name"] == "muster-public").unwrap();
    assert_eq!(role["metadata"]["namespace"], everybody[0]["metadata"]["namespace"]);
    let rules = serde_json::json!([{
        "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"],
        "resourceNames": ["muster-gateway-public", "muster-hub-public"],
    }]);
    assert_eq!(role["rules"], rules);
}

/// The policies must select the very pods that the agent renders, or they select nothing at all.
#[test]
fn network_policies_select_the_agents_pods() {
    let policies = of_kind("NetworkPolicy");
    assert!(policies.iter().any(|p| p["spec"]["podSelector"] == serde_json::json!({})), "no default-deny");
    let worker = serde_json::json!({
        muster_api::names::labels::MANAGED_BY: render::MANAGED_BY,
        muster_api::names::labels::COMPONENT: "trainer",
    });
    let agent = &of_kind("Deployment")[0]["spec"]["template"]["metadata"]["labels"];
    let mut selective = 0;
    for policy in &policies {
        let labels = &policy["spec"]["podSelector"]["matchLabels"];
        if labels.is_null() {
            continue;
        }
        assert!([&worker, agent].contains(&labels), "{policy}");
        selective += 1;
    }
    assert_eq!(selective, 3);
    let asks = &policies.iter().find(|p| p["metadata"]["name"] == "relay").unwrap()["spec"]["egress"][0];
    assert_eq!(asks["to"][0]["podSelector"]["matchLabels"], *agent, "workers reach the agent");
}

/// What the agent's own manifest must agree on with the code, and with itself.
#[test]
fn the_agent_finds_what_it_is_given() {
    let deployment = &of_kind("Deployment")[0];
    let pod = &deployment["spec"]["template"];
    assert_eq!(deployment["spec"]["strategy"]["type"], "Recreate", "never two agents of one provider");
    assert_eq!(of_kind("Service")[0]["spec"]["selector"], pod["metadata"]["labels"]);
    let container = &pod["spec"]["containers"][0];
    let arguments: Vec<&str> =
        container["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap()).collect();
    let service = of_kind("Service")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(arguments.contains(&&*format!("--relay-service={service}")));
    let rights = muster::agent::rbac::MEMBER.iter().find(|rule| rule.resources == ["services"]).unwrap();
    assert_eq!(rights.names, [service]);
    // Only lent pods count against what is lent.
    let quota =
        of_kind("ResourceQuota").into_iter().find(|q| q["metadata"]["name"] == "muster-lent").unwrap();
    assert_eq!(quota["spec"]["scopeSelector"]["matchExpressions"][0]["values"][0], render::PRIORITY_CLASS);
}

#[test]
fn generated_files_say_so() {
    for file in ["hub", "registrar", "gateway", "auditor", "agent"] {
        let path = folder("charts/muster/templates/rbac").join(format!("{file}.yaml"));
        assert!(
            std::fs::read_to_string(&path).unwrap().starts_with("# generated by make generate"),
            "{file}"
        );
    }
    for file in ["hub/objects.yaml", "processes/processes.yaml", "member/muster-agent.yaml"] {
        let text = std::fs::read_to_string(folder("manifests").join(file)).unwrap();
        assert!(text.starts_with("# rendered by make manifests"), "{file}");
    }
}

/// `make manifests` needs Helm; that it was run after a change of what Helm leaves as it is shows without.
#[test]
fn manifests_are_rendered_from_the_charts() {
    let rendered: Vec<Value> = all().into_iter().map(|(_, document)| document).collect();
    let mut compared = 0;
    for name in ["charts/muster/templates/rbac", "charts/muster/templates/policies"] {
        for (file, document) in documents(&folder(name)) {
            assert!(rendered.contains(&document), "{name}/{file} is not in manifests/: run `make manifests`");
            compared += 1;
        }
    }
    assert!(compared > 30, "{compared}");
}
