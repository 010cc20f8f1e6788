//! A seal that another auditor has made: it stands in the log as ours, and opens to nothing.
use std::collections::BTreeMap;

use muster_core::envelope::{Audit, Payload};
use muster_proof::Digest;
use muster_proof::history::{Field, HUB_AUDITOR, Todo, Unsigned};
use muster_proof::records::fields::Nonce;
use muster_proof::records::{
    AuditOpening, AuditSeal, Eligible, EvidenceKind, Tier, Verdict, VerdictKind, audit_seal,
};
use muster_proof::selection::links;

use super::agents::records_of;
use super::world::{Wanted, hub};
use super::{Agent, Lie, Provider, World};
use crate::agent::answers::reveal::{RevealError, Revealer};
use crate::agent::answers::seal;
use crate::agent::state::UnitState;
use crate::agent::testing;
use crate::log::client::ClientError;

/// An audit of the job as the auditor's agent takes part in it, with what any honest replay comes to.
async fn seals(world: &World, job: &Wanted, audit: Digest, agent: &Agent) {
    let view = world.history().audit_of(&audit).unwrap();
    let records = records_of(view.first_step, view.last_step).root();
    agent.answers.keep_replay(&audit, view.state_root, records).unwrap();
    let name = format!("{}-a{}", &job.uid[..8], &audit.to_hex()[..8]);
    let unit = agent.units.ensure(&name);
    let of = Some(Audit { assignment: audit, epoch: 3, interval: 0, last_step: 20 });
    let payload = Some(Payload { name, audit: of, ..testing::audit() });
    unit.update(|state| *state = UnitState { payload, ..UnitState::default() }).await.unwrap();
    seal::submit(&unit, &agent.answers, &*agent.hub).await.unwrap();
    // The agent is started again before it knows that its seal is there: it says the same.
    let again = seal::submit(&unit, &agent.answers, &*agent.hub).await;
    assert!(again.is_ok() || again.unwrap_err().is_over().is_some());
}

/// Shows what the log waits for; whether it was taken.
async fn shows(provider: &Provider, agent: &Agent) -> bool {
    match Revealer::new(provider.session.clone(), agent.answers.clone()).reveal().await {
        Ok(()) => true,
        Err(RevealError::Log(ClientError::Refused { reason, .. })) if reason == "DoesNotOpen" => false,
        Err(error) => panic!("{error}"),
    }
}

/// East has trained, West and North check, and the hub does what its plan says; whether West had something to copy.
async fn audited(seed: u32) -> bool {
    let world = World::new().await;
    let mut providers = BTreeMap::new();
    for (name, owner, lie) in
        [("east", "acme", None), ("north", "initech", None), ("west", "globex", Some(Lie::CopiesSeal))]
    {
        let provider = Provider::new(&world, name, owner).await;
        let agent = provider.agent(lie).await;
        providers.insert(name, (provider, agent));
    }
    let job = world.job(&format!("copied seal {seed}"), Tier::Gold).await;
    let (east, trainer) = &providers["east"];
    let lent = world.grant(&job, east, 3).await;
    let made = [trainer.commits(&lent).await, trainer.commits(&lent).await, trainer.commits(&lent).await];
    world.end_job(&job).await;
    let candidates = [("acme", "east"), ("initech", "north"), ("globex", "west")].map(|(owner, name)| {
        Eligible { owner: owner.parse().unwrap(), providers: vec![name.parse().unwrap()] }
    });
    let mut field = Field {
        candidates: candidates.to_vec(),
        hub_auditor: true,
        draws: true,
        counted: u64::MAX,
        ..Field::default()
    };
    let mut verdicts: Vec<Verdict> = Vec::new();
    for _ in 0..100 {
        let preimage = |index: u64| 63u64.checked_sub(index).map(|left| links(&job.seed, left));
        let mut agenda = world.history().agenda(job.id, &field, &preimage).unwrap();
        if agenda.is_empty() {
            break;
        }
        // Who copies comes after the others.
        agenda.sort_by_key(
            |todo| matches!(todo, Todo::AwaitSeal { auditor, .. } if auditor.as_str() == "west"),
        );
        for todo in agenda {
            match todo {
                Todo::Log(unsigned) => {
                    world.append(unsigned.sign(&hub()).unwrap()).await;
                    if let Unsigned::Verdict(verdict) = *unsigned {
                        verdicts.push(verdict);
                    }
                }
                Todo::AwaitSeal { audit, auditor } if auditor.as_str() == HUB_AUDITOR => {
                    world.say(&by_hub(&world, audit).0).await;
                }
                Todo::AwaitSeal { audit, auditor } => {
                    seals(&world, &job, audit, &providers[auditor.as_str()].1).await;
                }
                Todo::AwaitOpening { .. } => assert!(shows(east, trainer).await),
                Todo::AwaitAnswer { audit, auditor } if auditor.as_str() == HUB_AUDITOR => {
                    world.say(&by_hub(&world, audit).1).await;
                }
                Todo::AwaitAnswer { audit, auditor } => {
                    let (provider, agent) = &providers[auditor.as_str()];
                    if !shows(provider, agent).await {
                        assert_eq!(auditor.as_str(), "west", "an honest answer opens its seal");
                        field.silent.insert(audit);
                    }
                }
                Todo::AwaitWitnesses { .. } | Todo::NoAuditor { .. } | Todo::ChainUsedUp => {
                    panic!("{todo:?}")
                }
            }
        }
    }
    let history = world.history();
    assert_eq!(history.open(job.id).unwrap(), []);
    assert_eq!(world.path(&job), made, "the trainer's commits stand");
    let told = providers["west"].1.told();
    let copied =
        told.iter().any(|(what, answer)| *what == "another auditor's seal, signed by us" && answer.is_ok());
    let convicted: Vec<_> = verdicts
        .iter()
        .filter_map(|it| Some((it.verdict, it.party.clone()?, it.evidence.clone()?.kind)))
        .collect();
    let fault = (VerdictKind::AuditorFault, "west".parse().unwrap(), EvidenceKind::Silence);
    assert!(convicted.iter().all(|one| *one == fault), "{convicted:?}");
    assert_eq!(copied, !convicted.is_empty(), "{told:?}");
    assert!(verdicts.iter().any(|verdict| verdict.verdict == VerdictKind::Match));
    for (name, (provider, _)) in &providers {
        let standing = history.standing(&provider.name.parse().unwrap()).unwrap();
        assert_eq!(standing.since_fault.is_some(), *name == "west" && copied, "{name}");
    }
    copied
}

/// What the hub's own auditor seals and shows.
fn by_hub(world: &World, audit: Digest) -> (AuditSeal, AuditOpening) {
    let view = world.history().audit_of(&audit).unwrap();
    let (state_root, nonce) = (view.state_root, Nonce::new([7; 32]));
    let record_root = records_of(view.first_step, view.last_step).root();
    let seal = audit_seal(&audit, &hub().key_id(), &state_root, &record_root, &nonce);
    (AuditSeal { audit, seal }, AuditOpening { audit, state_root, record_root, nonce })
}

/// Who is asked follows from the draw, and the draw from the job's name.
#[tokio::test]
async fn a_copied_seal_opens_to_nothing() {
    for seed in 0..8 {
        if audited(seed).await {
            return;
        }
    }
    panic!("west had nothing to copy in eight worlds");
}
