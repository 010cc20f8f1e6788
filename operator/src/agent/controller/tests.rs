//! Why units are refused and ended, with a real gateway's keys and floor; no Kubernetes is asked.
use kube::{Config, ResourceExt as _};
use muster_api::v1alpha1::{self as api, WorkUnitKind, WorkUnitSpec};
use muster_core::envelope::{Payload, seal};
use muster_core::hub_keys;
use muster_core::recovery::Anew;
use muster_proof::key::SigningKey;

use super::*;
use crate::agent::accept;
use crate::agent::answers::Answers;
use crate::agent::fake_gateway::{FakeGateway, tlog};
use crate::agent::fence::Floor;
use crate::agent::gateway::Gateway;
use crate::agent::hub_blobs::HttpBlobs;
use crate::agent::render::Site;
use crate::agent::state::StateDir;
use crate::agent::switch::{self, Switch};
use crate::agent::testing::{audit, payload};
use crate::agent::{join, pin};
use crate::log::client::HttpLog;
use crate::runtime::client::client_of;

mod ending;
mod recovery;
mod scene;
mod waiting;

struct World {
    dir: tempfile::TempDir,
    gateway: FakeGateway,
    key: SigningKey,
    controller: Arc<Controller>,
    switch: Arc<Switch>,
}

impl World {
    async fn new(policy: &str) -> Self {
        let nobody = client_of(Config::new("https://127.0.0.1:1".parse().unwrap())).unwrap();
        Self::over(policy, nobody).await
    }

    /// With a client of member and hub.
    async fn over(policy: &str, clusters: kube::Client) -> Self {
        let (gateway, key) = FakeGateway::simple().await;
        let dir = tempfile::tempdir().unwrap();
        let identity = FakeGateway::identity(dir.path());
        let shutdown = Shutdown::manual();
        let membership =
            join::join(dir.path(), &identity, &gateway.token(), join::Patience::UntilJoined, &shutdown)
                .await
                .unwrap();
        let client = Gateway::new(pin::pinned(&identity, &membership.ca).unwrap(), &membership.url);
        let session = Session::new(client, identity, "east");
        let witness = Witness::open(dir.path(), "east", &membership.log).unwrap();
        session.renew(0).await.unwrap();
        let path = dir.path().join("policy.yaml");
        std::fs::write(&path, format!("images: ['{}']\n{policy}", payload().image)).unwrap();
        let switch = Arc::new(Switch::open(dir.path()));
        let site = Site {
            namespace: "muster-lent".to_owned(),
            audience: String::new(),
            relay_url: String::new(),
            relay_ca: String::new(),
        };
        let controller = Arc::new(Controller {
            provider: "east".to_owned(),
            policies: Arc::new(Policies::from_file(&path, switch.clone()).unwrap()),
            trusted: Arc::new(HubKeys::open(dir.path()).unwrap()),
            fence: Arc::new(Fence::open(dir.path()).unwrap()),
            session: session.clone(),
            witness: Arc::new(witness),
            units: Arc::new(Units::open(StateDir::open(dir.path()).unwrap()).unwrap()),
            view: Arc::default(),
            hub: Api::namespaced(clusters.clone(), "muster-p-east"),
            member: Arc::new(Member::new(clusters.clone(), clusters, site)),
            contact: Arc::new(Contact::open(dir.path().join("contact"))),
            blobs: Arc::new(BlobDir::open(&dir.path().join("blobs")).await.unwrap()),
            hub_blobs: Arc::new(HttpBlobs::new(session)),
            answers: Arc::new(Answers::open(dir.path(), SigningKey::generate([3; 32]).unwrap()).unwrap()),
            kept: Arc::new(KeptLogs::open(dir.path()).unwrap()),
            shutdown,
            running: Mutex::default(),
        });
        Self { dir, gateway, key, controller, switch }
    }

    async fn judge(&self, object: &WorkUnit) -> Option<Result<Payload, &'static str>> {
        let unit = self.controller.units.ensure(&object.name_any());
        let verdict = self.controller.judge(&unit, object).await?;
        Some(verdict.map(|(payload, _)| payload).map_err(|refusal| refusal.reason()))
    }

    async fn stop(&self, state: &UnitState) -> Option<&'static str> {
        let unit = self.controller.units.ensure("stop");
        self.controller.stop(&unit, state, &payload()).await.map(|stop| stop.reason)
    }
}

/// A WorkUnit of [`payload`], signed.
fn signed(key: &SigningKey) -> WorkUnit {
    sign(&payload(), key)
}

