//! A URL for one object: good for whoever has it, for nothing else.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muster_proof::Digest;
use reqwest::Method;
use serde_json::{Value, json};

use crate::gateway::Caller;
use crate::harness::Verdict;
use crate::job;
use crate::world::{TENANT, World};

const NAME: &str = "fetched";

pub async fn urls(world: &World) -> Result<Verdict> {
    job::apply(world, &job::tiny(NAME, 1)).await?;
    job::wait_phase(world, NAME, "Succeeded", Duration::from_secs(120)).await?;
    let nobody = Caller::new(world, None).await?;
    let token = tenant_token(world)?;
    let base = format!("/v1/namespaces/{TENANT}/jobs/{NAME}");
    let list = nobody.ask(Method::GET, &format!("{base}/checkpoints"), Some(&token), None).await?;
    ensure!(list.status == 200, "checkpoints: {list}");
    let manifest = list.body["checkpoints"][0]["manifest"].as_str().context("no checkpoint")?.to_owned();
    let ask = |digest: &str, token: Option<String>| {
        let (nobody, path, body) = (&nobody, format!("{base}/urls"), json!({"digest": digest}));
        async move { nobody.ask(Method::POST, &path, token.as_deref(), Some(body)).await }
    };
    let answer = ask(&manifest, Some(token.clone())).await?;
    ensure!(answer.status == 200 && answer.body["expiresInSeconds"] == 600, "urls: {answer}");
    let foreign = ask(&Digest::of(b"no blob of this job").to_string(), Some(token.clone())).await?;
    ensure!(foreign.status == 404, "a URL for what is not the job's: {foreign}");
    let anonymous = ask(&manifest, None).await?;
    ensure!(anonymous.status == 401, "a URL for nobody: {anonymous}");

    // By whoever has it, with nothing else.
    let url = answer.body["url"].as_str().context("no url")?;
    let path =
        &url[url.find("/v1/objects/").context("not the gateway's own URL: is the store a bucket?")?..];
    let got = nobody.request(Method::GET, path, None).send().await?;
    ensure!(got.status() == 200, "the URL was answered {}", got.status());
    ensure!(Digest::of(&got.bytes().await?).to_string() == manifest, "the URL gave other bytes");
    println!("     GET of {} without credentials: the manifest", &path[..40]);

    let mut tampered = path.to_owned();
    let last = tampered.pop();
    tampered.push(if last == Some('A') { 'B' } else { 'A' });
    let spliced = path.replacen("/v1/objects/e", "/v1/objects/f", 1);
    for (what, method, path) in [
        ("tampered", Method::GET, tampered.as_str()),
        ("spliced", Method::GET, &spliced),
        ("another method", Method::PUT, path),
        ("made up", Method::GET, "/v1/objects/e30.AAAA"),
    ] {
        let answer = nobody.ask(method, path, None, None).await?;
        println!("     {what}: {answer}");
        ensure!(answer.status == 403 && answer.reason() == "BadUrl", "{what}: {answer}");
    }

    // Where the store is a directory, --direct has nothing to be direct to, and goes through the gateway.
    let (out, kubeconfig) = (world.scratch.join("fetched"), world.tenant_kubeconfig());
    let (out, kubeconfig) = (out.to_string_lossy(), kubeconfig.to_string_lossy());
    let name = format!("{TENANT}/{NAME}");
    world
        .muster_succeeds(&["download", &name, "--direct", "--out", &out, "--kubeconfig", &kubeconfig])
        .await?;
    Ok(Verdict::Passed)
}

/// As it stands in the tenant's kubeconfig, which the stack writes as JSON.
fn tenant_token(world: &World) -> Result<String> {
    let file: Value = serde_json::from_slice(&std::fs::read(world.tenant_kubeconfig())?)?;
    let token = file["users"][0]["user"]["token"].as_str();
    Ok(token.context("the tenant's kubeconfig has no token")?.to_owned())
}
