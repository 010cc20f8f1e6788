//! `muster rbac`: the rights of each process, each rule with its reason, ready for `kubectl apply`. The rules stand beside
//! the code that needs them (`hub/rbac.rs`, `hub/registrar/rbac.rs`, `gateway/rbac.rs`, `auditor/rbac.rs`, `agent/rbac.rs`); here they become
//! roles.
mod on_hub;
mod render;

use super::Outcome;
use super::output::print;
use crate::hub;
use crate::runtime::files::{Access, write_atomic};
use clap::{Args, ValueEnum};
use render::{Role, Rule, render};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct RbacCommand {
    /// Whose rights
    #[arg(value_enum)]
    who: Who,
    /// Write this file instead of printing
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Who {
    /// The hub on the hub cluster
    Hub,
    /// The hub's registrar on the hub cluster
    Registrar,
    /// The gateway on the hub cluster
    Gateway,
    /// The hub's own auditor on the hub cluster
    Auditor,
    /// An agent on the hub cluster
    Agent,
    /// The agent on its member cluster
    Member,
    /// The same agent where its policy says `offer.observe`: what it needs in addition
    Observe,
}

impl RbacCommand {
    pub fn run(self) -> Outcome {
        let yaml = self.who.yaml();
        match self.out {
            Some(path) => write_atomic(&path, yaml.as_bytes(), Access::Public)?,
            None => print(&yaml)?,
        }
        Ok(0)
    }
}

impl Who {
    fn yaml(self) -> String {
        let source = match self {
            Self::Hub => "operator/src/hub/rbac.rs",
            Self::Registrar => "operator/src/hub/registrar/rbac.rs",
            Self::Gateway => "operator/src/gateway/rbac.rs",
            Self::Auditor => "operator/src/auditor/rbac.rs",
            Self::Agent => "operator/src/cli/rbac/on_hub.rs",
            Self::Member | Self::Observe => "operator/src/agent/rbac.rs",
        };
        render(&self.roles(), source)
    }

    fn roles(self) -> Vec<Role> {
        match self {
            Self::Hub => process("muster-hub", "muster hub", hub::rbac::rules()),
            Self::Registrar => process("muster-registrar", "muster registrar", hub::registrar::rbac::rules()),
            Self::Gateway => process("muster-gateway", "muster gateway", crate::gateway::rbac::rules()),
            Self::Auditor => process("muster-auditor", "muster auditor", crate::auditor::rbac::rules()),
            Self::Agent => vec![on_hub::agent()],
            Self::Member => member(crate::agent::rbac::MEMBER, "muster-lent-agent"),
            Self::Observe => member(crate::agent::rbac::OBSERVE, "muster-lent-observe"),
        }
    }
}

/// One ClusterRole, and one Role in each namespace that a rule names, for ServiceAccount muster-system/`name`.
fn process(name: &str, who: &str, rules: Vec<hub::rbac::Rule>) -> Vec<Role> {
    let mut roles: Vec<Role> = Vec::new();
    for hub::rbac::Rule { why, namespace, rule } in rules {
        let rule = Rule {
            groups: rule.api_groups.unwrap_or_default(),
            resources: rule.resources.unwrap_or_default(),
            names: rule.resource_names.unwrap_or_default(),
            verbs: rule.verbs,
            why: why.into(),
        };
        let account = Some(("muster-system".into(), name.into()));
        push(&mut roles, name, namespace, account, &format!("What {who} may do"), rule);
    }
    roles
}

fn member(rules: &[crate::agent::rbac::Rule], in_cluster: &str) -> Vec<Role> {
    let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    let mut roles = Vec::new();
    for rule in rules {
        // One cluster may be hub and member: ClusterRole `muster-agent` is what the hub gives to agents.
        let (name, namespace) = match rule.scope {
            crate::agent::rbac::Scope::Namespace => ("muster-agent", Some("muster-lent")),
            crate::agent::rbac::Scope::Cluster => (in_cluster, None),
        };
        let account = Some(("muster-lent".into(), "muster-agent".into()));
        let rule = Rule {
            groups: vec![rule.group.into()],
            resources: owned(rule.resources),
            names: owned(rule.names),
            verbs: owned(rule.verbs),
            why: rule.reason.into(),
        };
        push(&mut roles, name, namespace, account, "What muster agent may do", rule);
    }
    roles
}

fn push(
    roles: &mut Vec<Role>,
    name: &str,
    namespace: Option<&str>,
    account: Option<(String, String)>,
    about: &str,
    rule: Rule,
) {
    if let Some(role) = roles.iter_mut().find(|r| r.namespace.as_deref() == namespace) {
        role.rules.push(rule);
        return;
    }
    let place = namespace.map_or("in every namespace".into(), |n| format!("in namespace {n}"));
    roles.push(Role {
        name: name.into(),
        namespace: namespace.map(Into::into),
        account,
        about: format!("{about} {place}."),
        rules: vec![rule],
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `make generate` writes these files; a change of rights without it fails here.
    #[test]
    fn committed_files_are_what_the_code_says() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/");
        for (who, path) in [
            (Who::Hub, "muster/templates/rbac/hub.yaml"),
            (Who::Registrar, "muster/templates/rbac/registrar.yaml"),
            (Who::Gateway, "muster/templates/rbac/gateway.yaml"),
            (Who::Auditor, "muster/templates/rbac/auditor.yaml"),
            (Who::Agent, "muster/templates/rbac/agent.yaml"),
            (Who::Member, "muster-agent/templates/rbac.yaml"),
            (Who::Observe, "muster-agent/files/observe.yaml"),
        ] {
            let committed = std::fs::read_to_string(format!("{root}{path}")).unwrap();
            assert!(committed == who.yaml(), "charts/{path} is out of date: run `make generate`");
        }
    }

    /// What no process of Muster may ever hold, whatever its code asks for.
    #[test]
    fn nobody_gets_a_dangerous_right() {
        let everyone =
            [Who::Hub, Who::Registrar, Who::Gateway, Who::Auditor, Who::Agent, Who::Member, Who::Observe];
        for role in everyone.into_iter().flat_map(Who::roles) {
            for rule in &role.rules {
                assert!(!rule.why.is_empty(), "{rule:?}");
                for word in rule.groups.iter().chain(&rule.resources).chain(&rule.verbs) {
                    let bad = ["*", "escalate", "impersonate", "nodes/proxy"];
                    assert!(!bad.contains(&word.as_str()), "{}: {rule:?}", role.name);
                    // The gateway makes agents' tokens and what they are bound to, where only agents' identities live.
                    let gateways =
                        role.name == "muster-gateway" && role.namespace.as_deref() == Some("muster-agents");
                    let bad = ["secrets", "serviceaccounts/token"];
                    assert!(gateways || !bad.contains(&word.as_str()), "{}: {rule:?}", role.name);
                }
                let binds = rule.verbs.iter().any(|v| v == "bind");
                assert!(!binds || rule.names == ["muster-agent"], "{}: {rule:?}", role.name);
            }
        }
    }

    #[test]
    fn an_agent_creates_nothing_on_the_hub() {
        let agent = on_hub::agent();
        assert!(agent.account.is_none(), "the hub binds it, per provider");
        assert!(!agent.rules.iter().any(|r| r.verbs.iter().any(|v| v == "create" || v == "delete")));
    }
}
