//! Join, session, heartbeat, API and blobs against a gateway with real TLS.
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use muster_core::hub_keys;
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::SigningKey;
use tokio::sync::watch;

use super::fake_gateway::{FakeGateway, LOG, tlog};
use super::fence::{Fence, Floor};
use super::gateway::Gateway;
use super::heartbeat::{BeatError, Pulse};
use super::hub::Contact;
use super::hub_blobs::{HttpBlobs, HubBlobs, HubError};
use super::hub_keys::HubKeys;
use super::identity::Identity;
use super::join::{JoinError, Patience, join};
use super::membership::Membership;
use super::session::{Session, Standing};
use super::state::StateDir;
use super::units::Units;
use super::{hub_client, pin};
use crate::runtime::Shutdown;
use crate::runtime::blobdir::BlobDir;
use crate::wire::gateway::CheckpointCommit;
use crate::wire::join_token::JoinToken;

/// An agent that has joined.
pub struct Agent {
    pub dir: tempfile::TempDir,
    pub identity: Arc<Identity>,
    pub membership: Membership,
    pub session: Session,
}

impl Agent {
    pub async fn joined(gateway: &FakeGateway) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = FakeGateway::identity(dir.path());
        join(dir.path(), &identity, &gateway.token(), Patience::UntilJoined, &Shutdown::manual())
            .await
            .unwrap();
        // As after a restart: from what is on the disk, without the token.
        let membership = Membership::load(dir.path()).unwrap().unwrap();
        let client = Gateway::new(pin::pinned(&identity, &membership.ca).unwrap(), &membership.url);
        let session = Session::new(client, identity.clone(), &membership.provider);
        Self { dir, identity, membership, session }
    }

    fn pulse(&self) -> Pulse {
        Pulse {
            session: self.session.clone(),
            fence: Arc::new(Fence::open(self.dir.path()).unwrap()),
            keys: Arc::new(HubKeys::open(self.dir.path()).unwrap()),
            units: Arc::new(Units::open(StateDir::open(self.dir.path()).unwrap()).unwrap()),
            contact: Arc::new(Contact::open(self.dir.path().join("contact"))),
            reported: Arc::default(),
            log_size: watch::Sender::new(0),
        }
    }

    async fn leases(&self) -> Result<Lease, kube::Error> {
        let client = hub_client::client(&self.membership, &self.identity, &self.session, "muster-p-east");
        Api::<Lease>::default_namespaced(client.unwrap()).get("agent").await
    }
}

/// A join by somebody new.
async fn try_join(token: &JoinToken) -> Result<Membership, JoinError> {
    let dir = tempfile::tempdir().unwrap();
    let identity = FakeGateway::identity(dir.path());
    let joined = join(dir.path(), &identity, token, Patience::UntilJoined, &Shutdown::manual()).await;
    assert_eq!(joined.is_ok(), Membership::load(dir.path()).unwrap().is_some());
    joined
}

#[tokio::test]
async fn joins_and_knows_everything_after_a_restart() {
    let (gateway, key) = FakeGateway::simple().await;
    let agent = Agent::joined(&gateway).await;
    assert_eq!((agent.membership.provider.as_str(), &agent.membership.url), ("east", &gateway.url));
    let keys = HubKeys::open(agent.dir.path()).unwrap();
    assert_eq!(keys.current().keys(), [key.public().clone()]);
    assert_eq!(gateway.hub.lock().unwrap().claimed, Some(agent.identity.fingerprint()));
    let floor = Fence::open(agent.dir.path()).unwrap().floor();
    assert_eq!(floor, Floor { incarnation: 1, min_epoch: 0 });
    assert_eq!(agent.membership.log, LOG, "the log's key is pinned");
    agent.session.renew(0).await.unwrap();
    assert_eq!(agent.leases().await.unwrap().metadata.resource_version.as_deref(), Some("7"));
}

