//! The Audit object of a draw, for people. Pure.
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};
use muster_api::names::labels;
use muster_api::v1alpha1::{self as api, Audit, AuditPhase, AuditSpec, AuditStatus, TrainingJob};
use muster_proof::history::{AssignView, AuditView, HUB_AUDITOR, VerdictView};
use muster_proof::records::{AssignReason, DrawKind, EvidenceKind, VerdictKind};

use crate::hub::apply::{self, Said};
use crate::hub::names::MANAGER;

/// So many decided audits without a fault keep their object.
pub const KEEP: usize = 50;
/// So many of those who were asked are listed, the last ones.
const LISTED: usize = 64;

/// Its name.
#[must_use]
fn name(job: &str, audit: &AuditView) -> String {
    format!("{job}-{}", audit.index)
}

/// The audits that have an object: those without a verdict, those that found somebody at fault, and the newest of the others.
#[must_use]
pub fn kept(audits: &[AuditView]) -> Vec<&AuditView> {
    let tells = |audit: &AuditView| {
        let fault = audit.verdict.as_ref().is_none_or(|verdict| verdict.kind == VerdictKind::Fault);
        fault || !audit.convictions.is_empty()
    };
    let quiet = audits.iter().filter(|audit| !tells(audit)).count();
    let mut too_many = quiet.saturating_sub(KEEP);
    let mut kept = Vec::new();
    for audit in audits {
        if !tells(audit) && too_many > 0 {
            too_many -= 1;
        } else {
            kept.push(audit);
        }
    }
    kept
}

/// The object, without what happened to it.
#[must_use]
pub fn object(job: &TrainingJob, audit: &AuditView) -> Audit {
    Audit { metadata: metadata(job, audit), spec: spec(job, audit), status: None }
}

