//! What the API server itself refuses, whoever asks: tokens that live too long, Leases that say more than a heartbeat, jobs
//! beyond what their namespace may have.
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::cluster::{CONFIG_MAP, Cluster, LEASE, NAMESPACE, SECRET, TRAINING_JOB};
use crate::harness::Verdict;
use crate::job;
use crate::world::{EAST, EAST_NAMESPACE, World, eventually};

const AGENTS: &str = "muster-agents";
/// A tenant of its own: limits would be in the way of other scenarios.
const LIMITED: &str = "e2e-limits";

pub async fn admission(world: &World) -> Result<Verdict> {
    tokens(world).await?;
    lease(world).await?;
    let outcome = limits(world).await;
    world.hub.delete(NAMESPACE, None, LIMITED, None).await?;
    let gone = || async { Ok(world.hub.get(NAMESPACE, None, LIMITED).await?.is_none().then_some(())) };
    eventually("the limited namespace to be gone", Duration::from_secs(60), gone).await?;
    outcome?;
    Ok(Verdict::Passed)
}

/// Asserts a refusal that has these words.
fn denied<T>(what: &str, answer: kube::Result<T>, words: &[&str]) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if [403, 422].contains(&status.code) => {
            println!("     {what}: {}", status.message);
            for word in words {
                ensure!(status.message.contains(word), "{what}: no {word:?} in {:?}", status.message);
            }
            Ok(())
        }
        Err(error) => bail!("{what}: {error}"),
        Ok(_) => bail!("{what}: accepted"),
    }
}

async fn token(cluster: &Cluster, seconds: i64) -> kube::Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), AGENTS);
    let spec = TokenRequestSpec { expiration_seconds: Some(seconds), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    accounts.create_token_request(EAST, &PostParams::default(), &request).await.map(|_| ())
}

/// An agent's token ends within the hour, even if an administrator asks for it.
async fn tokens(world: &World) -> Result<()> {
    let gateway =
        Cluster::connect_current(&world.run.join("gateway.kubeconfig"), "the gateway's account").await?;
    for (who, cluster) in [("the gateway", &gateway), ("an administrator", &world.hub)] {
        token(cluster, 3600).await.with_context(|| format!("{who} asks for 3600 s"))?;
        for seconds in [3601, 86_400] {
            let answer = token(cluster, seconds).await;
            denied(
                &format!("{who} asks for {seconds} s"),
                answer,
                &["spec.expirationSeconds", "3600", "ask for another"],
            )?;
        }
    }
    let secret = |kind: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": {
            "name": "admission-test", "namespace": AGENTS,
            "annotations": {"kubernetes.io/service-account.name": EAST}}})
    };
    let forever =
        world.hub.create(SECRET, Some(AGENTS), &secret("kubernetes.io/service-account-token")).await;
    denied("a Secret with a token for ever", forever, &["never end", "kubectl create token"])?;
    world.hub.create(SECRET, Some(AGENTS), &secret("Opaque")).await?;
    world.hub.delete(SECRET, Some(AGENTS), "admission-test", None).await
}

/// An agent past its gateway, with its own token, on its own Lease.
async fn lease(world: &World) -> Result<()> {
    let agent = world.hub.as_account(&world.kubeconfig, AGENTS, EAST, "east's agent").await?;
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "00000000-0000-4000-8000-000000000000"}]);
    for (field, value) in [
        ("finalizers", json!(["example.com/held"])),
        ("ownerReferences", owner),
        ("labels", json!({"muster.dev/provider": "west"})),
        ("annotations", json!({"example.com/note": "x"})),
    ] {
        let answer = write(&agent, |lease| lease["metadata"][field] = value.clone()).await?;
        denied(
            &format!("an agent's Lease with other {field}"),
            answer,
            &[&format!("metadata.{field}"), "only spec"],
        )?;
    }
    // As it was read: the heartbeat of the real agent is the proof that spec may change.
    write(&agent, |_| {}).await?.context("an agent's Lease as it was read")?;
    world.provider_ready(EAST, true, Duration::from_secs(5)).await
}

/// Reads, changes and writes the Lease, again while the real agent was faster.
async fn write(agent: &Cluster, change: impl Fn(&mut Value)) -> Result<kube::Result<()>> {
    for _ in 0..20 {
        let mut lease = agent.get(LEASE, Some(EAST_NAMESPACE), "agent").await?.context("no Lease")?;
        change(&mut lease);
        match agent.replace(LEASE, Some(EAST_NAMESPACE), &lease).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            answer => return Ok(answer),
        }
    }
    bail!("the Lease is written all the time by others")
}