#[tokio::test]
async fn another_ca_is_not_believed() {
    let (gateway, _) = FakeGateway::simple().await;
    let token = JoinToken::new(&gateway.url, Digest::of(b"another CA"), "east", &[7; 32]);
    let error = try_join(&token).await.unwrap_err();
    assert!(matches!(error, JoinError::NotTheGateway { .. }), "{error}");
    assert!(error.to_string().contains("create-token") && !error.to_string().contains(token.secret()));
    assert_eq!(gateway.hub.lock().unwrap().claimed, None, "the secret was not sent");
}

#[tokio::test]
async fn the_right_ca_for_another_host_is_not_believed() {
    let key = SigningKey::generate([1; 32]).unwrap();
    let set = hub_keys::sign(1, &[key.public()], &key).unwrap();
    let gateway = FakeGateway::start("gateway.example", vec![set]).await;
    let error = try_join(&gateway.token()).await.unwrap_err();
    assert!(matches!(error, JoinError::NotTheGateway { .. }), "{error}");
    assert_eq!(gateway.hub.lock().unwrap().claimed, None);
}

#[tokio::test]
async fn the_kept_ca_is_the_only_one_later() {
    let (gateway, _) = FakeGateway::simple().await;
    let (other, _) = FakeGateway::simple().await;
    let agent = Agent::joined(&gateway).await;
    let client = pin::pinned(&agent.identity, &agent.membership.ca).unwrap();
    Gateway::new(client.clone(), &gateway.url).hub().await.unwrap();
    assert!(Gateway::new(client, &other.url).hub().await.is_err());
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let (gateway, _) = FakeGateway::simple().await;
    gateway.change(|hub| hub.lose = 1);
    let agent = Agent::joined(&gateway).await;
    assert_eq!(gateway.hub.lock().unwrap().claimed, Some(agent.identity.fingerprint()));
}

/// What runs must not wait for a gateway that is away.
#[tokio::test]
async fn who_has_joined_before_asks_once() {
    let dir = tempfile::tempdir().unwrap();
    let identity = FakeGateway::identity(dir.path());
    let nobody = JoinToken::new("https://127.0.0.1:1", Digest::of(b"ca"), "east", &[7; 32]);
    let joined = join(dir.path(), &identity, &nobody, Patience::Once, &Shutdown::manual()).await;
    assert!(matches!(joined, Err(JoinError::Later(_))), "{joined:?}");
}

/// Another hub's fence says nothing about this one's units; the same hub's stays as high as it was.
#[tokio::test]
async fn a_join_at_another_hub_forgets_the_fence_of_the_first() {
    let (gateway, _) = FakeGateway::simple().await;
    let agent = Agent::joined(&gateway).await;
    let (state, floor) = (agent.dir.path(), Floor { incarnation: 3, min_epoch: 9 });
    Fence::open(state).unwrap().hear(floor).unwrap();
    let again = |token: JoinToken| async move {
        join(state, &FakeGateway::identity(state), &token, Patience::Once, &Shutdown::manual())
            .await
            .unwrap();
        Fence::open(state).unwrap().floor()
    };
    assert_eq!(again(gateway.token()).await, floor);
    let stranger = SigningKey::generate([9; 32]).unwrap();
    let set = hub_keys::sign(1, &[stranger.public()], &stranger).unwrap();
    let other = FakeGateway::start("127.0.0.1", vec![set]).await;
    assert_eq!(again(other.token()).await, Floor { incarnation: 1, min_epoch: 0 });
}