fn metadata(job: &TrainingJob, audit: &AuditView) -> ObjectMeta {
    let owner = OwnerReference {
        api_version: TrainingJob::api_version(&()).into_owned(),
        kind: TrainingJob::kind(&()).into_owned(),
        name: job.name_any(),
        uid: job.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let labels = [
        (labels::JOB_UID, job.uid().unwrap_or_default()),
        (labels::ISLAND, audit.island.to_string()),
        (labels::MANAGED_BY, MANAGER.to_owned()),
    ];
    ObjectMeta {
        name: Some(name(&job.name_any(), audit)),
        namespace: job.namespace(),
        labels: Some(
            labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<BTreeMap<_, _>>(),
        ),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

fn spec(job: &TrainingJob, audit: &AuditView) -> AuditSpec {
    AuditSpec {
        job: api::AuditedJob { name: job.name_any(), uid: job.uid().unwrap_or_default() },
        island: i32::try_from(audit.island).unwrap_or(i32::MAX),
        interval: number(audit.interval),
        first_step: number(audit.first_step),
        last_step: number(audit.last_step),
        subject: audit.subject_provider.to_string(),
        auditor: audit.assigns.last().map(|assign| assign.auditor.to_string()),
        draw: match audit.kind {
            DrawKind::First => api::DrawKind::First,
            DrawKind::Last => api::DrawKind::Last,
            DrawKind::Failed => api::DrawKind::Failed,
            DrawKind::Rerun => api::DrawKind::Rerun,
            DrawKind::Tenant => api::DrawKind::Tenant,
            // A second draw has no audit of its own.
            DrawKind::Window | DrawKind::Second => api::DrawKind::Window,
        },
    }
}

/// What happened to it. `there` is the object as the API server has it, `unit` the name of the unit that replays.
#[must_use]
pub fn status(
    audit: &AuditView,
    there: &Audit,
    unit: Option<&str>,
    no_auditor: Option<&str>,
    now: Timestamp,
) -> AuditStatus {
    let phase = phase(audit);
    let (generation, old) = (there.metadata.generation, there.status.as_ref());
    let before = old.map_or(&[][..], |old| &old.conditions);
    let said = [assigned(audit, no_auditor), concluded(audit, phase)];
    let skipped = audit.assigns.len().saturating_sub(LISTED);
    AuditStatus {
        observed_generation: generation,
        phase: Some(phase),
        work_unit: unit.map(str::to_owned),
        auditors: audit.assigns.iter().skip(skipped).map(asked).collect(),
        verdict: audit.verdict.as_ref().map(|verdict| verdict_of(verdict.kind)),
        fault: audit.verdict.as_ref().and_then(fault),
        log_index: audit.verdict.as_ref().map(|verdict| number(verdict.index)),
        completion_time: audit
            .verdict
            .as_ref()
            .map(|_| old.and_then(|old| old.completion_time.clone()).unwrap_or_else(|| apply::time(now))),
        conditions: apply::conditions(before, said, generation, now),
    }
}

/// Answers that still count.
fn live(audit: &AuditView) -> impl Iterator<Item = &AssignView> {
    audit.assigns.iter().filter(|assign| !assign.replaced && !assign.convicted)
}

fn phase(audit: &AuditView) -> AuditPhase {
    if audit.verdict.is_some() {
        return AuditPhase::Concluded;
    }
    if live(audit).next().is_none() {
        return AuditPhase::Pending;
    }
    let disputed = audit.assigns.iter().any(|assign| match assign.reason {
        AssignReason::Dispute => true,
        // Asked when nobody was left, or as the last who can settle a dispute.
        AssignReason::LastResort => live(audit).any(|other| other.sealed && other.id != assign.id),
        _ => false,
    });
    if disputed || !audit.convictions.is_empty() {
        return AuditPhase::Disputed;
    }
    if live(audit).all(|assign| assign.sealed) { AuditPhase::Revealing } else { AuditPhase::Replaying }
}

fn asked(assign: &AssignView) -> api::AskedAuditor {
    let state = match assign {
        _ if assign.convicted => api::AuditorState::Convicted,
        _ if assign.replaced => api::AuditorState::Replaced,
        _ if assign.opened.is_some() => api::AuditorState::Opened,
        _ if assign.sealed => api::AuditorState::Sealed,
        _ => api::AuditorState::Asked,
    };
    api::AskedAuditor { log_index: number(assign.index), auditor: assign.auditor.to_string(), state }
}

fn verdict_of(kind: VerdictKind) -> api::AuditVerdict {
    match kind {
        VerdictKind::Match => api::AuditVerdict::Match,
        VerdictKind::Fault => api::AuditVerdict::Fault,
        VerdictKind::AuditorFault => api::AuditVerdict::AuditorFault,
        VerdictKind::Inconclusive => api::AuditVerdict::Inconclusive,
    }
}

fn fault(verdict: &VerdictView) -> Option<api::AuditFault> {
    let party = verdict.party.as_ref().filter(|_| verdict.kind == VerdictKind::Fault)?;
    let kind = match verdict.evidence {
        Some(EvidenceKind::Silence) => api::FaultKind::F4,
        _ => api::FaultKind::Replays,
    };
    Some(api::AuditFault { kind, party: party.to_string() })
}

fn assigned(audit: &AuditView, no_auditor: Option<&str>) -> Said {
    let say = |status, reason: &str, message: String| Said {
        kind: "Assigned",
        status,
        reason: reason.to_owned(),
        message,
    };
    match (live(audit).last(), audit.shared, no_auditor) {
        (Some(assign), ..) => {
            let who = match assign.auditor.as_str() {
                HUB_AUDITOR => "the hub's own auditor".to_owned(),
                other => other.to_owned(),
            };
            say("True", "AuditorChosen", format!("{who} was asked at log index {}", assign.index))
        }
        (None, Some(_), _) => {
            let text = "another draw hit the same interval; its audit stands for this one";
            say("True", "AuditorChosen", text.to_owned())
        }
        (None, None, Some(why)) => say("False", "NoEligibleAuditor", why.to_owned()),
        (None, None, None) => say("False", "Choosing", "the next in the draw's order is asked".to_owned()),
    }
}

fn concluded(audit: &AuditView, phase: AuditPhase) -> Said {
    let AuditView { first_step, last_step, subject_provider: subject, .. } = audit;
    let interval = format!("steps {first_step} to {last_step} of {subject}");
    let (status, reason, message) = match (&audit.verdict, phase) {
        (Some(verdict), _) => {
            let text = match (verdict.kind, verdict.evidence) {
                (VerdictKind::Match, _) => format!("{interval}: all replays say the same"),
                (VerdictKind::Fault, Some(EvidenceKind::Silence)) => {
                    format!("{interval}: not opened, and two owners' replays contradict it")
                }
                (VerdictKind::Fault, _) => format!("{interval}: two owners' replays contradict it"),
                (VerdictKind::AuditorFault, _) => format!("{interval}: an auditor was wrong"),
                (VerdictKind::Inconclusive, _) => {
                    format!("{interval}: no two replays agree and nobody is left to ask; it is run again")
                }
            };
            ("True", format!("{:?}", verdict.kind), format!("{text} (log index {})", verdict.index))
        }
        (None, AuditPhase::Pending) => {
            ("False", "Pending".to_owned(), format!("{interval}: not replayed yet"))
        }
        (None, AuditPhase::Revealing) => {
            ("False", "Revealing".to_owned(), format!("{interval}: results are sealed and are being shown"))
        }
        (None, AuditPhase::Disputed) => {
            ("False", "Disputed".to_owned(), format!("{interval}: one more owner replays"))
        }
        (None, _) => ("False", "Replaying".to_owned(), format!("{interval}: an auditor replays")),
    };
    Said { kind: "Concluded", status, reason, message }
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
