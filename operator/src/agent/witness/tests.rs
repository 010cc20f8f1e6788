//! Against a log with real heads and tiles, over the gateway's real TLS.
use muster_proof::tlog::note::parse_signatures;

use super::*;
use crate::agent::fake_gateway::{FakeGateway, tlog};
use crate::agent::gateway_tests::Agent;
use crate::agent::session::Session;
use crate::log::client::HttpLog;

struct Site {
    gateway: FakeGateway,
    agent: Agent,
    log: HttpLog<Session>,
}

impl Site {
    async fn new() -> Self {
        let (gateway, _) = FakeGateway::simple().await;
        let agent = Agent::joined(&gateway).await;
        agent.session.renew(0).await.unwrap();
        let log = HttpLog::new(agent.session.clone());
        Self { gateway, agent, log }
    }

    /// An agent process that begins.
    fn witness(&self) -> Witness {
        Witness::open(self.agent.dir.path(), "east", &self.agent.membership.log).unwrap()
    }

    async fn follow(&self, witness: &Witness) -> Result<(), WitnessError> {
        let size = locked(&self.gateway.hub).log.size();
        witness.follow(&self.log, size).await
    }

    /// Sizes of the heads that were cosigned by this witness's key.
    fn cosigned(&self, witness: &Witness) -> Vec<u64> {
        let hub = locked(&self.gateway.hub);
        let check = |(size, lines): &(u64, String)| {
            let lines = parse_signatures(lines.as_bytes()).unwrap();
            assert!(lines.iter().all(|line| line.is_by(witness.verifier())));
            *size
        };
        hub.log.cosignatures.iter().map(check).collect()
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.agent.dir.path().join(name)).unwrap()
    }
}

#[tokio::test]
async fn what_continues_is_cosigned_once_and_kept_before() {
    let site = Site::new().await;
    let witness = site.witness();
    site.follow(&witness).await.unwrap();
    assert!(site.cosigned(&witness).is_empty(), "nothing is there");
    for grown in [3, 1, 252, 300, 1] {
        site.gateway.change(|hub| hub.log.grow(1, grown));
        site.follow(&witness).await.unwrap();
        site.follow(&witness).await.unwrap();
    }
    assert_eq!(site.cosigned(&witness), [3, 4, 256, 556, 557]);
    let head = locked(&site.gateway.hub).log.head();
    let mut signed = SignedCheckpoint::open(head.as_bytes(), &[witness.log().clone()]).unwrap();
    let line = locked(&site.gateway.hub).log.cosignatures[4].1.clone();
    let lines = parse_signatures(line.as_bytes()).unwrap();
    assert_eq!(signed.merge(&lines, &[witness.verifier().clone()]).unwrap(), 1, "it verifies");
    let standing = witness.standing();
    assert_eq!((standing.head.map(|head| head.0), standing.alarm, standing.trouble), (Some(557), None, None));
    // Another process of the agent has the same key, and goes on.
    let again = site.witness();
    assert_eq!(again.verifier(), witness.verifier());
    assert_eq!(again.standing().head, witness.standing().head);
    site.gateway.change(|hub| hub.log.grow(1, 10));
    site.follow(&again).await.unwrap();
    assert_eq!(again.standing().head.map(|head| head.0), Some(567));
}

#[tokio::test]
async fn a_restart_between_keeping_and_sending_loses_no_cosignature() {
    let site = Site::new().await;
    site.gateway.change(|hub| {
        hub.log.grow(1, 5);
        hub.log.refuses_cosignatures = Some(503);
    });
    let witness = site.witness();
    assert!(matches!(site.follow(&witness).await, Err(WitnessError::Log(_))));
    assert!(site.file(SEEN).contains("hub.example/log"), "it is on the disk all the same");
    assert!(witness.standing().trouble.is_some());
    drop(witness);
    site.gateway.change(|hub| hub.log.refuses_cosignatures = None);
    let witness = site.witness();
    site.follow(&witness).await.unwrap();
    site.follow(&witness).await.unwrap();
    assert_eq!(site.cosigned(&witness), [5]);
    assert_eq!(witness.standing().trouble, None);
    // A refusal stays one: the next head is cosigned anew.
    site.gateway.change(|hub| {
        hub.log.grow(1, 1);
        hub.log.refuses_cosignatures = Some(409);
    });
    assert!(site.follow(&witness).await.is_err());
    site.follow(&witness).await.unwrap();
}