/// A log with another key can show another history.
#[tokio::test]
async fn another_log_of_the_same_hub_is_refused_for_good() {
    let (gateway, _) = FakeGateway::simple().await;
    let agent = Agent::joined(&gateway).await;
    let state = agent.dir.path();
    let seen = state.join("witness.json");
    std::fs::write(&seen, "kept").unwrap();
    let again = |token: JoinToken| async move {
        let identity = FakeGateway::identity(state);
        join(state, &identity, &token, Patience::Once, &Shutdown::manual()).await
    };
    for other in [Some(tlog::note_key(6).public().to_string()), Some("hub.example/log".to_owned()), None] {
        gateway.change(|hub| hub.public.log = other);
        let error = again(gateway.token()).await.unwrap_err().to_string();
        assert!(error.contains("log"), "{error}");
        assert_eq!(Membership::load(state).unwrap().unwrap(), agent.membership);
        assert!(seen.exists());
    }
    // Another hub has another log, of which nothing was seen.
    let stranger = SigningKey::generate([9; 32]).unwrap();
    let set = hub_keys::sign(1, &[stranger.public()], &stranger).unwrap();
    let other = FakeGateway::start("127.0.0.1", vec![set]).await;
    other.change(|hub| hub.public.log = Some(tlog::note_key(6).public().to_string()));
    assert_eq!(again(other.token()).await.unwrap().log, tlog::note_key(6).public().to_string());
    assert!(!seen.exists());
}

#[tokio::test]
async fn refusals_end_the_join_and_say_what_to_do() {
    let (gateway, _) = FakeGateway::simple().await;
    Agent::joined(&gateway).await;
    let second = try_join(&gateway.token()).await.unwrap_err().to_string();
    assert!(second.contains("another key came first") && !second.contains('\u{1b}'), "{second}");
    let unknown = JoinToken::new(&gateway.url, gateway.ca_spki, "east", &[8; 32]);
    let unknown = try_join(&unknown).await.unwrap_err().to_string();
    assert!(unknown.contains("knows no such token") && unknown.contains("create-token"), "{unknown}");
    let strange = JoinToken::new(&gateway.url, gateway.ca_spki, "../west", &[7; 32]);
    assert!(try_join(&strange).await.unwrap_err().to_string().contains("provider"));
}

#[tokio::test]
async fn waits_for_the_admin_and_goes_on_when_accepted() {
    let (gateway, _) = FakeGateway::simple().await;
    gateway.change(|hub| hub.refuses = Some((403, "WaitingForAdmin")));
    let agent = Agent::joined(&gateway).await;
    let shutdown = Shutdown::manual();
    let keeping = tokio::spawn(agent.session.clone().keep(shutdown.clone()));
    let mut standing = agent.session.standing();
    let wait = |want: Standing| {
        let mut standing = standing.clone();
        async move {
            tokio::time::timeout(Duration::from_secs(30), standing.wait_for(|s| *s == want))
                .await
                .unwrap()
                .map(|_| ())
                .unwrap()
        }
    };
    wait(Standing::Waiting).await;
    assert!(agent.session.tokens().is_err());
    gateway.change(|hub| hub.refuses = None);
    wait(Standing::Accepted).await;
    agent.session.ready().await;
    agent.session.heartbeat().await.unwrap();
    // Revoked by the heartbeat: at once, and the tokens are gone.
    gateway.change(|hub| hub.refuses = Some((403, "Revoked")));
    assert!(agent.pulse().beat().await.is_err());
    assert!(agent.session.is_revoked() && agent.session.tokens().is_err());
    assert!(standing.has_changed().unwrap());
    assert_eq!(*standing.borrow_and_update(), Standing::Revoked);
    shutdown.trigger();
    keeping.await.unwrap();
}

#[tokio::test]
async fn a_401_renews_once_for_all() {
    let (gateway, _) = FakeGateway::simple().await;
    let agent = Agent::joined(&gateway).await;
    agent.session.renew(0).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await; // younger tokens are not renewed
    gateway.change(|hub| hub.good.clear());
    let (first, second, third) =
        tokio::join!(agent.session.heartbeat(), agent.session.heartbeat(), agent.leases());
    first.unwrap();
    second.unwrap();
    third.unwrap();
    assert_eq!(gateway.hub.lock().unwrap().minted, 2);
    // New tokens that are refused as well are not renewed again and again.
    gateway.change(|hub| hub.good.clear());
    for _ in 0..3 {
        assert!(agent.session.heartbeat().await.is_err());
    }
    let refused = agent.leases().await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 401), "{refused}");
    assert_eq!(gateway.hub.lock().unwrap().minted, 2);
}