fn sign(payload: &Payload, key: &SigningKey) -> WorkUnit {
    let envelope = serde_json::to_value(seal(payload, key).unwrap()).unwrap();
    let spec = WorkUnitSpec {
        kind: if payload.is_audit() { WorkUnitKind::Audit } else { WorkUnitKind::Train },
        job_uid: payload.job_uid.clone(),
        island: 0,
        epoch: payload.epoch,
        workers: 2,
        envelope: serde_json::from_value(envelope).unwrap(),
        desired: api::Desired::Run,
    };
    WorkUnit::new(&payload.name, spec)
}

#[tokio::test]
async fn a_unit_that_is_quicker_than_the_news_of_its_key_is_taken() {
    let world = World::new("offer: {workers: 8}").await;
    assert_eq!(world.judge(&signed(&world.key)).await, Some(Ok(payload())));
    let next = SigningKey::generate([2; 32]).unwrap();
    // Nobody says yet that this is a key of the hub: not taken, and not refused at once.
    assert_eq!(world.judge(&signed(&next)).await, None);
    let second = hub_keys::sign(2, &[world.key.public(), next.public()], &world.key).unwrap();
    world.gateway.change(|hub| hub.public.keys.push(second));
    assert_eq!(world.judge(&signed(&next)).await, Some(Ok(payload())));
    // A chain that hands nothing on makes no key known.
    let thief = SigningKey::generate([9; 32]).unwrap();
    let forged = hub_keys::sign(3, &[thief.public()], &thief).unwrap();
    world.gateway.change(|hub| hub.public.keys.push(forged));
    assert_eq!(world.judge(&signed(&thief)).await, Some(Err("BadSignature")));
    // Tampered bytes under a known key's name need no asking.
    let mut tampered = signed(&world.key);
    tampered.spec.envelope.signatures[0].sig = signed(&next).spec.envelope.signatures[0].sig.clone();
    assert_eq!(world.judge(&tampered).await, Some(Err("BadSignature")));
}

#[tokio::test]
async fn what_is_void_or_not_offered_is_refused() {
    let world = World::new("offer: {workers: 8}").await;
    let object = signed(&world.key);
    switch::stop(world.dir.path()).unwrap();
    world.switch.look();
    assert_eq!(world.judge(&object).await, Some(Err("OverQuota")));
    switch::resume(world.dir.path()).unwrap();
    world.switch.look();
    assert!(matches!(world.judge(&object).await, Some(Ok(_))));
    world.controller.fence.hear(Floor { incarnation: 1, min_epoch: 2 }).unwrap();
    assert_eq!(world.judge(&object).await, Some(Err("OldEpoch")));
    let world = World::new("offer: {workers: 1}").await;
    assert_eq!(world.judge(&signed(&world.key)).await, Some(Err("OverQuota")));
    world.controller.fence.hear(Floor { incarnation: 2, min_epoch: 0 }).unwrap();
    assert_eq!(world.judge(&signed(&world.key)).await, Some(Err("OldEpoch")));
}

#[tokio::test]
async fn replays_are_taken_or_declined_as_the_provider_likes() {
    let (records, audit) = diligence::tests::good();
    let world = World::new("offer: {workers: 8}").await;
    let refused = Some(Err("NotAssigned"));
    assert_eq!(world.judge(&sign(&audit, &world.key)).await, refused, "the log has nothing of it");
    world.gateway.change(|hub| {
        for record in &records {
            hub.log.append(record);
        }
    });
    assert_eq!(world.judge(&sign(&audit, &world.key)).await, Some(Ok(audit.clone())));
    // What trains here meanwhile has epochs of its own, and so have other audits.
    let train = world.controller.units.ensure("4f2a9c1b-0-7");
    let newer = Payload { name: train.name().to_owned(), epoch: 7, ..payload() };
    train.update(|state| state.payload = Some(newer.clone())).await.unwrap();
    assert_eq!(world.judge(&sign(&audit, &world.key)).await, Some(Ok(audit.clone())));
    let unit = world.controller.units.ensure(&audit.name);
    unit.update(|state| state.payload = Some(audit.clone())).await.unwrap();
    assert_eq!(world.controller.stop(&unit, &unit.state().await, &audit).await, None);
    assert_eq!(world.controller.stop(&train, &train.state().await, &newer).await, None);
    let again = Payload { name: "4f2a9c1b-a77-4".to_owned(), epoch: 4, ..audit.clone() };
    assert_eq!(world.judge(&sign(&again, &world.key)).await, Some(Ok(again.clone())));
    world.controller.units.ensure(&again.name).update(|state| state.payload = Some(again)).await.unwrap();
    let stop = world.controller.stop(&unit, &unit.state().await, &audit).await.unwrap();
    assert!(stop.reason == "Superseded" && stop.message.contains("epoch 4 of this audit"), "{stop:?}");
    // A mirror that calls it training misleads a person.
    let mut disguised = sign(&audit, &world.key);
    disguised.spec.kind = WorkUnitKind::Train;
    assert_eq!(world.judge(&disguised).await, Some(Err("MirrorMismatch")));
    let world = World::new("offer: {workers: 8}\naudits: false\n").await;
    assert_eq!(world.judge(&sign(&audit, &world.key)).await, Some(Err("AuditsNotOffered")));
    assert_eq!(accept::known_reason("AuditsNotOffered"), "AuditsNotOffered");
    assert_eq!(world.judge(&signed(&world.key)).await, Some(Ok(payload())));
}

