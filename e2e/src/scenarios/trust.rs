//! What the member refuses from its hub, and what one provider sees of another.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use serde_json::{Value, json};

use crate::cluster::{Cluster, SECRET, WORK_UNIT, conditions, phase};
use crate::harness::Verdict;
use crate::job;
use crate::world::{EAST_NAMESPACE, WEST, World, eventually};

/// Keeps a copy until its verdict was read: the hub removes units of jobs that it does not know.
const HELD: &str = "muster.dev/test";

pub async fn tampered_unit(world: &World) -> Result<Verdict> {
    job::apply(world, &job::tiny("honest", 2)).await?;
    let done = job::wait_phase(world, "honest", "Succeeded", Duration::from_secs(120)).await?;
    let units = job::units(world, &done).await?;
    let honest = units.first().context("the job has no unit")?;
    let epoch = honest["spec"]["epoch"].as_u64().context("a unit without an epoch")?;

    // Only the hub's account may write units: not even an administrator, by accident or otherwise.
    let answer = world.hub.create(WORK_UNIT, Some(EAST_NAMESPACE), &copy_of(honest, epoch + 1)).await;
    let answer =
        answer.err().map(|error| error.to_string()).context("an administrator could create a WorkUnit")?;
    println!("     an administrator's unit: {answer}");

    // What follows has the hub's own token: a hub that was broken into.
    // A unit's name follows from its mirror, so each copy takes the next free epoch or another job's name.
    let mut later = copy_of(honest, epoch + 1);
    refused(world, "mirror says the next epoch", &later, &["MirrorMismatch"]).await?;

    later["spec"]["workers"] = json!(3);
    refused(world, "mirror says 3 workers", &later, &["MirrorMismatch"]).await?;

    let mut stolen = copy_of(honest, epoch);
    stolen["spec"]["jobUID"] = json!("bbbbbbbb-0000-4000-8000-000000000000");
    stolen["metadata"]["name"] = json!(format!("bbbbbbbb-0-{epoch}"));
    refused(world, "mirror says another job", &stolen, &["MirrorMismatch"]).await?;

    // One word of the payload and the mirror with it; the signature is what tells.
    let mut altered = copy_of(honest, epoch + 1);
    let payload = altered["spec"]["envelope"]["payload"].as_str().unwrap_or("").to_owned();
    let engine = base64::engine::general_purpose::STANDARD;
    let text = String::from_utf8(engine.decode(&payload)?)?;
    let name = crate::cluster::name(&altered).to_owned();
    let (old, new) = (format!("\"epoch\":{epoch},"), format!("\"epoch\":{},", epoch + 1));
    ensure!(text.contains(&old), "the payload does not say {old}");
    let text = text.replace(&old, &new).replace(crate::cluster::name(honest), &name);
    altered["spec"]["envelope"]["payload"] = json!(engine.encode(text));
    refused(world, "payload and mirror altered together", &altered, &["BadSignature"]).await?;

    // And what is there already cannot be edited at all.
    let edit = json!({"spec": {"workers": 7}});
    let answer = world.hub.patch(WORK_UNIT, Some(EAST_NAMESPACE), crate::cluster::name(honest), &edit).await;
    ensure!(answer.is_err(), "the API server let an administrator edit a unit's spec");
    println!(
        "     edit of a unit in place: {}",
        answer.err().map(|error| error.to_string()).unwrap_or_default()
    );
    Ok(Verdict::Passed)
}

/// The same unit with another epoch in its mirror, without what the server filled in.
fn copy_of(unit: &Value, epoch: u64) -> Value {
    let mut spec = unit["spec"].clone();
    spec["epoch"] = json!(epoch);
    let prefix = spec["jobUID"].as_str().and_then(|uid| uid.get(..8)).unwrap_or("");
    json!({
        "apiVersion": unit["apiVersion"], "kind": unit["kind"],
        "metadata": {"name": format!("{prefix}-0-{epoch}"), "namespace": EAST_NAMESPACE,
                     "labels": unit["metadata"]["labels"], "finalizers": [HELD]},
        "spec": spec,
    })
}

async fn refused(world: &World, what: &str, unit: &Value, reasons: &[&str]) -> Result<()> {
    let name = crate::cluster::name(unit).to_owned();
    let hub = Cluster::connect_current(&world.run.join("hub.kubeconfig"), "the hub's account").await?;
    hub.create(WORK_UNIT, Some(EAST_NAMESPACE), unit).await?;
    let ask = || async {
        let now = world.hub.get(WORK_UNIT, Some(EAST_NAMESPACE), &name).await?.context("the unit is gone")?;
        let text = conditions(&now);
        Ok(reasons.iter().any(|reason| text.contains(reason)).then_some((now, text)))
    };
    let outcome = eventually(&format!("{name} to be refused ({what})"), Duration::from_secs(30), ask).await;
    hub.delete(WORK_UNIT, Some(EAST_NAMESPACE), &name, None).await?;
    hub.patch(WORK_UNIT, Some(EAST_NAMESPACE), &name, &json!({"metadata": {"finalizers": null}})).await?;
    let (unit, text) = outcome?;
    println!("     {what}: {} {text}", phase(&unit));
    ensure!(matches!(phase(&unit), "Refused" | "Released"), "its phase is {}", phase(&unit));
    Ok(())
}

pub async fn other_provider(world: &World) -> Result<Verdict> {
    forbidden(world, &format!("muster-p-{WEST}")).await
}

/// With a token of the agent's own ServiceAccount, past the gateway: RBAC is the second wall.
async fn forbidden(world: &World, west: &str) -> Result<Verdict> {
    let agent = world.hub.as_account(&world.kubeconfig, "muster-agents", "east", "east's agent").await?;
    agent.list(WORK_UNIT, Some(EAST_NAMESPACE), "").await.context("its own units")?;
    for (kind, namespace) in [
        (WORK_UNIT, west),
        (SECRET, west),
        (SECRET, EAST_NAMESPACE),
        (SECRET, "muster-agents"),
        (SECRET, "muster-system"),
    ] {
        let what = format!("{} in {namespace}", kind.plural);
        match agent.list(kind, Some(namespace), "").await {
            Ok(_) => anyhow::bail!("the agent of east can list {what}"),
            Err(error) => {
                let code = error.downcast_ref::<kube::Error>().and_then(|error| match error {
                    kube::Error::Api(status) => Some(status.code),
                    _ => None,
                });
                ensure!(code == Some(403), "listing {what}: {error:#}");
                println!("     {what}: 403");
            }
        }
    }
    Ok(Verdict::Passed)
}
