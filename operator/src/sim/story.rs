//! What people do while a job trains, and what members are like.
use std::time::Duration;

use muster_testkit::api::Half;
use serde_json::{Value, json};

use super::world::World;
use crate::hub::names::provider_namespace;

/// A story by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Story {
    pub name: &'static str,
    /// Of the job.
    pub tier: &'static str,
    /// How many providers there are, of [`super::world::PROVIDERS`].
    pub providers: usize,
    /// Workers of the job.
    pub workers: u32,
    /// Workers of each provider.
    pub lends: u32,
    /// What happens once the first interval is committed.
    pub then: Then,
}

/// What happens half-way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Nothing,
    /// The job is suspended, and resumed 40 s later.
    Suspended,
    /// The job waits in Kueue's queue first, and is evicted from it.
    Queued,
    /// The provider that trains is drained.
    Drained,
    /// It is revoked.
    Revoked,
    /// It is deleted.
    Leaves,
    /// Its member cannot reach the hub any more.
    Lost,
    /// So it is, and comes back after 60 s, with pods that know nothing of it.
    Returns,
    /// All members are cut off for 40 s, and its own is the last that comes back.
    Deaf,
    /// Its unit fails once.
    Fails,
    /// The first interval was wrong. It is the one that is always replayed.
    Lies,
    /// The job is deleted.
    Deleted,
    /// Its agent is there and does nothing more, for three minutes.
    Stuck,
    /// Its agent says absurd things of itself and of the unit, and is then drained.
    Absurd,
    /// The job is to have more workers.
    Resized,
    /// A job of the same tenant that is more important wants everything.
    Preempted,
    /// Two more jobs are made at the same time, and there is room for one of them.
    Crowd,
    /// Three tenants with weights 1, 2 and 3 have more jobs than there is room for.
    Weights,
    /// Two jobs of a tenant have everything, and another tenant wants its share.
    Shares,
}

/// All of them.
pub const ALL: [Story; 19] = [
    story("plain", "None", 2, Then::Nothing),
    story("audited", "Gold", 4, Then::Nothing),
    story("suspended", "None", 2, Then::Suspended),
    story("queued", "None", 2, Then::Queued),
    story("drained", "None", 2, Then::Drained),
    story("revoked", "None", 3, Then::Revoked),
    story("leaves", "None", 2, Then::Leaves),
    story("lost", "None", 2, Then::Lost),
    story("returns", "Silver", 4, Then::Returns),
    story("deaf", "None", 3, Then::Deaf),
    story("fails", "None", 2, Then::Fails),
    story("lies", "Gold", 5, Then::Lies),
    story("deleted", "Silver", 3, Then::Deleted),
    story("stuck", "None", 2, Then::Stuck),
    story("absurd", "None", 2, Then::Absurd),
    story("resized", "None", 1, Then::Resized),
    with("preempted", 4, 1, Then::Preempted),
    with("crowd", 2, 1, Then::Crowd),
    with("shares", 2, 1, Then::Shares),
];

const fn story(name: &'static str, tier: &'static str, providers: usize, then: Then) -> Story {
    Story { name, tier, providers, workers: 1, lends: 4, then }
}

/// Without audits, and with so many workers.
const fn with(name: &'static str, workers: u32, providers: usize, then: Then) -> Story {
    Story { name, tier: "None", providers, workers, lends: 4, then }
}

/// Long, and about what is measured: a test of its own.
pub const WEIGHTS: Story =
    Story { name: "weights", tier: "None", providers: 1, workers: 1, lends: 6, then: Then::Weights };

impl Story {
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().chain([WEIGHTS]).find(|story| story.name == name)
    }
}

