//! A job and its audits over a real log and a real store: what the log says, the job does. Only the API server is a fake, and
//! nobody computes anything.
use jiff::ToSpan as _;
use muster_proof::records::VerdictKind;

use super::*;
use crate::hub::ledger::grants;

mod failures;
mod world;

use world::{PATH, PROVIDERS, Site, false_loss, false_start, right, verified};

#[tokio::test]
async fn an_honest_job_settles_and_then_succeeds() {
    let mut site = Site::new(&PROVIDERS).await;
    let status = site.look().await;
    assert!(site.api.all("workunits").is_empty(), "nothing is placed before the log was read");
    assert_eq!(status.phase, Some(TrainingJobPhase::Placing));
    site.pass().await;
    site.look().await;
    site.say(1, "Running", 10);
    assert_eq!(site.look().await.phase, Some(TrainingJobPhase::Running));
    site.train(1, 0..3).await;
    site.say(1, "Succeeded", 60);
    for _ in 0..2 {
        let status = site.look().await;
        assert_eq!(status.phase, Some(TrainingJobPhase::Settling));
        assert_eq!(status.result.unwrap().step, 60);
        assert_eq!((site.count("grant-end"), site.count("job-end")), (1, 1));
    }
    site.audit(right).await;
    let status = site.look().await;
    assert_eq!(status.phase, Some(TrainingJobPhase::Succeeded));
    assert_eq!(verified(&status), "True AllDrawnMatched");
    let audits = status.audits.unwrap();
    assert_eq!((audits.matched, audits.faults, audits.open), (audits.drawn, Some(0), Some(0)));
    assert!(audits.drawn >= Some(3), "the first, the last, and one of the window");
    assert_eq!(site.events().await.iter().filter(|reason| *reason == "RolledBack").count(), 0);
    site.look().await;
}

#[tokio::test]
async fn a_fault_takes_the_job_back_and_it_ends_right_elsewhere() {
    let mut site = Site::new(&PROVIDERS).await;
    site.pass().await;
    site.look().await;
    site.train(1, 0..3).await;
    site.say(1, "Succeeded", 60);
    let status = site.look().await;
    assert_eq!((status.phase, status.providers.as_deref()), (Some(TrainingJobPhase::Settling), Some("east")));
    let before = site.ctx.store.checkpoint(UID, 60).await.unwrap().unwrap();
    site.audit(false_loss).await;
    let book = site.ctx.audits.of(UID).unwrap();
    let rollback = book.rollback.clone().unwrap();
    assert_eq!((rollback.step, rollback.provider.as_deref()), (40, Some("east")));

    let status = site.look().await;
    assert_eq!((status.phase, status.result.clone()), (Some(TrainingJobPhase::Recovering), None));
    assert_eq!(status.checkpoint.unwrap().step, 40);
    let progressing = status.conditions.iter().find(|c| c.type_ == "Progressing").unwrap();
    assert_eq!(progressing.reason, "FaultFound");
    let index = format!("log index {}", rollback.verdict_index);
    for part in ["provider east", "interval 2", &index] {
        assert!(progressing.message.contains(part), "{}", progressing.message);
    }
    let events = site.events().await;
    assert!(events.contains(&"RolledBack".to_owned()), "{events:?}");
    assert_eq!(site.ctx.store.checkpoint(UID, 60).await.unwrap(), None, "forgotten");
    assert!(!site.ctx.store.noted_end(UID).await.unwrap());
    let epoch = status.islands[0].epoch.unwrap();
    assert!(epoch >= rollback.epoch && status.restarts.is_none());
    let epoch = u64::try_from(epoch).unwrap();
    assert_eq!(site.unit(1)["spec"]["desired"], "Stop");
    let heir: WorkUnit = serde_json::from_value(site.unit(epoch)).unwrap();
    assert_ne!(heir.metadata.namespace.as_deref(), Some("muster-p-east"), "never where it was convicted");
    assert_eq!(payload(&heir).unwrap().start.unwrap().step, 40);

    // The state was right all along: the job comes to it a second time, and its second end is a record of its own.
    site.train(epoch, 2..3).await;
    let after = site.ctx.store.checkpoint(UID, 60).await.unwrap().unwrap();
    assert_ne!(before, after);
    site.say(epoch, "Succeeded", 60);
    let status = site.look().await;
    assert_eq!((status.phase, site.count("job-end")), (Some(TrainingJobPhase::Settling), 2));
    site.audit(false_loss).await;
    let status = site.look().await;
    assert_eq!(status.phase, Some(TrainingJobPhase::Succeeded), "{:?}", site.ctx.audits.of(UID));
    assert_eq!((verified(&status).as_str(), site.count("rollback")), ("True AllDrawnMatched", 1));
    assert_eq!(status.result.unwrap().manifest, after.to_string());
}

