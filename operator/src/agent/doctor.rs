//! `muster agent doctor`: asks everything that the agent depends on, one line each, with what to do. It changes nothing and
//! may run beside the agent; only with --try-images it starts a small Job for each image, and removes it.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use muster_api::names::PROVIDER_NAMESPACE_PREFIX;
use muster_proof::tlog::checkpoint::SignedCheckpoint;
use muster_proof::tlog::note::VerifierKey;
use reqwest::header;

use super::gateway::{Gateway, GatewayError};
use super::identity::Identity;
use super::membership::Membership;
use super::policy::{LoadError, Policies};
use super::session::Session;
use super::switch::Switch;
use super::{MemberArgs, PolicyArgs, hub_client, pin, witness};
use crate::log::client::{HttpLog, LogClient as _};
use crate::runtime::client::{Target, within};

mod image;
mod member;

/// A clock that is off by more makes tokens look expired and envelopes void.
const MAX_SKEW: i64 = 60;

/// Flags of `muster agent doctor`: those of `muster agent run` that say where things are.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArgs {
    /// State directory of the agent
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    #[command(flatten)]
    pub member: MemberArgs,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Pull and start each allowed image on the member, in a Job that is removed again; takes up to 2 minutes each
    #[arg(long)]
    pub try_images: bool,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, but somebody should look.
    Warning,
    /// Could not be found out.
    Unknown,
    /// The agent cannot do its work.
    Failed,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty if nothing.
    pub remedy: String,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, found: found.into(), remedy: String::new() }
    }

    fn bad(
        name: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { name, verdict, found: found.into(), remedy: remedy.into() }
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = match self.verdict {
            Verdict::Good => "ok",
            Verdict::Warning => "warn",
            Verdict::Unknown => "unknown",
            Verdict::Failed => "FAIL",
        };
        write!(f, "{verdict:<8}{:<12}{}", self.name, self.found)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", self.remedy) }
    }
}

/// Makes all checks. One that depends on another that failed is left out: its line would only repeat it.
pub async fn examine(args: &DoctorArgs) -> Vec<Check> {
    let mut checks = Vec::new();
    let policies = args.policy.load(Arc::new(Switch::open(&args.state)));
    checks.push(offer(&policies));
    hub_side(args, &mut checks).await;
    let target = Target { kubeconfig: args.member.member_kubeconfig.clone(), context: None };
    match target.client().await {
        Ok(client) => {
            let policy = policies.as_ref().ok().and_then(Option::as_ref).map(Policies::current);
            checks.extend(member::examine(&client, &args.member.namespace, policy.as_deref()).await);
            // Why a policy cannot be read is another check's to say.
            if let Some(policy) = policy.filter(|_| args.try_images) {
                let images = policy.images();
                checks.extend(image::examine(&client, &args.member.namespace, images).await);
            }
        }
        Err(error) => {
            checks.push(Check::bad("member", Verdict::Failed, error.to_string(), "see --member-kubeconfig"));
        }
    }
    checks
}

/// What is lent.
fn offer(policies: &Result<Option<Policies>, LoadError>) -> Check {
    let remedy = "say what is lent: --policy FILE, or --allow-image and --workers, as for `muster agent run`";
    match policies {
        Err(error) => Check::bad("policy", Verdict::Failed, error.to_string(), "correct it"),
        Ok(None) => Check::bad("policy", Verdict::Unknown, "not named here", remedy),
        Ok(Some(policies)) => {
            let policy = policies.current();
            let found = format!("{} workers, {} images", policy.workers(), policy.images().len());
            match policies.closed(Timestamp::now()) {
                None => Check::good("policy", found),
                Some(closed) => Check::bad(
                    "policy",
                    Verdict::Warning,
                    format!("{found}; {closed}"),
                    "nothing new is taken now",
                ),
            }
        }
    }
}

