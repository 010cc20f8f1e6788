//! Provider south: it has no cluster, whoever is its agent is us.
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cluster::PROVIDER;
use crate::gateway::{Caller, Key, Tokens, secret};
use crate::world::{World, eventually};

/// Its name.
pub const SOUTH: &str = "south";
/// Its namespace on the hub.
pub const NAMESPACE: &str = "muster-p-south";
/// Its units behind the gateway.
pub const UNITS: &str = "/k8s/apis/muster.dev/v1alpha1/namespaces/muster-p-south/workunits";

/// Makes the ComputeProvider.
pub async fn make(world: &World) -> Result<()> {
    let provider = json!({"apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider", "metadata": {"name": SOUTH},
                          "spec": {"owner": "initech"}});
    world.hub.ensure(PROVIDER, None, &provider).await
}

/// The secret of a new join token.
pub async fn token(world: &World, more: &[&str]) -> Result<String> {
    let kubeconfig = world.kubeconfig.to_string_lossy();
    let mut arguments =
        vec!["provider", "create-token", SOUTH, "--kubeconfig", &*kubeconfig, "--context", "hub"];
    arguments.extend_from_slice(more);
    let made = world.muster(&arguments).await?;
    ensure!(made.code == 0, "create-token exited {}: {}", made.code, made.tail(10));
    secret(&made.stdout)
}

/// Joins as south's agent, all in good order.
pub async fn join(world: &World) -> Result<(Key, Caller, Tokens)> {
    make(world).await?;
    let key = Key::new()?;
    let caller = Caller::new(world, Some(&key)).await?;
    let answer = caller.join(SOUTH, &token(world, &["--auto-accept"]).await?).await?;
    ensure!(answer.status == 200, "join: {answer}");
    let ask = || async {
        let answer = caller.tokens(&key).await?;
        Ok((answer.status == 200).then_some(answer))
    };
    let tokens = Tokens::of(&eventually("tokens of south's agent", Duration::from_secs(30), ask).await?)?;
    let own = || async {
        let answer = caller.ask(reqwest::Method::GET, UNITS, Some(&tokens.api), None).await?;
        Ok((answer.status == 200).then_some(()))
    };
    eventually("south's namespace", Duration::from_secs(15), own).await?;
    Ok((key, caller, tokens))
}

/// Nothing of it stays.
pub async fn leave(world: &World) -> Result<()> {
    world.hub.delete(PROVIDER, None, SOUTH, None).await?;
    let gone = || async { Ok(world.hub.get(PROVIDER, None, SOUTH).await?.is_none().then_some(())) };
    eventually("ComputeProvider south to be gone", Duration::from_secs(60), gone).await
}