#[tokio::test]
async fn a_unit_that_outlives_its_successor_does_not_come_back() {
    let mut site = Site::new(&PROVIDERS).await;
    site.pass().await;
    site.look().await;
    site.train(1, 0..3).await;
    site.say(1, "Succeeded", 60);
    site.look().await;
    site.audit(false_loss).await;
    let epoch = site.look().await.islands[0].epoch.unwrap();
    assert!(epoch > 1);
    // The first one's member is silent, so it stays; the second is let go.
    site.remove(u64::try_from(epoch).unwrap());
    let status = site.look().await;
    assert_eq!(site.unit(1)["spec"]["desired"], "Stop");
    assert_eq!(status.islands[0].epoch, Some(epoch + 1), "another one goes on, and not the first");
}

#[tokio::test]
async fn nobody_trains_what_nobody_can_audit() {
    let mut site = Site::new(&[("east", "acme"), ("east-two", "acme")]).await;
    site.pass().await;
    let status = site.look().await;
    assert!(site.api.all("workunits").is_empty());
    assert_eq!(status.phase, Some(TrainingJobPhase::Pending));
    let placed = status.conditions.iter().find(|c| c.type_ == "Placed").unwrap();
    assert_eq!((placed.status.as_str(), placed.reason.as_str()), ("False", "NoAuditors"));
    assert!(
        placed.message.starts_with("0 eligible auditors of 2 providers: 2 of acme"),
        "{}",
        placed.message
    );
    site.ctx.audits.set_hub_auditor(true);
    site.look().await;
    assert_eq!(site.api.all("workunits").len(), 1, "the hub's own is enough");
    let mut site = Site::new(&[("east", "acme")]).await;
    site.pass().await;
    site.look().await;
    site.provider("west", "globex").await;
    // The queue plans anew when a provider comes. Here it does not run, so the job asks as if for the first time.
    site.ctx.queue.withdraw(UID);
    site.look().await;
    assert_eq!(site.api.all("workunits").len(), 1);
}

#[tokio::test]
async fn a_convicted_owner_alone_waits() {
    let mut site =
        Site::new(&[("east", "acme"), ("east-two", "acme"), ("north", "initech"), ("west", "globex")]).await;
    site.pass().await;
    site.look().await;
    site.train(1, 0..3).await;
    site.look().await;
    site.audit(false_loss).await;
    for name in ["north", "west"] {
        let path = format!("/apis/muster.dev/v1alpha1/computeproviders/{name}");
        site.api.change(&path, &json!({"spec": {"scheduling": "Cordoned"}}));
    }
    let status = site.look().await;
    assert_eq!(status.phase, Some(TrainingJobPhase::Recovering));
    let placed = status.conditions.iter().find(|c| c.type_ == "Placed").unwrap();
    assert_eq!((placed.status.as_str(), placed.reason.as_str()), ("False", "NoneEligible"));
    assert!(placed.message.contains("1 convicted of a fault in this job"), "{}", placed.message);
    assert!(placed.message.contains("1 of an owner that was convicted"), "{}", placed.message);
}