/// The log has forgotten nothing: what is still wanted is asked for anew.
#[tokio::test]
async fn a_replay_ends_when_the_hub_was_restored() {
    let world = World::new("offer: {workers: 8}").await;
    let unit = world.controller.units.ensure(&audit().name);
    unit.update(|state| state.payload = Some(audit())).await.unwrap();
    world.controller.fence.hear(Floor { incarnation: 2, min_epoch: 1001 }).unwrap();
    let state = world.controller.orphan(&unit, false).await.unwrap();
    assert!(state.orphaned.is_some());
    let stop = world.controller.stop(&unit, &state, &audit()).await.unwrap();
    assert!(stop.message.contains("anew"), "{stop:?}");
}

#[tokio::test]
async fn running_units_end_for_the_providers_and_the_hubs_reasons() {
    let world = World::new("offer: {workers: 8}\nmaxRuntimeSeconds: 60\n").await;
    let fresh = UnitState { started: Some(Timestamp::now()), ..UnitState::default() };
    assert_eq!(world.stop(&fresh).await, None);
    let long_ago = Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(61)).unwrap();
    let old = UnitState { started: Some(long_ago), ..UnitState::default() };
    assert_eq!(world.stop(&old).await, Some("MaxRuntime"));
    let superseded = UnitState { superseded: Some("epoch 2 is there".to_owned()), ..fresh.clone() };
    assert_eq!(world.stop(&superseded).await, Some("Superseded"));
    // The gateway says so of every unit after a restore, and may be quicker than the heartbeat.
    world.gateway.change(|hub| hub.beat.incarnation = 2);
    assert_eq!(world.stop(&superseded).await, None);
    assert_eq!(world.controller.fence.floor().incarnation, 2);
    world.gateway.change(|hub| hub.refuses = Some((403, "Revoked")));
    world.controller.session.learn(&world.controller.session.heartbeat().await.unwrap_err());
    assert_eq!(world.stop(&fresh).await, Some("Revoked"));
    switch::stop(world.dir.path()).unwrap();
    world.switch.look();
    assert_eq!(world.stop(&fresh).await, Some("ProviderStopped"));
}

/// A log that contradicts itself proves nothing about what is trained from now on; what runs goes on.
#[tokio::test]
async fn no_new_unit_is_taken_while_the_log_is_not_to_be_believed() {
    let world = World::new("offer: {workers: 8}").await;
    let log = HttpLog::new(world.controller.session.clone());
    let other = Payload {
        name: "4f2a9c1b-0-2".to_owned(),
        epoch: 2,
        log: "other.example/log".to_owned(),
        ..payload()
    };
    assert_eq!(world.judge(&sign(&other, &world.key)).await, Some(Err("OtherLog")));
    world.gateway.change(|hub| hub.log.grow(1, 9));
    world.controller.witness.follow(&log, 9).await.unwrap();
    assert_eq!(world.judge(&signed(&world.key)).await, Some(Ok(payload())));
    let unit = world.controller.units.ensure(&payload().name);
    unit.update(|state| state.payload = Some(payload())).await.unwrap();
    world.gateway.change(|hub| hub.log = tlog::Log::grown(2, 7));
    assert!(world.controller.witness.follow(&log, 7).await.is_err());
    let new = Payload { name: "4f2a9c1b-0-2".to_owned(), epoch: 2, ..payload() };
    assert_eq!(world.judge(&sign(&new, &world.key)).await, Some(Err("LogInconsistent")));
    assert_eq!(world.stop(&unit.state().await).await, None, "what runs goes on");
    // As another unit, too.
    let anew = Anew {
        name: "4f2a9c1b-0-1001".to_owned(),
        epoch: 1001,
        incarnation: 2,
        not_after: payload().not_after,
        start: None,
        grant: payload().grant,
        start_record: payload().start_record,
    };
    let continued = payload().continued(anew);
    assert_eq!(world.judge(&sign(&continued, &world.key)).await, Some(Ok(continued)));
}
