//! What a person would look at first after a failure: objects, events, the ends of the logs.
use crate::cluster::{self, Cluster, EVENT, JOB, Kind, POD, PROVIDER, TRAINING_JOB, WORK_UNIT};
use crate::world::{LENT, TENANT, World};

/// Prints the short form and keeps the long one under `.run/logs/`.
pub async fn dump(world: &World, scenario: &str) {
    println!("--- state after {scenario}");
    let mut kept = String::new();
    let places: [(&Cluster, Kind, Option<&str>); 7] = [
        (&world.hub, PROVIDER, None),
        (&world.hub, TRAINING_JOB, Some(TENANT)),
        (&world.hub, WORK_UNIT, None),
        (&world.member, JOB, Some(LENT)),
        (&world.member, POD, Some(LENT)),
        (&world.west, JOB, Some(LENT)),
        (&world.west, POD, Some(LENT)),
    ];
    for (cluster, kind, namespace) in places {
        match cluster.list(kind, namespace, "").await {
            Ok(objects) => {
                for object in objects {
                    let (name, phase) = (cluster::name(&object), cluster::phase(&object));
                    println!(
                        "  {} {} {name} {phase} {}",
                        cluster.name,
                        kind.kind,
                        cluster::conditions(&object)
                    );
                    kept.push_str(&format!("# {} {} {name}\n{object:#}\n", cluster.name, kind.kind));
                }
            }
            Err(error) => println!("  {} {}: {error:#}", cluster.name, kind.kind),
        }
    }
    for (cluster, namespace) in [(&world.hub, TENANT), (&world.member, LENT), (&world.west, LENT)] {
        for event in cluster.list(EVENT, Some(namespace), "").await.unwrap_or_default() {
            let line = event_line(&event);
            println!("  {} event {line}", cluster.name);
            kept.push_str(&format!("# {} event {line}\n", cluster.name));
        }
    }
    for member in [&world.member, &world.west] {
        for pod in member.list(POD, Some(LENT), "").await.unwrap_or_default() {
            let name = cluster::name(&pod);
            let log = member.logs(LENT, name, 200).await.unwrap_or_else(|error| error.to_string());
            kept.push_str(&format!("# log of pod {name} on {}\n{log}\n", member.name));
            if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "agent" {
                let lines: Vec<&str> = log.lines().collect();
                println!("  --- the last lines of the agent's log on {}", member.name);
                for line in &lines[lines.len().saturating_sub(15)..] {
                    println!("  {line}");
                }
            }
        }
    }
    for part in ["hub", "gateway"] {
        let log = match world.stack(&["log", part, "1000"]).await {
            Ok(output) => output.stdout,
            Err(error) => error.to_string(),
        };
        let lines: Vec<&str> = log.lines().collect();
        println!("  --- the last lines of {part}'s log");
        for line in &lines[lines.len().saturating_sub(15)..] {
            println!("  {line}");
        }
        kept.push_str(&format!(
            "# log of {part}\n{}\n",
            lines[lines.len().saturating_sub(1000)..].join("\n")
        ));
    }
    let file = world.run.join(format!("logs/e2e-{scenario}.txt"));
    match std::fs::write(&file, kept) {
        Ok(()) => println!("--- all of it in {}", file.display()),
        Err(error) => println!("--- cannot write {}: {error}", file.display()),
    }
}

/// An event as `kubectl describe` words it.
pub fn event_line(event: &serde_json::Value) -> String {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("").to_owned();
    let object = &event["involvedObject"];
    format!(
        "{} {} {}/{}: {}",
        text(&event["type"]),
        text(&event["reason"]),
        text(&object["kind"]),
        text(&object["name"]),
        text(&event["message"])
    )
}
