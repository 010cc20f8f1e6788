//! What a person reads: the columns of `kubectl get`, the events of `kubectl describe`.
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{self, EVENT, TRAINING_JOB, WORK_UNIT};
use crate::diagnose::event_line;
use crate::job;
use crate::world::{EAST_NAMESPACE, TENANT, World};

/// Asserts that a job that succeeded tells its story.
pub async fn reads_well(world: &World, applied: &Value) -> Result<()> {
    let name = cluster::name(applied);
    let row = world.hub.table(TRAINING_JOB, TENANT, name).await?;
    println!("     {}", row.columns.join("  "));
    println!("     {}", row.cells.join("  "));
    let cell =
        |column: &str| row.cell(column).with_context(|| format!("no column {column} in {:?}", row.columns));
    ensure!(cell("Name")? == name, "column Name is {:?}", cell("Name"));
    ensure!(cell("Phase")? == "Succeeded", "column Phase is {:?}", cell("Phase"));
    let steps = applied["spec"]["training"]["steps"].to_string();
    ensure!(cell("Step")? == format!("{steps}/{steps}"), "column Step is {:?}", cell("Step"));
    let loss: f64 = cell("Loss")?.parse().with_context(|| format!("column Loss is {:?}", cell("Loss")))?;
    ensure!(loss.is_finite() && loss > 0.0 && loss < 6.0, "column Loss is {loss}");
    // Something that has ended has no speed.
    ensure!(cell("Tok/s")?.is_empty(), "a finished job has a speed: {:?}", cell("Tok/s"));
    ensure!(cell("Providers")? == "east", "column Providers is {:?}", cell("Providers"));
    cell("Age")?;

    let mut events = Vec::new();
    for event in world.hub.list(EVENT, Some(TENANT), "").await? {
        if event["involvedObject"]["uid"] == applied["metadata"]["uid"] {
            println!("     event {}", event_line(&event));
            events.push(event);
        }
    }
    ensure!(events.len() >= 3, "only {} events on {name}", events.len());
    for event in &events {
        let message = event["message"].as_str().unwrap_or("");
        ensure!(message.split_whitespace().count() >= 3, "an event that says little: {}", event_line(event));
    }
    let tells = |word: &str| events.iter().any(|event| event_line(event).contains(word));
    ensure!(tells("east"), "no event says where the job was placed");
    ensure!(tells("Succeeded") || tells("Completed"), "no event says that the job succeeded");

    for unit in job::units(world, applied).await? {
        let row = world.hub.table(WORK_UNIT, EAST_NAMESPACE, cluster::name(&unit)).await?;
        println!("     {}", row.cells.join("  "));
        ensure!(row.cell("Kind") == Some("Train"), "WorkUnit column Kind is {:?}", row.cell("Kind"));
    }
    Ok(())
}