async fn hub_side(args: &DoctorArgs, checks: &mut Vec<Check>) {
    if !args.state.is_dir() {
        let found = format!("{}: no such directory", args.state.display());
        return checks.push(Check::bad(
            "state",
            Verdict::Failed,
            found,
            "name the --state of `muster agent run`",
        ));
    }
    let membership = match Membership::load(&args.state) {
        Ok(Some(membership)) => membership,
        Ok(None) => {
            let remedy = "get a token from the hub's admin (`muster provider create-token`) and run \
                          `muster agent run --join-token-file`";
            return checks.push(Check::bad(
                "joined",
                Verdict::Failed,
                "this agent has not joined a hub",
                remedy,
            ));
        }
        Err(error) => return checks.push(Check::bad("joined", Verdict::Failed, error.to_string(), "")),
    };
    checks.push(Check::good("joined", format!("as provider {} at {}", membership.provider, membership.url)));
    let identity = match Identity::existing(&args.state) {
        Ok(identity) => Arc::new(identity),
        Err(error) => {
            return checks.push(Check::bad("identity", Verdict::Failed, error.to_string(), ""));
        }
    };
    checks.push(Check::good("identity", identity.fingerprint().to_string()));
    let gateway = match pin::pinned(&identity, &membership.ca) {
        Ok(client) => Gateway::new(client, &membership.url),
        Err(error) => return checks.push(Check::bad("gateway", Verdict::Failed, error.to_string(), "")),
    };
    match gateway.health().await {
        Ok(answer) => {
            checks.push(Check::good("gateway", "answers, and its certificate is of the pinned CA"));
            let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
            checks.push(clock(date, Timestamp::now()));
        }
        Err(error) => {
            let remedy = "the member must be able to dial out to it; if its CA was replaced, join again with a new token";
            return checks.push(Check::bad("gateway", Verdict::Failed, error.to_string(), remedy));
        }
    }
    let session = Session::new(gateway, identity.clone(), &membership.provider);
    if let Err(error) = session.renew(0).await {
        return checks.push(refused(&error, &membership, &identity));
    }
    checks.push(Check::good("tokens", "the hub accepts this key and gives tokens"));
    checks.push(through(&membership, &identity, &session).await);
    checks.push(log(&args.state, &membership, &session).await);
}

fn refused(error: &GatewayError, membership: &Membership, identity: &Identity) -> Check {
    let provider = &membership.provider;
    let remedy = match error.reason() {
        Some("WaitingForAdmin") => format!(
            "tell the hub's admin the fingerprint {}; they run `muster provider accept {provider}`",
            identity.fingerprint()
        ),
        Some("KeyNotPinned" | "KeyExpired") => {
            format!(
                "the hub's admin can pin the key again in spec.acceptedKeys of computeprovider {provider}"
            )
        }
        Some("Revoked") => "this is final; ask the hub's admin why".to_owned(),
        _ => "try again; if it stays, ask the hub's admin".to_owned(),
    };
    Check::bad("tokens", Verdict::Failed, error.to_string(), remedy)
}

/// The hub's API server, through the gateway, with the token for it.
async fn through(membership: &Membership, identity: &Identity, session: &Session) -> Check {
    let namespace = format!("{PROVIDER_NAMESPACE_PREFIX}{}", membership.provider);
    let client: Client = match hub_client::client(membership, identity, session, &namespace) {
        Ok(client) => client,
        Err(error) => return Check::bad("hub", Verdict::Failed, error.to_string(), ""),
    };
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    match within(&format!("get lease {namespace}/agent"), leases.get("agent")).await {
        Ok(_) => Check::good("hub", "its API server answers through the gateway"),
        Err(error) => {
            let remedy = "is `muster hub` running there, and has it made the provider's namespace?";
            Check::bad("hub", Verdict::Failed, error.to_string(), remedy)
        }
    }
}

/// The hub's log: whether it answers with a head that the pinned key signed, and whether it ever contradicted itself.
async fn log(state: &Path, membership: &Membership, session: &Session) -> Check {
    if let Some(alarmed) = witness::alarmed(state) {
        let remedy = "running units go on, no new one is taken; show the file to the hub's admin and to other providers, and \
                      move it away once it is explained";
        return Check::bad("log", Verdict::Failed, alarmed.text, remedy);
    }
    let remedy = "ask the hub's admin whether its log was made anew; nothing is cosigned until the pinned key signs again";
    let key: VerifierKey = match membership.log.parse() {
        Ok(key) => key,
        Err(error) => return Check::bad("log", Verdict::Failed, format!("its pinned key: {error}"), remedy),
    };
    let head = match HttpLog::new(session.clone()).checkpoint().await {
        Ok(head) => head,
        Err(error) => {
            let remedy = "the gateway serves it; try again, and ask the hub's admin if it stays";
            return Check::bad("log", Verdict::Failed, error.to_string(), remedy);
        }
    };
    match SignedCheckpoint::open(&head, std::slice::from_ref(&key)) {
        Ok(head) => {
            let (origin, size) = (head.checkpoint().origin(), head.checkpoint().size());
            Check::good("log", format!("{origin} has {size} entries, signed by the pinned key"))
        }
        Err(error) => {
            let found = format!("its head is not signed by the pinned key: {error}");
            Check::bad("log", Verdict::Failed, found, remedy)
        }
    }
}

