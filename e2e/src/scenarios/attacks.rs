//! What a stranger, a rival provider and a revoked one can do at the gateway: nothing.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use reqwest::Method;
use serde_json::json;

use crate::cluster::{self, PROVIDER};
use crate::gateway::{Answer, Caller, Key, Tokens};
use crate::harness::Verdict;
use crate::job;
use crate::south::{self, SOUTH, UNITS, token};
use crate::world::{EAST_NAMESPACE, World, eventually};

const LEASE: &str = "/k8s/apis/coordination.k8s.io/v1/namespaces/muster-p-south/leases/agent";

pub async fn join_and_revoke(world: &World) -> Result<Verdict> {
    let outcome = all(world).await;
    south::leave(world).await?;
    outcome
}

async fn all(world: &World) -> Result<Verdict> {
    south::make(world).await?;
    let (key, caller) = join(world).await?;
    let tokens = accepted(world, &key, &caller).await?;
    audiences(world, &caller, &tokens).await?;
    foreign(world, &caller, &tokens).await?;
    revoked(world, &key, &caller, &tokens).await?;
    Ok(Verdict::Passed)
}

pub fn expect(what: &str, answer: &Answer, status: u16, reason: &str) -> Result<()> {
    println!("     {what}: {answer}");
    ensure!(
        answer.status == status && (reason.is_empty() || answer.reason() == reason),
        "{what}: want {status} {reason}, got {answer}"
    );
    Ok(())
}

/// Wrong, late and used tokens; eight racers of whom one wins.
async fn join(world: &World) -> Result<(Key, Caller)> {
    let nobody = Caller::new(world, None).await?;
    let (first, second) = (Key::new()?, Key::new()?);
    let caller = Caller::new(world, Some(&first)).await?;
    expect("no certificate", &nobody.join(SOUTH, "AAAA").await?, 401, "")?;
    expect("a made-up secret", &caller.join(SOUTH, &"A".repeat(43)).await?, 401, "TokenUnknown")?;
    let late = token(world, &["--ttl", "1s"]).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    expect("an expired token", &caller.join(SOUTH, &late).await?, 401, "TokenExpired")?;
    let good = token(world, &[]).await?;
    expect("the token of another provider", &caller.join("east", &good).await?, 401, "TokenUnknown")?;

    let mut racers = Vec::new();
    for _ in 0..8 {
        let key = Key::new()?;
        let caller = Caller::new(world, Some(&key)).await?;
        racers.push((key, caller));
    }
    let answers = futures::future::join_all(racers.iter().map(|(_, caller)| caller.join(SOUTH, &good))).await;
    let answers: Vec<Answer> = answers.into_iter().collect::<Result<_>>()?;
    let winners: Vec<usize> = (0..8).filter(|&i| answers[i].status == 200).collect();
    println!("     8 racers: {}", answers.iter().map(|a| a.status.to_string()).collect::<Vec<_>>().join(" "));
    ensure!(winners.len() == 1, "{} of 8 racers joined with one token", winners.len());
    ensure!(
        answers.iter().all(|a| a.status == 200 || a.reason() == "TokenReused"),
        "a loser was told something else"
    );
    let (key, caller) = racers.swap_remove(winners[0]);
    expect("the winner again", &caller.join(SOUTH, &good).await?, 200, "")?;
    let rival = Caller::new(world, Some(&second)).await?;
    expect("another key, later", &rival.join(SOUTH, &good).await?, 409, "TokenReused")?;
    Ok((key, caller))
}

