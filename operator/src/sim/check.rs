//! What must hold, whatever happened (docs/spec/simulation.md section 2). Looked at while a schedule runs and over all that it has left.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_proof::records::fields::JobId;
use muster_proof::records::{Record, VerdictKind};
use muster_testkit::api::{Change, Verb};
use muster_testkit::explore::Schedule;
use muster_testkit::faults::{Fault, MOST_CALLS};
use serde_json::Value;
use tokio::time::Instant;

use super::kueue::Turns;
use super::member::right;
use super::story::Then;
use super::world::{ENDED, ENDS_WITHIN, STEPS, World};

/// How often the end is looked for. Costs nothing but the look.
const LOOKS: Duration = Duration::from_secs(1);
/// After the end: what is still on its way arrives.
const SETTLES: Duration = Duration::from_secs(75);
/// After that nothing is written for so long.
const QUIET: Duration = Duration::from_secs(45);

/// Waits for the end of the job, deletes it, waits until it is gone; what did not hold.
pub async fn watch(world: &World, schedule: &Schedule) -> Vec<String> {
    let mut wrong = Vec::new();
    let ended = until(|| world.the_job().is_none_or(|job| is_finished(&job))).await;
    if ended && !until(|| world.all("trainingjobs").iter().all(is_finished)).await {
        let open = world.all("trainingjobs").into_iter().filter(|job| !is_finished(job));
        wrong.extend(open.map(|job| {
            format!("convergence: {} is not finished: {}", job["metadata"]["name"], job["status"])
        }));
    }
    let deleted = world.the_job().is_none();
    match world.the_job() {
        // Somebody has taken a provider away, and it waits for another one.
        Some(_) if !ended && world.lacks_provider() => {}
        Some(job) if !ended => wrong.push(format!("convergence: the job is not finished: {}", job["status"])),
        Some(job) => wrong.extend(result(world, &job)),
        None => {}
    }
    if schedule.faults.is_empty() && !deleted {
        wrong.extend(quiet(world).await);
    }
    world.script.heal();
    for job in world.all("trainingjobs") {
        let text = |field: &str| job["metadata"][field].as_str().unwrap_or_default().to_owned();
        world.delete("trainingjobs", Some(&text("namespace")), &text("name"));
    }
    if !until(|| leftovers(world).is_empty()).await {
        wrong.push(format!("orphans: {} left", leftovers(world).join(", ")));
    }
    if world.script.calls() > MOST_CALLS {
        wrong.push("busy: calls without an end, while no time passes".to_owned());
    }
    wrong.extend(world.wrong.take());
    wrong.extend(history(world, schedule));
    wrong.extend(log(world, deleted));
    wrong
}

async fn until(done: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !done() {
        if began.elapsed() > ENDS_WITHIN {
            return false;
        }
        tokio::time::sleep(LOOKS).await;
    }
    true
}