/// Does it, once it is time.
pub async fn play(world: &World) {
    match world.story.then {
        Then::Shares => world.rival("team-a", "second", 0, 2),
        Then::Crowd => {
            world.rival("team-a", "second", 0, 2);
            world.rival("team-b", "third", 0, 2);
        }
        Then::Weights => return weights(world).await,
        _ => {}
    }
    while world.commits() == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let Some(trains) = world.trains() else { return };
    let provider = |change: Value| world.change("computeproviders", None, &trains, &change);
    let job = |change: Value| world.change("trainingjobs", Some("team-a"), "kjv-gpt", &change);
    match world.story.then {
        Then::Nothing | Then::Lies | Then::Crowd | Then::Weights => {}
        Then::Suspended => {
            job(json!({"spec": {"suspend": true}}));
            tokio::time::sleep(Duration::from_secs(40)).await;
            job(json!({"spec": {"suspend": false}}));
        }
        Then::Queued => super::kueue::evict(world),
        Then::Drained => provider(json!({"spec": {"scheduling": "Drained"}})),
        Then::Revoked => provider(json!({"spec": {"scheduling": "Revoked"}})),
        Then::Leaves => world.delete("computeproviders", None, &trains),
        Then::Lost => world.cut(&trains, true),
        Then::Returns => {
            world.cut(&trains, true);
            tokio::time::sleep(Duration::from_secs(60)).await;
            world.cut(&trains, false);
        }
        Then::Deaf => {
            let (own, others): (Vec<&str>, Vec<&str>) =
                world.members.iter().map(|member| member.name).partition(|name| *name == trains);
            let all = own.iter().chain(&others);
            all.for_each(|name| world.cut(name, true));
            tokio::time::sleep(Duration::from_secs(40)).await;
            for name in others.iter().chain(&own) {
                world.cut(name, false);
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        }
        Then::Fails => world.fail_once(&trains),
        Then::Deleted => world.delete("trainingjobs", Some("team-a"), "kjv-gpt"),
        Then::Stuck => {
            world.stick(&trains, true);
            tokio::time::sleep(Duration::from_secs(180)).await;
            world.stick(&trains, false);
        }
        Then::Absurd => {
            absurd(world, &trains);
            tokio::time::sleep(Duration::from_secs(1)).await;
            provider(json!({"spec": {"scheduling": "Drained"}}));
        }
        Then::Resized => job(json!({"spec": {"workers": {"count": 2}}})),
        Then::Preempted => world.rival("team-a", "urgent", 5, 4),
        Then::Shares => world.rival("team-b", "third", 0, 2),
    }
}

/// The worst that the schema lets through.
fn absurd(world: &World, provider: &str) {
    let namespace = provider_namespace(provider);
    let (most, escape) = (9_007_199_254_740_991_u64, "\u{1b}[2J\u{7}\u{0}\u{202e}");
    let condition = json!([{
        "type": "CapacityKnown", "status": "False", "reason": "Absurd", "message": escape.repeat(100),
        "lastTransitionTime": "0001-01-01T00:00:00Z", "observedGeneration": most,
    }]);
    let report = json!({"status": {
        "observedAt": "9999-12-31T23:59:59Z", "agentVersion": escape, "kubernetesVersion": escape, "protocols": [escape],
        "devices": [{"class": "cpu", "workers": 100_000, "idle": 100_000, "price": most, "priceValidUntil": "0001-01-01T00:00:00Z"}],
        "conditions": condition,
    }});
    world.update(("muster.dev", "providerreports"), Some(&namespace), "report", Half::Status, &report);
    let unit = json!({"status": {"tokensPerSecond": most, "loss": escape, "conditions": condition}});
    for one in world.all("workunits") {
        let name = one["metadata"]["name"].as_str().unwrap_or_default();
        world.update(("muster.dev", "workunits"), Some(&namespace), name, Half::Status, &unit);
    }
}

/// Jobs of each tenant, for each one that its weight gives it room for.
const ROUNDS: u32 = 4;

/// While every tenant has more jobs than room, each has its share of the workers, within a tenth.
async fn weights(world: &World) {
    let tenants = [("team-a", 1), ("team-b", 2), ("team-c", 3)];
    for (tenant, weight) in tenants {
        let label = json!({"metadata": {"labels": {"muster.dev/weight": weight.to_string()}}});
        world.update(("", "namespaces"), None, tenant, Half::Main, &label);
        for job in 0..weight * ROUNDS {
            world.rival(tenant, &format!("job-{job}"), 0, 1);
        }
    }
    let mut held = [0_u64; 3];
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let at_work = world.at_work();
        let Some(now) =
            tenants.map(|(tenant, _)| at_work.get(tenant).copied()).into_iter().collect::<Option<Vec<_>>>()
        else {
            // Nobody has anything yet, or somebody has nothing any more.
            if held == [0; 3] { continue } else { break }
        };
        if now.iter().any(|(_, waiting)| *waiting == 0) {
            break;
        }
        held.iter_mut().zip(&now).for_each(|(held, (workers, _))| *held += workers);
    }
    let all: u64 = held.iter().sum();
    println!("weights: worker-seconds {held:?}");
    for ((tenant, weight), held) in tenants.into_iter().zip(held) {
        let (has, due) = (held as f64 / all as f64, f64::from(weight) / 6.0);
        let is_near = (has - due).abs() <= due / 10.0;
        if !is_near {
            world
                .wrong
                .borrow_mut()
                .push(format!("shares: {tenant} has {has:.3} of all workers, not {due:.3}"));
        }
    }
}
