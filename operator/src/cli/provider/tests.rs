//! The command lines as they are typed.
use super::*;
use clap::Parser;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    command: ProviderCommand,
}

fn parses(line: &str) -> bool {
    Line::try_parse_from(std::iter::once("muster").chain(line.split(' '))).is_ok()
}

#[test]
fn lines_that_are_understood_and_lines_that_are_not() {
    let fingerprint = format!("sha256:{}", "4".repeat(64));
    for line in [
        "create-token east",
        "create-token east --ttl 5m --auto-accept --out token --context hub",
        "create-token east --create --owner acme --region eu-north",
        "list --kubeconfig k",
        "accept east",
        &format!("accept east --fingerprint {fingerprint} --replace"),
        "cordon east",
        "uncordon east",
        "drain east --context hub",
        "drain east --in 30m",
        "revoke east --yes",
    ] {
        assert!(parses(line), "{line}");
    }
    for line in [
        "create-token",
        "create-token east --ttl 1h",
        "create-token east --create",
        "create-token east --owner acme",
        "accept east --fingerprint 4444",
        "revoke",
        "drain east --in never",
        "cordon east --in 30m",
        "join-file east",
    ] {
        assert!(!parses(line), "{line}");
    }
}

#[test]
fn a_revoked_provider_cannot_be_brought_back() {
    let provider: ComputeProvider = serde_json::from_value(serde_json::json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider", "metadata": {"name": "east"},
        "spec": {"owner": "acme", "scheduling": "Revoked"},
    }))
    .unwrap();
    let text = not_revoked(&provider, "east").unwrap_err().to_string();
    assert!(text.contains("east") && text.contains("final"), "{text}");
}