fn is_finished(job: &Value) -> bool {
    matches!(job["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// A job that has ended: with every step, and the bits that everybody honest computes.
fn result(world: &World, job: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let (status, all) = (&job["status"], right(STEPS).to_string());
    if status["phase"] != "Succeeded" {
        wrong.push(format!("convergence: the job has failed: {status}"));
    }
    if status["checkpoint"]["step"] != STEPS || status["checkpoint"]["stateRoot"] != *all {
        wrong.push(format!("bits: the result is {}, not step {STEPS} of {all}", status["checkpoint"]));
    }
    let id = status["jobID"].as_str().and_then(|id| id.parse().ok()).map(JobId);
    let path = id.map(|id| world.log.shown.look(|history| history.path(id, 0))).unwrap_or_default();
    let is_whole = path.last().is_some_and(|last| last.last == STEPS)
        && path.iter().all(|interval| interval.state_root == right(interval.last));
    if !is_whole {
        wrong.push(format!("bits: the log's path is {path:?}"));
    }
    if let Some(id) = id.filter(|_| world.story.tier != "None") {
        let audits = world.log.shown.look(|history| history.audits(id)).unwrap_or_default();
        let open = audits.iter().filter(|audit| audit.verdict.is_none()).count();
        if audits.is_empty() || open > 0 {
            wrong.push(format!("windows: it has succeeded with {open} of {} draws open", audits.len()));
        }
    }
    wrong
}

/// Once all is done nothing is written but heartbeats.
async fn quiet(world: &World) -> Vec<String> {
    tokio::time::sleep(SETTLES).await;
    let phase = |unit: &Value| unit["status"]["phase"].as_str().unwrap_or_default().to_owned();
    let is_cut = |unit: &Value| world.is_cut(unit["metadata"]["namespace"].as_str().unwrap_or_default());
    let ended = |unit: &Value| ENDED.contains(&phase(unit).as_str());
    let on = world.all("workunits").into_iter().filter(|unit| !is_cut(unit) && !ended(unit));
    let on: Vec<String> = on.map(|unit| format!("{} {}", unit["metadata"]["name"], phase(&unit))).collect();
    if !on.is_empty() {
        return vec![format!("quiet: the job is over and units go on: {}", on.join(", "))];
    }
    let before = world.server.read(|objects| objects.version());
    tokio::time::sleep(QUIET).await;
    let written: BTreeSet<String> = world.server.read(|objects| {
        let new = objects.history().iter().filter(|change| change.version > before);
        new.filter(|change| change.key.collection != "coordination.k8s.io/leases")
            .map(|change| format!("{} {}", change.key.collection, change.key.name))
            .collect()
    });
    match written.is_empty() {
        true => Vec::new(),
        false => vec![format!("quiet: written although nothing happens: {written:?}")],
    }
}

/// What is left of a job that is gone.
fn leftovers(world: &World) -> Vec<String> {
    let jobs = world.jobs();
    let is_job = |uid: &Value| uid.as_str().is_some_and(|uid| jobs.iter().any(|job| job == uid));
    world.server.read(|objects| {
        let is_of = |object: &Value| {
            let metadata = &object["metadata"];
            is_job(&metadata["uid"])
                || is_job(&metadata["labels"]["muster.dev/job-uid"])
                || is_job(&metadata["ownerReferences"][0]["uid"])
        };
        let left = objects.all().filter(|(_, object)| is_of(object));
        left.map(|(key, _)| format!("{} {}", key.collection, key.name)).collect()
    })
}

/// Every change that there was, in its order.
fn history(world: &World, schedule: &Schedule) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut units, mut room, mut turns) = (BTreeMap::new(), Room::default(), Turns::default());
    // Another client's deletions move a job as they please; nothing else does that is no reason to.
    let moved = schedule.faults.values().any(|fault| matches!(fault, Fault::Deleted | Fault::Edited));
    let queues = world.story.then == Then::Queued && !moved;
    world.server.read(|objects| {
        for change in objects.history() {
            wrong.extend(room.changed(change, u64::from(world.story.lends)));
            if queues {
                wrong.extend(turns.changed(change));
            }
            if change.key.collection.starts_with("muster.dev/") {
                wrong.extend(monotone(change));
            }
            if change.key.collection == "muster.dev/workunits" && change.verb == Verb::Added {
                let mine = change.new["spec"]["jobUID"] == *world.job;
                units.entry(change.key.name.clone()).or_insert((mine, 0)).1 += 1;
            }
        }
    });
    wrong.extend(
        units
            .iter()
            .filter(|(_, (_, times))| *times > 1)
            .map(|(name, _)| format!("fencing: unit {name} was made twice")),
    );
    let trains = units.iter().filter(|(name, (mine, _))| *mine && !name.contains("-a")).count();
    let (least, most) = match world.story.then {
        Then::Nothing | Then::Deleted | Then::Deaf => (1, 1),
        // It may be another one that makes way.
        Then::Shares | Then::Crowd | Then::Weights => (1, 2),
        _ => (2, 2),
    };
    // A hub that has died does not know for whom it had somebody make way.
    let forgot = matches!(world.story.then, Then::Shares | Then::Crowd | Then::Preempted)
        && !schedule.faults.is_empty();
    let most = most + usize::from(forgot);
    // Late news may make a drain or a suspension come to nothing, but moves nothing.
    if (!moved && trains > most) || (schedule.faults.is_empty() && trains < least) {
        wrong.push(format!("moves: {trains} units, not {least} to {most}"));
    }
    wrong.extend(let_go(world));
    wrong.extend(clean(world));
    wrong
}

/// Nothing that an agent says reaches what others read with characters that a terminal obeys.
fn clean(world: &World) -> Option<String> {
    fn is_dirty(value: &Value) -> bool {
        match value {
            Value::String(text) => text.chars().any(|c| c.is_control() && c != '\n' || c == '\u{202e}'),
            Value::Array(items) => items.iter().any(is_dirty),
            Value::Object(map) => map.values().any(is_dirty),
            _ => false,
        }
    }
    // These are the agent's own.
    let own = ["muster.dev/providerreports", "muster.dev/workunits"];
    world.server.read(|objects| {
        let others = objects.history().iter().filter(|change| !own.contains(&change.key.collection.as_str()));
        let dirty = others.into_iter().find(|change| is_dirty(&change.new))?;
        Some(format!("clean: {} {} has control characters", dirty.key.collection, dirty.key.name))
    })
}

/// Workers of the units of each provider that may be at work.
#[derive(Default)]
struct Room(BTreeMap<String, BTreeMap<String, u64>>);

impl Room {
    fn changed(&mut self, change: &Change, lends: u64) -> Option<String> {
        if change.key.collection != "muster.dev/workunits" {
            return None;
        }
        let here = self.0.entry(change.key.namespace.clone()).or_default();
        let phase = change.new["status"]["phase"].as_str().unwrap_or_default();
        let over = ENDED.contains(&phase);
        if over || change.verb == Verb::Deleted {
            here.remove(&change.key.name);
            return None;
        }
        here.insert(change.key.name.clone(), change.new["spec"]["workers"].as_u64().unwrap_or(0));
        let workers: u64 = here.values().sum();
        let new = change.verb == Verb::Added;
        (new && workers > lends).then(|| {
            format!("room: {} has {workers} workers at work with {}", change.key.namespace, change.key.name)
        })
    }
}

/// A unit goes only after its agent has said that nothing of it runs, or after the grace of a member that cannot say so.
fn let_go(world: &World) -> Vec<String> {
    let gone =
        |change: &&Change| change.key.collection == "muster.dev/workunits" && change.verb == Verb::Deleted;
    let early = |change: &&Change| {
        let phase = change.new["status"]["phase"].as_str();
        let grace = world.grace_is_over(&change.key.namespace);
        !matches!(phase, Some("Released" | "Refused")) && !grace && change.new["spec"]["kind"] == "Train"
    };
    world.server.read(|objects| {
        let early = objects.history().iter().filter(gone).filter(early);
        early
            .map(|change| format!("let go: {} as {}", change.key.name, change.new["status"]["phase"]))
            .collect()
    })
}

/// What never goes back.
fn monotone(change: &Change) -> Vec<String> {
    let (Some(old), new) = (&change.old, &change.new) else { return Vec::new() };
    if change.verb == Verb::Deleted {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    let name = format!("{} {}", change.key.collection, change.key.name);
    let numbers = |pointer: &str| {
        (old.pointer(pointer).and_then(Value::as_i64), new.pointer(pointer).and_then(Value::as_i64))
    };
    for pointer in
        ["/metadata/generation", "/status/observedGeneration", "/status/minEpoch", "/status/islands/0/epoch"]
    {
        if let (Some(before), now) = numbers(pointer)
            && now.is_none_or(|now| now < before)
        {
            wrong.push(format!("monotone: {name} {pointer} goes from {before} to {now:?}"));
        }
    }
    let phases = (old["status"]["phase"].as_str(), new["status"]["phase"].as_str());
    if let (Some(before @ ("Succeeded" | "Failed")), now) = phases
        && change.key.collection == "muster.dev/trainingjobs"
        && now != Some(before)
    {
        wrong.push(format!("monotone: {name} goes from {before} to {now:?}"));
    }
    wrong
}

/// What the log says of the job.
fn log(world: &World, deleted: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let records = world.records();
    let count = |is: fn(&Record) -> bool| records.iter().filter(|record| is(record)).count();
    if count(|record| matches!(record, Record::Job(_))) > world.jobs().len() {
        wrong.push("log: the job is in it twice".to_owned());
    }
    let grants = count(|record| matches!(record, Record::Grant(_)));
    let mut open = BTreeSet::new();
    for record in &records {
        match record {
            Record::Grant(it) => _ = open.insert((it.job, it.epoch)),
            Record::GrantEnd(it) => _ = open.remove(&(it.job, it.epoch)),
            // What is undone is over, too.
            Record::Rollback(it) => open.retain(|(job, _)| *job != it.job),
            _ => {}
        }
    }
    if !open.is_empty() {
        wrong.push(format!("log: of {grants} grants {} have no end, and the job is gone", open.len()));
    }
    if grants > 0 && count(|record| matches!(record, Record::JobEnd(_))) == 0 {
        wrong.push("log: the job is gone without its end".to_owned());
    }
    if let Some(liar) = world.has_lied().filter(|_| !deleted) {
        let convicted = records.iter().any(|record| {
            matches!(record, Record::Verdict(it) if it.verdict == VerdictKind::Fault
                && it.party.as_ref().is_some_and(|party| party.as_str() == liar))
        });
        if !convicted {
            wrong.push(format!("verdicts: {liar} has lied and is not convicted"));
        }
    }
    wrong.extend(rights(world));
    if let Some(liar) = world.has_lied() {
        let verdict = records
            .iter()
            .position(|record| matches!(record, Record::Verdict(it) if it.verdict == VerdictKind::Fault));
        let again = records
            .iter()
            .skip(verdict.unwrap_or(usize::MAX))
            .any(|record| matches!(record, Record::Grant(it) if it.provider.as_str() == liar));
        if again {
            wrong.push(format!("verdicts: {liar} was convicted and got the job again"));
        }
    }
    let honest = records.iter().any(|record| {
        matches!(record, Record::Verdict(it) if matches!(it.verdict, VerdictKind::Fault | VerdictKind::AuditorFault)
            && it.party.as_ref().is_some_and(|party| Some(party.as_str()) != world.has_lied()))
    });
    if honest {
        wrong.push("verdicts: somebody honest was convicted".to_owned());
    }
    wrong
}

/// Whoever was revoked has no rights left.
fn rights(world: &World) -> Vec<String> {
    let out: Vec<String> = world
        .all("computeproviders")
        .into_iter()
        .filter(|provider| provider["spec"]["scheduling"] == "Revoked")
        .filter_map(|provider| provider["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    world.server.read(|objects| {
        let bindings =
            objects.of("rbac.authorization.k8s.io/rolebindings", None).map(|(key, _)| key.namespace.as_str());
        let accounts =
            objects.of("/serviceaccounts", Some("muster-agents")).map(|(key, _)| key.name.as_str());
        let left: BTreeSet<&str> =
            bindings.map(|namespace| namespace.trim_start_matches("muster-p-")).chain(accounts).collect();
        let kept = out.iter().filter(|name| left.contains(name.as_str()));
        kept.map(|name| format!("rights: {name} was revoked and still has some")).collect()
    })
}