#[tokio::test]
async fn tokens_are_renewed_before_they_expire() {
    let (gateway, _) = FakeGateway::simple().await;
    gateway.change(|hub| hub.lifetime = 0); // taken as the shortest
    let agent = Agent::joined(&gateway).await;
    let shutdown = Shutdown::manual();
    tokio::spawn(agent.session.clone().keep(shutdown.clone()));
    agent.session.ready().await;
    assert_eq!(gateway.hub.lock().unwrap().minted, 1);
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert_eq!(gateway.hub.lock().unwrap().minted, 2);
    shutdown.trigger();
}

#[tokio::test]
async fn the_heartbeat_brings_new_keys_and_a_higher_floor() {
    let (gateway, key) = FakeGateway::simple().await;
    let agent = Agent::joined(&gateway).await;
    agent.session.renew(0).await.unwrap();
    let pulse = agent.pulse();
    let unit = pulse.units.ensure("u");
    pulse.beat().await.unwrap();
    assert_eq!(pulse.keys.current().serial(), 1);
    unit.wake.notified().await; // the floor rose from nothing

    let next = SigningKey::generate([2; 32]).unwrap();
    let second = hub_keys::sign(2, &[key.public(), next.public()], &key).unwrap();
    gateway.change(|hub| {
        hub.public.keys.push(second);
        hub.beat.key_serial = 2;
        hub.beat.min_epoch = 4;
    });
    pulse.beat().await.unwrap();
    assert_eq!(pulse.keys.current().serial(), 2);
    assert_eq!(pulse.fence.floor(), Floor { incarnation: 1, min_epoch: 4 });
    tokio::time::timeout(Duration::from_secs(1), unit.wake.notified()).await.unwrap();
    // Both are there after a restart.
    let again = agent.pulse();
    assert_eq!((again.keys.current().serial(), again.fence.floor().min_epoch), (2, 4));
}

#[tokio::test]
async fn forged_keys_and_numbers_that_go_back_are_refused() {
    let (gateway, key) = FakeGateway::simple().await;
    let agent = Agent::joined(&gateway).await;
    agent.session.renew(0).await.unwrap();
    let pulse = agent.pulse();
    gateway.change(|hub| hub.beat.incarnation = 3);
    pulse.beat().await.unwrap();
    // A gateway in other hands offers its own key.
    let thief = SigningKey::generate([9; 32]).unwrap();
    let forged = hub_keys::sign(2, &[thief.public()], &thief).unwrap();
    gateway.change(|hub| {
        hub.public.keys.push(forged);
        hub.beat.key_serial = 2;
    });
    assert!(matches!(pulse.beat().await, Err(BeatError::Keys(_))));
    assert_eq!(pulse.keys.current().keys(), [key.public().clone()]);
    let whole = hub_keys::sign(1, &[thief.public()], &thief).unwrap();
    gateway.change(|hub| hub.public.keys = vec![whole]);
    assert!(matches!(pulse.beat().await, Err(BeatError::Keys(_))));
    assert_eq!(agent.pulse().keys.current().keys(), [key.public().clone()]);
    // And says that the hub is older than it was.
    gateway.change(|hub| {
        hub.beat.key_serial = 1;
        hub.beat.incarnation = 2;
    });
    assert!(matches!(pulse.beat().await, Err(BeatError::Lower { .. })));
    assert_eq!(agent.pulse().fence.floor().incarnation, 3);
}

