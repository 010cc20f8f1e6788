//! What a person should hear about a job: the difference of two statuses, in words. Pure.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use muster_api::v1alpha1::{TrainingJobPhase, TrainingJobStatus};

use muster_core::lifecycle::conditions::{FAULT_FOUND, PREEMPTED, RECOVERING, RESIZING};

use crate::hub::events::{Fold, News};

/// Reason of the one kind of news that keeps coming.
pub const CHECKPOINT_SAVED: &str = "CheckpointSaved";

/// News in the order in which things happened.
pub fn between(old: &TrainingJobStatus, new: &TrainingJobStatus) -> Vec<News> {
    let mut news = Vec::new();
    acceptance(old, new, &mut news);
    suspension(old, new, &mut news);
    rollback(old, new, &mut news);
    placement(old, new, &mut news);
    training(old, new, &mut news);
    if let Some(checkpoint) = &new.checkpoint
        && old.checkpoint.as_ref().is_none_or(|before| before.step < checkpoint.step)
    {
        let message =
            format!("the state after step {} is durable, {}", checkpoint.step, checkpoint.state_root);
        news.push(News { fold: Fold::Newest, ..News::normal(CHECKPOINT_SAVED, message) });
    }
    audits(old, new, &mut news);
    ending(old, new, &mut news);
    news
}

fn find<'a>(status: &'a TrainingJobStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|c| c.type_ == kind)
}

/// The new condition, if its status or reason is new.
fn turned<'a>(old: &TrainingJobStatus, new: &'a TrainingJobStatus, kind: &str) -> Option<&'a Condition> {
    let now = find(new, kind)?;
    let same = find(old, kind).is_some_and(|was| was.status == now.status && was.reason == now.reason);
    (!same).then_some(now)
}

fn acceptance(old: &TrainingJobStatus, new: &TrainingJobStatus, news: &mut Vec<News>) {
    match turned(old, new, "Accepted") {
        Some(accepted) if accepted.status == "True" => {
            let dataset = new.resolved.as_ref().map_or("", |resolved| resolved.dataset.as_str());
            news.push(News::normal("Resolved", format!("{}; dataset {dataset}", accepted.message)));
        }
        Some(accepted) if accepted.status == "False" => {
            news.push(News::warning(&accepted.reason, accepted.message.clone()));
        }
        _ => {}
    }
}

fn suspension(old: &TrainingJobStatus, new: &TrainingJobStatus, news: &mut Vec<News>) {
    if let Some(suspended) = turned(old, new, "Suspended") {
        let reason = match suspended.reason.as_str() {
            "SuspendedByUser" => "Suspended",
            other => other,
        };
        news.push(News::normal(reason, suspended.message.clone()));
    }
}

fn placement(old: &TrainingJobStatus, new: &TrainingJobStatus, news: &mut Vec<News>) {
    let unit =
        |status: &TrainingJobStatus| status.islands.first().and_then(|island| island.work_unit.clone());
    if unit(new).is_some() && unit(new) != unit(old) {
        let start = match &new.checkpoint {
            Some(checkpoint) => format!("starts from the checkpoint of step {}", checkpoint.step),
            None => "starts from step 0".to_owned(),
        };
        let place = find(new, "Placed").map_or("", |placed| placed.message.as_str());
        news.push(News::normal("Placed", format!("{place}; {start}")));
    }
    let turned = turned(old, new, "Placed");
    if let Some(placed) = turned.filter(|placed| placed.status == "False" || placed.reason == PREEMPTED) {
        news.push(News::warning(&placed.reason, placed.message.clone()));
    }
    if let Some(placed) = turned.filter(|placed| placed.reason == RESIZING) {
        news.push(News::normal(RESIZING, placed.message.clone()));
    }
}

/// Whether a verdict has taken the job back: its newest state is older than before, or it says so itself.
fn rollback(old: &TrainingJobStatus, new: &TrainingJobStatus, news: &mut Vec<News>) {
    let step =
        |status: &TrainingJobStatus| status.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
    let turned = turned(old, new, "Progressing").filter(|progress| is_rollback(progress));
    if step(new) >= step(old) && turned.is_none() {
        return;
    }
    let said = find(new, "Progressing").filter(|progress| is_rollback(progress));
    let message = said.map_or_else(
        || format!("a verdict has undone what was trained after step {}", step(new)),
        |progress| progress.message.clone(),
    );
    news.push(News::warning("RolledBack", message));
}

fn is_rollback(progress: &Condition) -> bool {
    progress.status != "True" && matches!(progress.reason.as_str(), FAULT_FOUND | RECOVERING)
}

fn audits(old: &TrainingJobStatus, new: &TrainingJobStatus, news: &mut Vec<News>) {
    let is = |status: &TrainingJobStatus| status.phase == Some(TrainingJobPhase::Settling);
    if is(new) && !is(old) {
        let ready = find(new, "Ready").map_or("", |ready| ready.message.as_str());
        news.push(News::normal("Settling", ready));
    }
    match turned(old, new, "Verified") {
        Some(verified) if verified.status == "True" => {
            news.push(News::normal("Verified", verified.message.clone()));
        }
        Some(verified) if verified.status == "False" => {
            news.push(News::warning(&verified.reason, verified.message.clone()));
        }
        _ => {}
    }
}

fn training(old: &TrainingJobStatus, new: &TrainingJobStatus, news: &mut Vec<News>) {
    let ready = find(new, "Ready").map_or("", |ready| ready.message.as_str());
    let progressing = find(new, "Progressing");
    let restarted = new.restarts.unwrap_or(0) > old.restarts.unwrap_or(0);
    // A loss is news even if training went on before the next look.
    match turned(old, new, "Progressing") {
        Some(progress) if is_rollback(progress) || new.phase == Some(TrainingJobPhase::Settling) => {}
        Some(progress) if progress.status == "False" => {
            news.push(News::warning(&progress.reason, progress.message.clone()));
        }
        Some(progress) if progress.status == "Unknown" && progress.reason != "Starting" => {
            news.push(News::warning(&progress.reason, progress.message.clone()));
        }
        _ if restarted => {
            let why = progressing.map_or("", |progress| progress.message.as_str());
            news.push(News::warning("Restarted", format!("restart {}: {why}", new.restarts.unwrap_or(0))));
        }
        _ => {}
    }
    if new.phase != Some(TrainingJobPhase::Running) {
        return;
    }
    match old.phase {
        Some(TrainingJobPhase::Running) => {}
        Some(TrainingJobPhase::Recovering) => news.push(News::normal("Recovered", ready)),
        _ => news.push(News::normal("Started", ready)),
    }
}

fn ending(old: &TrainingJobStatus, new: &TrainingJobStatus, news: &mut Vec<News>) {
    if let Some(failed) = turned(old, new, "Failed") {
        news.push(News::warning("Failed", format!("{}: {}", failed.reason, failed.message)));
    }
    if turned(old, new, "Succeeded").is_some() {
        let result = new.result.as_ref();
        let root = result.map_or("", |result| result.state_root.as_str());
        let step = result.map_or(0, |result| result.step);
        news.push(News::normal(
            "Succeeded",
            format!("training is done after step {step}, state root {root}"),
        ));
    }
}
