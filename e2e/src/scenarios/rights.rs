//! Who may do what: every identity x verb x resource x place, asked of the real API servers and compared with
//! `e2e/golden/can-i.txt`. A right that appears there is a decision; one that appears only here is a hole.
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use serde_json::json;

use crate::cluster::{ACCESS_REVIEW, Cluster};
use crate::harness::Verdict;
use crate::world::World;

const GOLDEN: &str = "e2e/golden/can-i.txt";
const VERBS: &[&str] =
    &["get", "list", "watch", "create", "update", "patch", "delete", "bind", "escalate", "impersonate"];
/// Group, resource and names that rules may be limited to.
const RESOURCES: &[(&str, &str, &[&str])] = &[
    ("muster.dev", "trainingjobs", &[]),
    ("muster.dev", "trainingjobs/status", &[]),
    ("muster.dev", "trainingjobs/data", &[]),
    ("muster.dev", "trainingjobs/checkpoints", &[]),
    ("muster.dev", "trainingjobs/log", &[]),
    ("muster.dev", "computeproviders", &[]),
    ("muster.dev", "computeproviders/status", &[]),
    ("muster.dev", "providerreports", &["report"]),
    ("muster.dev", "providerreports/status", &["report"]),
    ("muster.dev", "workunits", &[]),
    ("muster.dev", "workunits/status", &[]),
    ("muster.dev", "audits", &[]),
    ("muster.dev", "audits/status", &[]),
    ("coordination.k8s.io", "leases", &["agent", "muster-auditor", "muster-hub"]),
    ("rbac.authorization.k8s.io", "roles", &[]),
    ("rbac.authorization.k8s.io", "rolebindings", &["muster-agent"]),
    ("rbac.authorization.k8s.io", "clusterroles", &["muster-agent", "cluster-admin"]),
    ("rbac.authorization.k8s.io", "clusterrolebindings", &[]),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", &[]),
    ("authentication.k8s.io", "tokenreviews", &[]),
    ("authorization.k8s.io", "subjectaccessreviews", &[]),
    ("batch", "jobs", &[]),
    ("kueue.x-k8s.io", "workloads", &[]),
    ("kueue.x-k8s.io", "workloads/status", &[]),
    ("", "pods", &[]),
    ("", "pods/exec", &[]),
    ("", "pods/log", &[]),
    ("", "secrets", &[]),
    ("", "configmaps", &["muster-hub-public", "muster-gateway-public"]),
    ("", "namespaces", &[]),
    ("", "nodes", &[]),
    ("", "nodes/proxy", &[]),
    ("", "serviceaccounts", &[]),
    ("", "serviceaccounts/token", &[]),
    ("", "events", &[]),
    ("", "resourcequotas", &[]),
    ("", "services", &["muster-relay"]),
    ("", "persistentvolumeclaims", &[]),
    ("apps", "deployments", &[]),
    ("networking.k8s.io", "networkpolicies", &[]),
    ("", "users", &[]),
];

struct Place {
    cluster: &'static str,
    identities: &'static [(&'static str, &'static str)],
    namespaces: &'static [&'static str],
}

const PLACES: &[Place] = &[
    Place {
        cluster: "hub",
        identities: &[
            ("agent", "system:serviceaccount:muster-agents:east"),
            ("gateway", "system:serviceaccount:muster-system:muster-gateway"),
            ("hub", "system:serviceaccount:muster-system:muster-hub"),
            ("registrar", "system:serviceaccount:muster-system:muster-registrar"),
            ("auditor", "system:serviceaccount:muster-system:muster-auditor"),
            ("tenant", "system:serviceaccount:e2e:tenant"),
            ("stranger", "system:serviceaccount:default:default"),
        ],
        namespaces: &[
            "",
            "muster-p-east",
            "muster-p-west",
            "muster-agents",
            "muster-system",
            "e2e",
            "team-b",
            "kube-system",
        ],
    },
    Place {
        cluster: "member",
        identities: &[
            ("agent", "system:serviceaccount:muster-lent:muster-agent"),
            ("trainer", "system:serviceaccount:muster-lent:muster-trainer"),
        ],
        namespaces: &["", "muster-lent", "default", "kube-system"],
    },
];