/// Nothing before the admin has pinned the key, tokens right after.
async fn accepted(world: &World, key: &Key, caller: &Caller) -> Result<Tokens> {
    expect("tokens before acceptance", &caller.tokens(key).await?, 403, "WaitingForAdmin")?;
    let (kubeconfig, fingerprint) = (world.kubeconfig.to_string_lossy(), key.fingerprint().to_string());
    let wrong = Key::new()?.fingerprint().to_string();
    let accept = |print: String| {
        let kubeconfig = kubeconfig.to_string();
        async move {
            let arguments = [
                "provider",
                "accept",
                SOUTH,
                "--fingerprint",
                &print,
                "--kubeconfig",
                &kubeconfig,
                "--context",
                "hub",
            ];
            world.muster(&arguments).await
        }
    };
    let presented = || async {
        let south = world.hub.get(PROVIDER, None, SOUTH).await?;
        Ok(south.filter(|south| south["status"]["presentedKey"] == fingerprint))
    };
    eventually("the hub to show the presented key", Duration::from_secs(15), presented).await?;
    let refused = accept(wrong).await?;
    println!("     accept of another fingerprint: {}", refused.tail(3).trim());
    ensure!(refused.code != 0, "the admin could accept a fingerprint that nobody presented");
    let done = accept(fingerprint.clone()).await?;
    ensure!(done.code == 0, "accept exited {}: {}", done.code, done.tail(10));
    let ask = || async {
        let answer = caller.tokens(key).await?;
        Ok((answer.status == 200).then_some(answer))
    };
    let answer = eventually("tokens after acceptance", Duration::from_secs(10), ask).await?;
    Tokens::of(&answer)
}

/// Each token opens its own door, and none opens anything without the key.
async fn audiences(world: &World, caller: &Caller, tokens: &Tokens) -> Result<()> {
    let get = |token| caller.ask(Method::GET, UNITS, Some(token), None);
    let own = || async {
        let answer = get(tokens.api.as_str()).await?;
        Ok((answer.status == 200).then_some(answer))
    };
    // The registrar may still be making the namespace.
    eventually("its own units", Duration::from_secs(15), own).await?;
    expect("gateway token at the API", &get(&tokens.gateway).await?, 401, "")?;
    let beat =
        |token| caller.ask(Method::POST, "/v1/heartbeat", Some(token), Some(json!({"agentVersion": "test"})));
    expect("gateway token at the gateway", &beat(tokens.gateway.as_str()).await?, 200, "")?;
    expect("API token at the gateway", &beat(tokens.api.as_str()).await?, 401, "")?;
    let thief = Key::new()?;
    for (who, key) in [("no key", None), ("another key", Some(&thief))] {
        let other = Caller::new(world, key).await?;
        let units = other.ask(Method::GET, UNITS, Some(&tokens.api), None).await?;
        let body = json!({"agentVersion": "test"});
        let beat = other.ask(Method::POST, "/v1/heartbeat", Some(&tokens.gateway), Some(body)).await?;
        for (what, answer) in [("API token", units), ("gateway token", beat)] {
            println!("     stolen {what} with {who}: {answer}");
            ensure!(matches!(answer.status, 401 | 403), "a stolen {what} with {who}: {answer}");
        }
    }
    Ok(())
}