#[tokio::test]
async fn a_download_that_breaks_goes_on_where_it_broke() {
    let (gateway, _) = FakeGateway::simple().await;
    let agent = Agent::joined(&gateway).await;
    agent.session.renew(0).await.unwrap();
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest = Digest::of(&bytes);
    gateway.change(|hub| {
        hub.blobs.insert(digest, bytes.clone());
        hub.cut = Some(150_000);
    });
    let blobs = HttpBlobs::new(agent.session.clone());
    let cache = BlobDir::open(&agent.dir.path().join("cache")).await.unwrap();
    let blob = blobs.get("u", digest).await.unwrap().unwrap();
    cache.put(&digest, blob, 1 << 30).await.unwrap();
    assert_eq!(gateway.hub.lock().unwrap().ranges, ["bytes=150000-", "bytes=300000-"]);
    assert!(blobs.has("u", digest).await.unwrap());
    assert!(blobs.get("u", Digest::of(b"absent")).await.unwrap().is_none());
    // One that never gets anywhere ends.
    gateway.change(|hub| hub.cut = Some(0));
    let blob = blobs.get("u", digest).await.unwrap().unwrap();
    let error = blob.try_fold(0, |sum, piece| async move { Ok(sum + piece.len()) }).await.unwrap_err();
    assert!(matches!(error, HubError::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn commits_are_recorded_or_refused_by_name() {
    let (gateway, _) = FakeGateway::simple().await;
    let agent = Agent::joined(&gateway).await;
    agent.session.renew(0).await.unwrap();
    let blobs = HttpBlobs::new(agent.session.clone());
    let path = agent.dir.path().join("file");
    std::fs::write(&path, b"hello").unwrap();
    let file = tokio::fs::File::open(&path).await.unwrap();
    blobs.put("u", Digest::of(b"hello"), file, 5).await.unwrap();
    let manifest = Digest::of(b"hello");
    let key = SigningKey::generate([7; 32]).unwrap();
    let [commit, model] = ["x", "y"].map(|kind| Envelope::sign(kind, b"{}", &key).unwrap());
    let commit = CheckpointCommit { manifest, commit, model, key: key.public().clone() };
    let logged = blobs.commit("u", 20, &commit).await.unwrap();
    assert_eq!((logged.index, logged.record_id), (0, commit.commit.record_id()));
    assert_eq!(blobs.submit(&commit.commit).await.unwrap(), logged, "it is there");
    assert_eq!(gateway.hub.lock().unwrap().commits, [(20, Digest::of(b"hello"))]);
    gateway.change(|hub| hub.refuses_commits = Some((409, "OldEpoch")));
    let old = blobs.commit("u", 40, &commit).await.unwrap_err();
    assert!(matches!(old, HubError::Superseded(_)), "{old}");
    gateway.change(|hub| hub.refuses_commits = Some((409, "StepTaken")));
    let taken = blobs.commit("u", 40, &commit).await.unwrap_err();
    assert!(matches!(taken, HubError::Answer { .. }) && taken.reason() == Some("StepTaken"), "{taken}");
    gateway.change(|hub| hub.log.refuses_records = Some("NotGranted"));
    let refused = blobs.submit(&commit.commit).await.unwrap_err();
    assert_eq!(refused.reason(), Some("NotGranted"), "{refused}");
}

#[tokio::test]
async fn no_secret_is_ever_shown() {
    let (gateway, _) = FakeGateway::simple().await;
    let agent = Agent::joined(&gateway).await;
    let tokens = agent.session.renew(0).await.unwrap();
    let shown = format!("{:?} {tokens:?} {:?} {:?}", agent.session, tokens.api(), gateway.token());
    let lost = agent.session.send(|gateway| gateway.request(reqwest::Method::GET, "/v1/nothing")).await;
    let shown = format!("{shown} {lost:?} {:?}", agent.identity);
    assert!(lost.is_ok());
    for secret in ["api-1", "gateway-1", gateway.token().secret(), "PRIVATE"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