/// The gateway's clock against ours, from the Date of its answer (RFC 9110 section 6.6.1).
fn clock(date: Option<&str>, now: Timestamp) -> Check {
    let parsed = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    let Some(theirs) = parsed else {
        return Check::bad(
            "clock",
            Verdict::Unknown,
            "the gateway does not say the time",
            "compare the clocks yourself",
        );
    };
    let skew = now.duration_since(theirs.timestamp()).as_secs();
    let found = format!("{} s {} the gateway's", skew.abs(), if skew < 0 { "behind" } else { "ahead of" });
    if skew.abs() > MAX_SKEW {
        let remedy = "set one of the clocks (NTP): envelopes and tokens are good for a time only";
        return Check::bad("clock", Verdict::Warning, found, remedy);
    }
    Check::good("clock", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fake_gateway::{FakeGateway, tlog};
    use crate::agent::gateway_tests::Agent;

    #[test]
    fn a_clock_that_is_off_is_a_warning() {
        let now: Timestamp = "2026-11-23T19:00:00Z".parse().unwrap();
        assert_eq!(clock(Some("Mon, 23 Nov 2026 18:59:30 GMT"), now).verdict, Verdict::Good);
        let off = clock(Some("Mon, 23 Nov 2026 19:01:01 GMT"), now);
        assert_eq!((off.verdict, off.found.as_str()), (Verdict::Warning, "61 s behind the gateway's"));
        for silent in [None, Some("yesterday")] {
            assert_eq!(clock(silent, now).verdict, Verdict::Unknown);
        }
    }

    #[tokio::test]
    async fn the_log_must_be_the_pinned_one() {
        let (gateway, _) = FakeGateway::simple().await;
        let agent = Agent::joined(&gateway).await;
        agent.session.renew(0).await.unwrap();
        let look = || log(agent.dir.path(), &agent.membership, &agent.session);
        gateway.change(|hub| hub.log.grow(1, 12));
        let good = look().await;
        assert_eq!((good.verdict, good.found.contains("12 entries")), (Verdict::Good, true), "{good}");
        let other = tlog::Log::grown(1, 12).head_by(&tlog::note_key(6));
        gateway.change(|hub| hub.log.head = Some(other));
        let bad = look().await;
        assert!(bad.verdict == Verdict::Failed && bad.found.contains("pinned key"), "{bad}");
        assert!(!agent.dir.path().join("witness.key").exists(), "looking makes nothing");
        std::fs::write(agent.dir.path().join("log-evidence.json"), "{").unwrap();
        let alarmed = look().await;
        assert!(
            alarmed.verdict == Verdict::Failed && alarmed.found.contains("log-evidence.json"),
            "{alarmed}"
        );
    }

    #[tokio::test]
    async fn an_agent_that_has_not_joined_is_told_how() {
        let dir = tempfile::tempdir().unwrap();
        let args = DoctorArgs {
            state: dir.path().to_owned(),
            member: MemberArgs {
                member_kubeconfig: Some(dir.path().join("none")),
                namespace: "muster-lent".into(),
            },
            policy: PolicyArgs::default(),
            try_images: false,
        };
        let checks = examine(&args).await;
        let lines: Vec<String> = checks.iter().map(ToString::to_string).collect();
        assert!(
            lines.iter().any(|line| line.starts_with("FAIL") && line.contains("--join-token-file")),
            "{lines:?}"
        );
        assert!(lines.iter().any(|line| line.starts_with("FAIL") && line.contains("member")), "{lines:?}");
        assert!(
            lines.iter().any(|line| line.starts_with("unknown") && line.contains("--allow-image")),
            "{lines:?}"
        );
        let nowhere = DoctorArgs { state: dir.path().join("none"), ..args };
        assert!(examine(&nowhere).await.iter().any(|check| check.found.contains("no such directory")));
        assert!(!dir.path().join("none").exists(), "looking makes nothing");
    }
}