/// The witness has seen nine entries of history 1; then comes what `change` makes of the log.
async fn alarmed_by(change: impl FnOnce(&mut tlog::Log), want: Alarm) {
    let site = Site::new().await;
    site.gateway.change(|hub| hub.log.grow(1, 9));
    let witness = site.witness();
    site.follow(&witness).await.unwrap();
    let before = locked(&site.gateway.hub).log.head();
    site.gateway.change(|hub| change(&mut hub.log));
    let after = locked(&site.gateway.hub).log.head();
    // Another log may have lost what it was given.
    let given = site.cosigned(&witness);
    // The size that a heartbeat says is nobody's signed word.
    let error = witness.follow(&site.log, 1000).await.unwrap_err();
    assert!(matches!(&error, WitnessError::Inconsistent(text) if text.contains(EVIDENCE)), "{error}");
    let evidence: Kept = serde_json::from_str(&site.file(EVIDENCE)).unwrap();
    assert_eq!((evidence.alarm, evidence.kept, evidence.got), (want, before, after));
    for witness in [witness, site.witness()] {
        let standing = witness.standing();
        assert_eq!(standing.alarm.map(|alarm| alarm.kind), Some(want));
        assert_eq!(standing.head.map(|head| head.0), Some(9), "what was cosigned stays");
        assert!(witness.distrust().unwrap().contains(EVIDENCE));
        witness.follow(&site.log, 2000).await.unwrap();
        assert_eq!(site.cosigned(&witness), given, "and nothing more is cosigned");
    }
}

#[tokio::test]
async fn a_fork_is_an_alarm_with_both_heads() {
    alarmed_by(|log| *log = tlog::Log::grown(2, 9), Alarm::Fork).await;
}

#[tokio::test]
async fn a_rollback_is_an_alarm_with_both_heads() {
    alarmed_by(|log| *log = tlog::Log::grown(1, 8), Alarm::Rollback).await;
    alarmed_by(|log| *log = tlog::Log::new(), Alarm::Rollback).await;
}

#[tokio::test]
async fn a_longer_history_that_is_another_one_is_an_alarm() {
    alarmed_by(|log| *log = tlog::Log::grown(2, 600), Alarm::Rewrite).await;
}

#[tokio::test]
async fn what_the_pinned_key_has_not_signed_is_no_head() {
    let site = Site::new().await;
    site.gateway.change(|hub| hub.log.grow(1, 9));
    let witness = site.witness();
    site.follow(&witness).await.unwrap();
    let forged = tlog::Log::grown(2, 9).head_by(&tlog::note_key(6));
    let renamed = forged.replace("hub.example", "hug.example");
    for head in [forged, renamed, "x".to_owned(), String::new()] {
        site.gateway.change(|hub| hub.log.head = Some(head));
        let error = witness.follow(&site.log, 10).await.unwrap_err();
        assert!(matches!(error, WitnessError::NotTheLog(_)), "{error}");
        assert!(witness.standing().trouble.unwrap().contains("pinned"));
        assert_eq!(witness.distrust(), None, "anybody can make that");
    }
    site.gateway.change(|hub| {
        hub.log.head = None;
        hub.log.grow(1, 1);
    });
    site.follow(&witness).await.unwrap();
    assert_eq!((site.cosigned(&witness), witness.standing().trouble), (vec![9, 10], None));
}

/// A head that is signed, of a tree whose tiles are not served: trouble, not an alarm.
#[tokio::test]
async fn tiles_of_another_tree_are_no_proof_of_anything() {
    let site = Site::new().await;
    site.gateway.change(|hub| hub.log.grow(1, 9));
    let witness = site.witness();
    site.follow(&witness).await.unwrap();
    let head = tlog::Log::grown(1, 20).head();
    site.gateway.change(|hub| {
        hub.log = tlog::Log::grown(2, 20);
        hub.log.head = Some(head);
    });
    let error = witness.follow(&site.log, 20).await.unwrap_err();
    assert!(matches!(error, WitnessError::Proof(ProofError::Tiles(_))), "{error}");
    assert_eq!((witness.distrust(), witness.standing().head.map(|head| head.0)), (None, Some(9)));
}

#[test]
fn damage_does_not_read_as_nothing_seen() {
    let dir = tempfile::tempdir().unwrap();
    Witness::open(dir.path(), "east", tlog::LOG).unwrap();
    assert!(matches!(Witness::open(dir.path(), "east", "no key"), Err(WitnessError::Pinned(_))));
    let seen = dir.path().join(SEEN);
    std::fs::write(&seen, "{").unwrap();
    assert!(Witness::open(dir.path(), "east", tlog::LOG).unwrap_err().to_string().contains(SEEN));
    let other = tlog::Log::grown(1, 3).head_by(&tlog::note_key(6));
    std::fs::write(&seen, serde_json::to_vec(&Seen { checkpoint: other }).unwrap()).unwrap();
    assert!(Witness::open(dir.path(), "east", tlog::LOG).unwrap_err().to_string().contains(SEEN));
    Witness::forget(dir.path()).unwrap();
    Witness::forget(dir.path()).unwrap();
    assert_eq!(Witness::open(dir.path(), "east", tlog::LOG).unwrap().standing().head, None);
    std::fs::write(dir.path().join(EVIDENCE), "{").unwrap();
    assert!(Witness::open(dir.path(), "east", tlog::LOG).unwrap().distrust().is_some());
}