pub async fn matrix(world: &World) -> Result<Verdict> {
    let mut seen = BTreeSet::new();
    let mut asked = 0;
    for place in PLACES {
        let cluster = if place.cluster == "hub" { &world.hub } else { &world.member };
        for (who, user) in place.identities {
            let rights = allowed(cluster, user, place.namespaces).await?;
            asked += rights.asked;
            // Many rights hold everywhere; one line says so.
            let mut places: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
            for ((namespace, resource), verbs) in rights.verbs {
                places.entry((resource, verbs.join(","))).or_default().push(namespace);
            }
            for ((resource, verbs), namespaces) in places {
                if namespaces.len() == place.namespaces.len() {
                    seen.insert(format!("{} {who} everywhere {resource} {verbs}", place.cluster));
                    continue;
                }
                for namespace in namespaces {
                    let namespace = if namespace.is_empty() { "cluster" } else { namespace };
                    seen.insert(format!("{} {who} {namespace} {resource} {verbs}", place.cluster));
                }
            }
        }
    }
    println!("     {asked} questions, {} lines of rights", seen.len());
    let file = world.root.join(GOLDEN);
    let text: String = seen.iter().map(|line| format!("{line}\n")).collect();
    if std::env::var_os("MUSTER_BLESS").is_some() {
        std::fs::write(&file, &text)?;
        println!("     written to {GOLDEN}; read the difference before you commit it");
        return Ok(Verdict::Passed);
    }
    let golden =
        std::fs::read_to_string(&file).with_context(|| format!("{GOLDEN}; MUSTER_BLESS=1 writes it"))?;
    let golden: BTreeSet<String> = golden.lines().map(str::to_owned).collect();
    let more: Vec<_> = seen.difference(&golden).map(|line| format!("+ {line}")).collect();
    let less: Vec<_> = golden.difference(&seen).map(|line| format!("- {line}")).collect();
    ensure!(
        more.is_empty() && less.is_empty(),
        "rights differ from {GOLDEN}:\n{}",
        more.into_iter().chain(less).collect::<Vec<_>>().join("\n")
    );
    Ok(Verdict::Passed)
}

struct Rights {
    asked: usize,
    verbs: BTreeMap<(&'static str, String), Vec<&'static str>>,
}

async fn allowed(cluster: &Cluster, user: &str, namespaces: &[&'static str]) -> Result<Rights> {
    let mut questions = Vec::new();
    for namespace in namespaces {
        for (group, resource, names) in RESOURCES {
            for name in std::iter::once("").chain(names.iter().copied()) {
                for verb in VERBS {
                    questions.push((*namespace, *group, *resource, name, *verb));
                }
            }
        }
    }
    let asked = questions.len();
    let mut answers = Vec::with_capacity(asked);
    for some in questions.chunks(32) {
        answers.extend(try_join_all(some.iter().map(|question| may(cluster, user, *question))).await?);
    }
    let mut verbs: BTreeMap<(&'static str, String), Vec<&'static str>> = BTreeMap::new();
    let allowed = questions.into_iter().zip(answers).filter(|(_, allowed)| *allowed);
    for ((namespace, group, resource, name, verb), _) in allowed {
        let mut text = if group.is_empty() { resource.to_owned() } else { format!("{group}/{resource}") };
        if !name.is_empty() {
            // A right on all of them is listed once, without a name.
            if verbs.get(&(namespace, text.clone())).is_some_and(|all| all.contains(&verb)) {
                continue;
            }
            text = format!("{text}:{name}");
        }
        verbs.entry((namespace, text)).or_default().push(verb);
    }
    Ok(Rights { asked, verbs })
}

type Question = (&'static str, &'static str, &'static str, &'static str, &'static str);

async fn may(cluster: &Cluster, user: &str, question: Question) -> Result<bool> {
    let (namespace, group, resource, name, verb) = question;
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let attributes = json!({"verb": verb, "group": group, "resource": resource, "subresource": subresource,
                            "namespace": namespace, "name": name});
    // Service accounts are in these groups by definition; a review does not add them by itself.
    let of = user.split(':').nth(2).unwrap_or("");
    let groups =
        json!(["system:authenticated", "system:serviceaccounts", format!("system:serviceaccounts:{of}")]);
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
                        "spec": {"user": user, "groups": groups, "resourceAttributes": attributes}});
    let answer = cluster.create(ACCESS_REVIEW, None, &review).await?;
    Ok(answer["status"]["allowed"] == true)
}