#[tokio::test]
async fn a_deleted_job_goes_when_its_audits_are_done() {
    let mut site = Site::new(&PROVIDERS).await;
    site.pass().await;
    site.look().await;
    site.train(1, 0..2).await;
    site.say(1, "Released", 40);
    let now = site.ctx.now();
    let just = now.checked_sub(5.seconds()).unwrap().to_string();
    site.api.change(PATH, &json!({"metadata": {"deletionTimestamp": just}}));
    site.look().await;
    assert_eq!(site.count("job-end"), 1);
    assert!(site.api.get(PATH).is_some(), "its audits are not done");
    assert!(!site.ctx.store.checkpoints(UID).await.unwrap().is_empty());
    site.audit(right).await;
    let id = grants::names(&site.ctx, UID).unwrap().id;
    let audits = site.ctx.follower.with(|history| history.audits(id).unwrap()).unwrap();
    assert!(!audits.is_empty());
    assert!(audits.iter().all(|it| it.verdict.as_ref().is_some_and(|v| v.kind == VerdictKind::Match)));
    // The units of auditors are let go with it.
    for unit in site.api.all("workunits").iter().filter(|unit| unit["spec"]["kind"] == "Audit") {
        let (namespace, name) = (&unit["metadata"]["namespace"], &unit["metadata"]["name"]);
        let path = format!(
            "/apis/muster.dev/v1alpha1/namespaces/{}/workunits/{}",
            namespace.as_str().unwrap(),
            name.as_str().unwrap()
        );
        site.api.change(&path, &json!({"status": {"phase": "Released"}}));
    }
    site.look().await;
    assert!(site.api.get(PATH).is_none() && site.api.all("workunits").is_empty());
    assert!(site.ctx.store.checkpoints(UID).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_deleted_job_does_not_wait_for_ever() {
    let mut site = Site::new(&PROVIDERS).await;
    site.pass().await;
    site.look().await;
    site.train(1, 0..2).await;
    site.say(1, "Released", 40);
    let long = site.ctx.now().checked_sub(300.seconds()).unwrap().to_string();
    site.api.change(PATH, &json!({"metadata": {"deletionTimestamp": long}}));
    site.look().await;
    assert!(site.api.get(PATH).is_none());
    assert_eq!(site.count("job-end"), 1);
}

#[tokio::test]
async fn a_failed_job_is_audited_on_and_its_end_is_corrected() {
    let mut site = Site::new(&PROVIDERS).await;
    site.pass().await;
    site.look().await;
    site.train(1, 0..2).await;
    site.api.change(PATH, &json!({"spec": {"activeDeadlineSeconds": 1}, "status": {"activeSeconds": 5}}));
    assert_eq!(site.look().await.phase, Some(TrainingJobPhase::Failed), "at once");
    site.say(1, "Released", 40);
    let status = site.look().await;
    assert_eq!((verified(&status).as_str(), site.count("job-end")), ("Unknown AuditsOpen", 1));
    site.audit(false_start).await;
    // The fault has undone its end in the log as well.
    let status = site.look().await;
    assert_eq!((status.phase, site.count("job-end")), (Some(TrainingJobPhase::Failed), 2));
    assert!(site.ctx.store.checkpoints(UID).await.unwrap().is_empty());
    site.audit(false_start).await;
    let status = site.look().await;
    assert!(site.ctx.audits.of(UID).unwrap().settled, "{:?}", site.ctx.audits.of(UID));
    assert_eq!(
        (status.phase, verified(&status).as_str()),
        (Some(TrainingJobPhase::Failed), "True AllDrawnMatched")
    );
    // The window's draw may have hit the same interval.
    assert!(status.audits.unwrap().faults >= Some(1));
    assert_eq!(site.api.all("workunits").iter().filter(|unit| unit["spec"]["kind"] == "Train").count(), 1);
}