/// With a good identity, on what is not its own.
async fn foreign(world: &World, caller: &Caller, tokens: &Tokens) -> Result<()> {
    job::apply(world, &job::tiny("bait", 2)).await?;
    let done = job::wait_phase(world, "bait", "Succeeded", Duration::from_secs(120)).await?;
    let units = job::units(world, &done).await?;
    let unit = crate::cluster::name(units.first().context("the job has no unit")?).to_owned();
    let muster = "/k8s/apis/muster.dev/v1alpha1";
    let rows: &[(Method, String)] = &[
        (Method::GET, format!("{muster}/namespaces/{EAST_NAMESPACE}/workunits")),
        (Method::GET, format!("{muster}/workunits")),
        (Method::GET, format!("{muster}/namespaces/{EAST_NAMESPACE}/workunits/{unit}")),
        (Method::PATCH, format!("{muster}/namespaces/{EAST_NAMESPACE}/workunits/{unit}/status")),
        (Method::PATCH, format!("{muster}/namespaces/{EAST_NAMESPACE}/providerreports/report/status")),
        (Method::PUT, format!("/k8s/apis/coordination.k8s.io/v1/namespaces/{EAST_NAMESPACE}/leases/agent")),
        (Method::PATCH, format!("{UNITS}/x-0-1")),
        (Method::POST, UNITS.to_owned()),
        (Method::DELETE, format!("{UNITS}/x-0-1")),
        (Method::PATCH, format!("{muster}/namespaces/muster-p-south/providerreports/report")),
        (Method::GET, format!("{muster}/namespaces/e2e/trainingjobs")),
        (Method::GET, format!("{muster}/computeproviders")),
        (Method::PATCH, format!("{muster}/computeproviders/south/status")),
        (Method::GET, "/k8s/api/v1/secrets".to_owned()),
        (Method::GET, "/k8s/api/v1/namespaces/muster-agents/secrets".to_owned()),
        (Method::POST, "/k8s/api/v1/namespaces/muster-agents/serviceaccounts/south/token".to_owned()),
        (Method::GET, "/k8s/api/v1/nodes".to_owned()),
        (Method::GET, "/k8s/metrics".to_owned()),
    ];
    for (method, path) in rows {
        let body = (method != Method::GET).then(|| json!({"status": {}}));
        let answer = caller.ask(method.clone(), path, Some(&tokens.api), body).await?;
        ensure!(answer.status == 403, "{method} {path}: {answer}");
    }
    println!("     {} requests for what is not its own: 403", rows.len());
    // Data of another tenant's job by its digests, through another's unit.
    let digests =
        ["dataset", "spec"].map(|field| done["status"]["resolved"][field].as_str().unwrap_or("").to_owned());
    for digest in digests {
        let hex = digest.strip_prefix("sha256:").context("no digest in status.resolved")?;
        for unit in [unit.as_str(), "00000000-0-1"] {
            let path = format!("/v1/units/{unit}/blobs/sha256/{hex}");
            let answer = caller.ask(Method::GET, &path, Some(&tokens.gateway), None).await?;
            println!("     GET {path}: {answer}");
            ensure!(matches!(answer.status, 403 | 404), "{path} was answered {answer}");
        }
    }
    Ok(())
}

/// Everything ends within a second: writes, an open watch, new tokens.
async fn revoked(world: &World, key: &Key, caller: &Caller, tokens: &Tokens) -> Result<()> {
    let watch = caller.request(Method::GET, &format!("{UNITS}?watch=true"), Some(&tokens.api)).send().await?;
    ensure!(watch.status() == 200, "the watch was answered {}", watch.status());
    let mut stream = watch.bytes_stream();
    let kubeconfig = world.kubeconfig.to_string_lossy();
    let begin = Instant::now();
    let done = world
        .muster(&["provider", "revoke", SOUTH, "--yes", "--kubeconfig", &kubeconfig, "--context", "hub"])
        .await?;
    ensure!(done.code == 0, "revoke exited {}: {}", done.code, done.tail(10));
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        while let Some(Ok(_)) = stream.next().await {}
    });
    ensure!(ended.await.is_ok(), "the watch of a revoked provider goes on after 5 s");
    println!("     watch cut {:.2} s after the command began", begin.elapsed().as_secs_f64());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let lease = caller.ask(Method::GET, LEASE, Some(&tokens.api), None).await?;
    let beat = json!({"agentVersion": "test"});
    let beat = caller.ask(Method::POST, "/v1/heartbeat", Some(&tokens.gateway), Some(beat)).await?;
    let more = caller.tokens(key).await;
    for (what, answer) in [("its lease", &lease), ("a heartbeat", &beat)] {
        println!("     {what} after 1 s: {answer}");
        ensure!(matches!(answer.status, 401 | 403), "{what} of a revoked provider: {answer}");
    }
    if let Ok(answer) = more {
        ensure!(answer.status != 200, "a revoked provider got new tokens");
    }
    // Past the gateway its API token has lost its rights, too.
    let mine = json!({"verb": "list", "group": "muster.dev", "resource": "workunits", "namespace": "muster-p-south"});
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
        "spec": {"user": "system:serviceaccount:muster-agents:south", "resourceAttributes": mine}});
    let answer = world.hub.create(cluster::ACCESS_REVIEW, None, &review).await?;
    ensure!(answer["status"]["allowed"] != true, "its RoleBinding is still there");
    Ok(())
}