/// A job that this hub leaves alone: it is the API server that is asked.
fn wanted(name: &str, workers: u32) -> Value {
    let mut job = job::tiny(name, workers);
    job["metadata"]["namespace"] = json!(LIMITED);
    job["spec"]["managedBy"] = json!("example.com/admission");
    job
}

async fn limits(world: &World) -> Result<()> {
    world.stack(&["tenant", LIMITED]).await?;
    let file = world.run.join(format!("tenant-{LIMITED}.kubeconfig"));
    let tenant = Cluster::connect_current(&file, "a tenant").await?;
    let create = |job: Value| {
        let tenant = tenant.clone();
        async move { tenant.create(TRAINING_JOB, Some(LIMITED), &job).await }
    };
    create(wanted("before", 3)).await.context("without limits")?;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "muster-limits", "namespace": LIMITED},
                         "data": {"maxWorkers": "2", "maxSteps": "40", "allowedTiers": "None, Bronze"}});
    world.hub.create(CONFIG_MAP, Some(LIMITED), &map).await?;
    // The API server's own watch of it needs a moment.
    let seen = || async {
        let answer = create(wanted("workers", 4)).await;
        if answer.is_ok() {
            tenant.delete(TRAINING_JOB, Some(LIMITED), "workers", None).await?;
        }
        Ok(answer.is_err().then_some(answer))
    };
    let answer = eventually("the limits to be seen", Duration::from_secs(30), seen).await?;
    denied(
        "4 workers of 2",
        answer,
        &["spec.workers.count is 4", "at most 2", "muster-limits", "ask for fewer"],
    )?;
    let mut wide = wanted("wide", 2);
    wide["spec"]["workers"]["max"] = json!(4);
    denied(
        "2 workers, and 4 while nobody waits",
        create(wide).await,
        &["spec.workers.max is 4", "at most 2"],
    )?;
    let mut long = wanted("long", 2);
    long["spec"]["training"]["steps"] = json!(60);
    denied(
        "60 steps of 40",
        create(long).await,
        &["spec.training.steps is 60", "at most 40", "muster-limits"],
    )?;
    let mut gold = wanted("gold", 2);
    gold["spec"]["assurance"]["tier"] = json!("Gold");
    denied(
        "a tier that is not allowed",
        create(gold).await,
        &["spec.assurance.tier is Gold", "None, Bronze"],
    )?;
    create(wanted("within", 2)).await.context("exactly what is allowed")?;

    // What was there before may end and shrink, not grow.
    let patch = |spec: Value| {
        let tenant = tenant.clone();
        async move { tenant.patch(TRAINING_JOB, Some(LIMITED), "before", &json!({"spec": spec})).await }
    };
    denied("a job that grows", patch(json!({"workers": {"count": 4}})).await, &["spec.workers.count is 4"])?;
    patch(json!({"suspend": true})).await.context("suspending a job from before")?;
    patch(json!({"workers": {"count": 1}})).await.context("fewer workers")?;
    denied("and more again", patch(json!({"workers": {"count": 3}})).await, &["spec.workers.count is 3"])?;
    let idle = patch(json!({"workers": {"max": 3}})).await;
    denied("and more while nobody waits", idle, &["spec.workers.max is 3", "at most 2"])?;
    patch(json!({"workers": {"max": 2}})).await.context("as many as are allowed while nobody waits")?;

    let many = json!({"data": {"maxWorkers": "many"}});
    world.hub.patch(CONFIG_MAP, Some(LIMITED), "muster-limits", &many).await?;
    let malformed = || async {
        let answer = create(wanted("malformed", 1)).await;
        let text = answer.as_ref().err().map(ToString::to_string).unwrap_or_default();
        if answer.is_ok() {
            tenant.delete(TRAINING_JOB, Some(LIMITED), "malformed", None).await?;
        }
        Ok(text.contains("maxWorkers is not").then_some(answer))
    };
    let answer = eventually("the new limits to be seen", Duration::from_secs(30), malformed).await?;
    denied("a limit that is no number", answer, &["data.maxWorkers is not a whole number", "ask the admin"])
}
