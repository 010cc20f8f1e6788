//! A step that is not finite, says a provider: what comes of it is the log's to say.
use muster_proof::records::failed_root;
use muster_proof::records::fields::Step;

use super::*;
use crate::hub::job::{self as controller, Look};

/// The job does end in step 47.
fn not_finite(interval: u64) -> (Digest, Digest) {
    let (state, records) = right(interval);
    if interval < 2 { (state, records) } else { (failed_root(&state, Step::new(47).unwrap()), records) }
}

/// Two intervals are trained, and a unit ends with 65.
async fn ended() -> Site {
    let mut site = Site::new(&PROVIDERS).await;
    site.pass().await;
    site.look().await;
    site.train(1, 0..2).await;
    site
}

fn progressing(status: &TrainingJobStatus) -> (String, String) {
    let found = status.conditions.iter().find(|c| c.type_ == "Progressing").unwrap();
    (found.reason.clone(), found.message.clone())
}

#[tokio::test]
async fn a_job_fails_when_its_replays_find_the_same() {
    let mut site = ended().await;
    site.fail(1).await;
    site.say_not_finite(1);
    for _ in 0..2 {
        let status = site.look().await;
        assert_eq!((status.phase, status.result.clone()), (Some(TrainingJobPhase::Settling), None));
        let (reason, message) = progressing(&status);
        assert!(reason == "NotFinite" && message.contains("step 47"), "{reason}: {message}");
        assert_eq!((site.count("grant-end"), site.count("job-end"), status.restarts), (1, 1, None));
    }
    site.audit(not_finite).await;
    let status = site.look().await;
    assert_eq!(status.phase, Some(TrainingJobPhase::Failed));
    let failed = status.conditions.iter().find(|c| c.type_ == "Failed").unwrap();
    assert_eq!(failed.reason, "NonFinite");
    assert!(failed.message.contains("the gradient norm"), "{}", failed.message);
    assert_eq!((verified(&status).as_str(), site.count("rollback")), ("True AllDrawnMatched", 0));
    assert_eq!(status.checkpoint.unwrap().step, 40, "what there is stays");
    site.look().await;
    assert_eq!(site.count("job-end"), 1);
}

/// The pod is lost after the log has it, or the hub sees the log before the unit's end.
#[tokio::test]
async fn what_its_unit_says_does_not_matter() {
    let mut site = ended().await;
    site.fail(1).await;
    site.say(1, "Running", 46);
    site.pass().await;
    assert_eq!(site.look().await.phase, Some(TrainingJobPhase::Settling));
    site.audit(not_finite).await;
    site.say(1, "Released", 46);
    let status = site.look().await;
    assert_eq!((status.phase, status.restarts), (Some(TrainingJobPhase::Failed), None));
}

#[tokio::test]
async fn a_false_failure_takes_the_job_elsewhere() {
    let mut site = ended().await;
    site.fail(1).await;
    site.say_not_finite(1);
    assert_eq!(site.look().await.phase, Some(TrainingJobPhase::Settling));
    site.audit(false_loss).await;
    let rollback = site.ctx.audits.of(UID).unwrap().rollback.clone().unwrap();
    assert_eq!((rollback.step, rollback.provider.as_deref()), (40, Some("east")));
    let status = site.look().await;
    assert_eq!((status.phase, status.restarts), (Some(TrainingJobPhase::Recovering), None));
    assert_eq!(progressing(&status).0, "FaultFound");
    let epoch = u64::try_from(status.islands[0].epoch.unwrap()).unwrap();
    let heir: WorkUnit = serde_json::from_value(site.unit(epoch)).unwrap();
    assert_ne!(heir.metadata.namespace.as_deref(), Some("muster-p-east"), "never where it was convicted");
    assert_eq!(payload(&heir).unwrap().start.unwrap().step, 40);
    site.train(epoch, 2..3).await;
    site.say(epoch, "Succeeded", 60);
    assert_eq!(site.look().await.phase, Some(TrainingJobPhase::Settling));
    site.audit(false_loss).await;
    let status = site.look().await;
    assert_eq!((status.phase, site.count("job-end")), (Some(TrainingJobPhase::Succeeded), 2));
}

/// Of an older image, or of a pod that was lost before it could say which step: nothing can be audited.
#[tokio::test]
async fn one_that_nobody_has_logged_is_a_lost_worker() {
    let site = ended().await;
    site.say_not_finite(1);
    let status = site.look().await;
    assert_ne!(status.phase, Some(TrainingJobPhase::Failed));
    assert_eq!((status.restarts, site.count("job-end")), (Some(1), 0));
    let (_, message) = progressing(&status);
    assert!(message.contains("no record of that step"), "{message}");
    let epoch = u64::try_from(status.islands[0].epoch.unwrap()).unwrap();
    assert!(epoch > 1);
    site.unit(epoch);
    // While the log is away nothing is decided about it.
    site.say_not_finite(epoch);
    site.log.down.store(true, std::sync::atomic::Ordering::SeqCst);
    let job = site.job();
    assert!(controller::look(&Look::new(&site.ctx, &job).unwrap()).await.is_err());
    assert_eq!(site.job().status.unwrap().restarts, Some(1));
}
