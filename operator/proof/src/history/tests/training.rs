//! Keys, jobs, grants, commits and their ends.

use super::*;

#[test]
fn a_whole_job_is_verified() {
    let mut world = World::with_grant();
    let first = world.commit(1);
    let draw = world.draw(DrawKind::First, first);
    world.audit(draw);
    world.commits(1, 4);
    let window = world.close(1, CloseReason::Full);
    let draw = world.draw(DrawKind::Window, window);
    world.audit(draw);
    // The job moves.
    world.hub(&GrantEnd {
        job: world.id,
        island: island(),
        epoch: epoch(1),
        reason: GrantEndReason::Released,
    });
    world.start(2, "east-two");
    let first = world.commit(2);
    let mut last = first;
    (6..10).for_each(|_| last = world.commit(2));
    let end = JobEnd {
        job: world.id,
        last_step: world.job.steps,
        state_root: state_after(9),
        record: last,
        outcome: Outcome::Completed,
    };
    world.hub(&end);
    let window = world.close(2, CloseReason::Full);
    let draws = [(DrawKind::First, first), (DrawKind::Last, last), (DrawKind::Window, window)];
    let missing: Vec<_> =
        draws.iter().map(|(kind, subject)| Open::Draw { kind: *kind, subject: *subject }).collect();
    let open = world.history.open(world.id).unwrap();
    assert_eq!(open.len(), 3);
    assert!(missing.iter().all(|item| open.contains(item)), "{open:?}");
    for (kind, subject) in draws {
        let draw = world.draw(kind, subject);
        assert!(world.history.open(world.id).unwrap().contains(&Open::Verdict { draw }));
        world.audit(draw);
    }
    assert_eq!(world.history.open(world.id).unwrap(), []);
    assert!(matches!(world.history.open(JobId(digest("x"))), Err(Refusal::Unknown { .. })));
}

#[test]
fn the_order_of_the_log_is_kept_and_other_entries_are_passed_over() {
    let mut world = World::with_providers();
    let job = world.job.sign(&hub()).unwrap();
    let refusal = world.history.apply(0, &job).unwrap_err();
    assert!(matches!(refusal, Refusal::Index { got: 0, want: 6 }));
    world.history.admit(9, &job).unwrap();
    assert_eq!(world.history.next_index(), 6, "only asked");
    assert_eq!(world.history.apply(9, &job).unwrap().signer, hub().key_id());
    assert_eq!(world.history.next_index(), 10);
    let other = Envelope::sign("text/plain", b"{}", &hub()).unwrap();
    world.index = 10;
    refused!(world, other, Refusal::Record(records::Error::Kind(_)));
}

#[test]
fn the_hubs_keys_are_handed_on() {
    let mut world = World::with_providers();
    let (old, new, stranger) = (hub(), key(2), key(3));
    refused!(world, hub_keys::sign(1, &[old.public()], &old).unwrap(), Refusal::Known { .. });
    refused!(world, hub_keys::sign(3, &[new.public()], &old).unwrap(), Refusal::HubKeys(_));
    refused!(world, hub_keys::sign(2, &[stranger.public()], &stranger).unwrap(), Refusal::HubKeys(_));
    let provider = identity("east");
    refused!(world, hub_keys::sign(2, &[provider.public()], &old).unwrap(), Refusal::KeyTaken { .. });
    let mut two = hub_keys::sign(2, &[new.public()], &old).unwrap();
    world.clone().push(&two).unwrap();
    two.add_signature(&stranger).unwrap();
    refused!(world, two, Refusal::Signature(_));
    world.push(&hub_keys::sign(2, &[new.public()], &old).unwrap()).unwrap();
    refused!(world, world.job.sign(&old).unwrap(), Refusal::Signer { .. });
    world.push(&world.job.sign(&new).unwrap()).unwrap();

    // Who has pinned a set believes no other.
    let set = |chain: &Envelope| hub_keys::read(chain.unverified_payload()).unwrap();
    let first = hub_keys::sign(1, &[old.public()], &old).unwrap();
    let forged = hub_keys::sign(1, &[stranger.public()], &stranger).unwrap();
    let pinned = || History::new(world.job.hub.clone(), Some(set(&first)));
    pinned().apply(0, &first).unwrap();
    pinned().apply(0, &world.job.sign(&old).unwrap()).unwrap();
    assert!(pinned().apply(0, &forged).is_err());
    let nobody = History::new(world.job.hub.clone(), None).apply(0, &world.job.sign(&old).unwrap());
    assert!(matches!(nobody, Err(Refusal::Signer { .. })));
}

#[test]
fn a_providers_key_needs_the_hub_and_itself() {
    let mut world = World::with_providers();
    let new = key(30);
    let record = ProviderKey { key: new.public().clone(), ..world.provider_key("east", "acme") };
    refused!(world, record.sign(&hub()).unwrap(), Refusal::Signature(dsse::Error::Signers { .. }));
    refused!(world, record.sign(&new).unwrap(), Refusal::Signer { .. });
    refused!(world, record.sign_both(&hub(), &key(31)).unwrap(), Refusal::Signature(_));
    let changed = |change: &dyn Fn(&mut ProviderKey)| {
        let mut record = record.clone();
        change(&mut record);
        record.sign_both(&hub(), &new).unwrap()
    };
    refused!(world, changed(&|it| it.hub = text("other")), Refusal::Differs { field: "hub", .. });
    refused!(world, changed(&|it| it.owner = text("globex")), Refusal::Differs { field: "owner", .. });
    refused!(world, changed(&|it| it.provider = text("hub")), Refusal::Differs { field: "provider", .. });
    let stolen = witness("west.example.org");
    refused!(world, changed(&|it| it.witness = stolen.clone()), Refusal::Differs { field: "witness", .. });
    let again = world.provider_key("east", "acme").sign_both(&hub(), &identity("east")).unwrap();
    refused!(world, again, Refusal::KeyTaken { .. });
    let hubs = ProviderKey { key: hub().public().clone(), ..record.clone() };
    refused!(world, hubs.sign(&hub()).unwrap(), Refusal::Signature(_) | Refusal::KeyTaken { .. });
    world.push(&record.sign_both(&hub(), &new).unwrap()).unwrap();
}

#[test]
fn a_revoked_key_and_what_it_bound_sign_nothing_more() {
    let mut world = World::with_grant();
    let revoke = |provider: &str, key: Digest| KeyRevocation {
        hub: text("hub.example.org/muster"),
        provider: text(provider),
        key,
    };
    let east = identity("east").key_id();
    refused!(world, revoke("west", east).sign(&hub()).unwrap(), Refusal::Unknown { field: "key", .. });
    refused!(world, revoke("east", sidecar(1).key_id()).sign(&hub()).unwrap(), Refusal::Unknown { .. });
    refused!(world, revoke("east", east).sign(&identity("east")).unwrap(), Refusal::Signer { .. });
    let mut other = revoke("east", east);
    other.hub = text("other");
    refused!(world, other.sign(&hub()).unwrap(), Refusal::Differs { field: "hub", .. });
    world.hub(&revoke("east", east));
    refused!(world, revoke("east", east).sign(&hub()).unwrap(), Refusal::Known { .. });
    refused!(world, world.next_commit(1).sign(&sidecar(1)).unwrap(), Refusal::Revoked(_));
    let binding = world.binding(1, 1, &key(90)).sign(&identity("east")).unwrap();
    refused!(world, binding, Refusal::Revoked(_));

    // A new identity key takes the sidecar's key over, and the work goes on.
    let new = key(30);
    let record = ProviderKey { key: new.public().clone(), ..world.provider_key("east", "acme") };
    world.push(&record.sign_both(&hub(), &new).unwrap()).unwrap();
    world.push(&world.binding(1, 0, &sidecar(1)).sign(&new).unwrap()).unwrap();
    world.commit(1);

    // Without a live key nothing is granted.
    world.hub(&revoke("west", identity("west").key_id()));
    world.hub(&GrantEnd { job: world.id, island: island(), epoch: epoch(1), reason: GrantEndReason::Lost });
    refused!(world, world.grant(2, "west").sign(&hub()).unwrap(), Refusal::Unknown { field: "provider", .. });
}

#[test]
fn a_job_is_of_this_hub_and_new() {
    let mut world = World::with_providers();
    let changed = |change: &dyn Fn(&mut Job)| {
        let mut job = samples::job();
        change(&mut job);
        job.sign(&hub()).unwrap()
    };
    refused!(world, changed(&|job| job.hub = text("other")), Refusal::Differs { field: "hub", .. });
    refused!(world, samples::job().sign(&key(9)).unwrap(), Refusal::Signer { .. });
    let mut two = samples::job().sign(&hub()).unwrap();
    two.add_signature(&key(9)).unwrap();
    refused!(world, two, Refusal::Signature(_));
    world.push(&world.job.sign(&hub()).unwrap()).unwrap();
    refused!(world, changed(&|job| job.beacon.anchor = digest("other")), Refusal::Known { .. });
    refused!(world, changed(&|job| job.job_uid = text("other")), Refusal::Known { .. });
    world.push(&changed(&|job| (job.job_uid, job.beacon.anchor) = (text("other"), digest("other")))).unwrap();
}

#[test]
fn a_grant_starts_where_the_island_is() {
    let mut world = World::with_job();
    let good = world.grant(1, "east");
    let changed = |change: &dyn Fn(&mut Grant)| {
        let mut grant = good.clone();
        change(&mut grant);
        grant.sign(&hub()).unwrap()
    };
    refused!(world, good.sign(&identity("east")).unwrap(), Refusal::Signer { .. });
    refused!(world, changed(&|it| it.job = JobId(digest("x"))), Refusal::Unknown { field: "job", .. });
    refused!(
        world,
        changed(&|it| it.island = Island::new(1).unwrap()),
        Refusal::Unknown { field: "island", .. }
    );
    refused!(world, changed(&|it| it.provider = text("nobody")), Refusal::Unknown { field: "provider", .. });
    refused!(world, changed(&|it| it.owner = text("globex")), Refusal::Differs { field: "owner", .. });
    refused!(world, changed(&|it| it.unit = text("4f2a9c1b-0-2")), Refusal::Differs { field: "unit", .. });
    refused!(
        world,
        changed(&|it| it.start.record = digest("x")),
        Refusal::Differs { field: "start.record", .. }
    );
    refused!(
        world,
        changed(&|it| it.start.step = Step::new(20).unwrap()),
        Refusal::Differs { field: "start.step", .. }
    );
    refused!(
        world,
        changed(&|it| it.start.state_root = digest("x")),
        Refusal::Differs { field: "start.stateRoot", .. }
    );
    world.start(1, "east");
    refused!(world, good.sign(&hub()).unwrap(), Refusal::OldEpoch { epoch: 1, lowest: 2 });
    refused!(world, world.grant(2, "west").sign(&hub()).unwrap(), Refusal::GrantLive(1));
}

#[test]
fn a_key_is_bound_once_and_by_its_provider() {
    let mut world = World::with_grant();
    let good = world.binding(1, 1, &key(90));
    let changed = |change: &dyn Fn(&mut KeyBinding)| {
        let mut binding = good.clone();
        change(&mut binding);
        binding.sign(&identity("east")).unwrap()
    };
    refused!(world, good.sign(&identity("west")).unwrap(), Refusal::Signer { .. });
    refused!(world, good.sign(&identity("east-two")).unwrap(), Refusal::Signer { .. });
    refused!(world, good.sign(&sidecar(1)).unwrap(), Refusal::Signer { .. });
    refused!(world, changed(&|it| it.epoch = epoch(2)), Refusal::Unknown { field: "epoch", .. });
    for unit in ["4f2a9c1b-0-2", "4f2a9c1b-0-0", "4f2a9c1b-0-01", "4f2a9c1b-1-1", "other", "4f2a9c1b-a0-1"] {
        refused!(world, changed(&|it| it.unit = text(unit)), Refusal::Differs { field: "unit", .. });
    }
    refused!(world, changed(&|it| it.rank = Rank::new(0).unwrap()), Refusal::Known { .. });
    for taken in [hub(), identity("west"), sidecar(1)] {
        refused!(world, changed(&|it| it.key = taken.public().clone()), Refusal::KeyTaken { .. });
    }
    world.push(&good.sign(&identity("east")).unwrap()).unwrap();
    refused!(world, good.sign(&identity("east")).unwrap(), Refusal::Known { .. });
    // Rank 1's key is no key of a commit.
    refused!(world, world.next_commit(1).sign(&key(90)).unwrap(), Refusal::Signer { .. });
    world.hub(&GrantEnd {
        job: world.id,
        island: island(),
        epoch: epoch(1),
        reason: GrantEndReason::Released,
    });
    refused!(world, changed(&|it| it.rank = Rank::new(2).unwrap()), Refusal::GrantEnded(1));
    // A pod goes on under a new epoch with its old key and its old unit's name; nobody else can have that key.
    world.hub(&world.grant(2, "east"));
    let mut goes_on = world.binding(2, 0, &sidecar(1));
    goes_on.unit = text("4f2a9c1b-0-1");
    world.clone().push(&goes_on.sign(&identity("east")).unwrap()).unwrap();
    let mut moved = World { history: world.history.clone(), ..world.clone() };
    moved.hub(&GrantEnd {
        job: world.id,
        island: island(),
        epoch: epoch(2),
        reason: GrantEndReason::Released,
    });
    moved.hub(&moved.grant(3, "west"));
    let theft = moved.binding(3, 0, &sidecar(1)).sign(&identity("west")).unwrap();
    refused!(moved, theft, Refusal::KeyTaken { .. });
}

#[test]
fn a_commit_follows_the_one_before_and_comes_once() {
    let mut world = World::with_grant();
    let good = world.next_commit(1);
    let changed = |change: &dyn Fn(&mut Commit)| {
        let mut commit = good.clone();
        change(&mut commit);
        commit.sign(&sidecar(1)).unwrap()
    };
    let step = |n| Step::new(n).unwrap();
    refused!(world, good.sign(&identity("east")).unwrap(), Refusal::Signer { .. });
    refused!(world, good.sign(&key(99)).unwrap(), Refusal::Signer { .. });
    refused!(world, changed(&|it| it.job = JobId(digest("x"))), Refusal::Unknown { field: "job", .. });
    refused!(world, changed(&|it| it.epoch = epoch(2)), Refusal::Unknown { field: "epoch", .. });
    refused!(
        world,
        changed(&|it| it.interval = Interval::new(1).unwrap()),
        Refusal::Differs { field: "interval", .. }
    );
    refused!(world, changed(&|it| it.first_step = step(2)), Refusal::Differs { field: "firstStep", .. });
    refused!(world, changed(&|it| it.last_step = step(19)), Refusal::Differs { field: "lastStep", .. });
    refused!(world, changed(&|it| it.previous = digest("x")), Refusal::Differs { field: "previous", .. });
    world.commit(1);
    refused!(world, good.sign(&sidecar(1)).unwrap(), Refusal::Known { .. });
    refused!(world, changed(&|it| it.state_root = digest("better")), Refusal::Known { .. });
    world.hub(&GrantEnd { job: world.id, island: island(), epoch: epoch(1), reason: GrantEndReason::Lost });
    refused!(world, good.sign(&sidecar(1)).unwrap(), Refusal::Known { .. });
    refused!(world, world.next_commit(1).sign(&sidecar(1)).unwrap(), Refusal::GrantEnded(1));
}

#[test]
fn a_failure_is_the_end() {
    let mut world = World::with_grant();
    world.commit(1);
    assert_eq!(world.history.failure(world.id, 0), None, "a commit is none");
    let next = world.next_commit(1);
    let good = Failure {
        job: world.id,
        island: island(),
        epoch: epoch(1),
        interval: next.interval,
        first_step: next.first_step,
        failed_step: Step::new(27).unwrap(),
        previous: next.previous,
        state_root: failed_root(&digest("state 26"), Step::new(27).unwrap()),
        record_seal: next.record_seal,
    };
    let mut late = good.clone();
    late.failed_step = Step::new(41).unwrap();
    refused!(world, late.sign(&sidecar(1)).unwrap(), Refusal::Differs { field: "failedStep", .. });
    let failure = world.push(&good.sign(&sidecar(1)).unwrap()).unwrap().id;
    let mut after = next.clone();
    (after.interval, after.previous) = (Interval::new(2).unwrap(), failure);
    refused!(world, after.sign(&sidecar(1)).unwrap(), Refusal::Finished(_));
    let job = world.id;
    let end = |reason| GrantEnd { job, island: island(), epoch: epoch(1), reason };
    refused!(
        world,
        end(GrantEndReason::Completed).sign(&hub()).unwrap(),
        Refusal::Differs { field: "reason", .. }
    );
    world.hub(&end(GrantEndReason::Failed));
    refused!(world, world.grant(2, "west").sign(&hub()).unwrap(), Refusal::Finished(_));
    let (last_step, state_root, record) = (good.failed_step, good.state_root, failure);
    let end = |outcome| JobEnd { job, last_step, state_root, record, outcome };
    refused!(world, end(Outcome::Cancelled).sign(&hub()).unwrap(), Refusal::Differs { field: "outcome", .. });
    world.hub(&end(Outcome::Failed));
    let window = world.close(1, CloseReason::GrantEnd);
    let first = world.history.windows[&window].commits[0];
    refused!(world, world.next_draw(DrawKind::Failed, first).sign(&hub()).unwrap(), Refusal::Subject { .. });
    let open = world.history.open(world.id).unwrap();
    assert!(open.contains(&Open::Draw { kind: DrawKind::Failed, subject: failure }), "{open:?}");
    world.draw(DrawKind::Failed, failure);
    // It is the end as long as it counts, and its replay goes as far as the interval would have gone.
    let ended = world.history.failure(world.id, 0).unwrap();
    assert_eq!((ended.record, ended.last, ended.failed), (failure, 27, true));
    let audits = world.history.audits(world.id).unwrap();
    let audit = audits.iter().find(|audit| audit.commit == failure).unwrap();
    assert_eq!((audit.first_step, audit.last_step, audit.state_root), (21, 40, good.state_root));
}

#[test]
fn a_job_ends_where_it_is() {
    let mut world = World::with_grant();
    let record = world.commit(1);
    let good = JobEnd {
        job: world.id,
        last_step: Step::new(20).unwrap(),
        state_root: state_after(0),
        record,
        outcome: Outcome::Cancelled,
    };
    let job = world.id;
    let end = |reason| GrantEnd { job, island: island(), epoch: epoch(1), reason }.sign(&hub()).unwrap();
    refused!(world, end(GrantEndReason::Failed), Refusal::Differs { field: "reason", .. });
    let changed = |change: &dyn Fn(&mut JobEnd)| {
        let mut end = good.clone();
        change(&mut end);
        end.sign(&hub()).unwrap()
    };
    refused!(
        world,
        changed(&|it| it.last_step = Step::new(40).unwrap()),
        Refusal::Differs { field: "lastStep", .. }
    );
    refused!(world, changed(&|it| it.state_root = digest("x")), Refusal::Differs { field: "stateRoot", .. });
    refused!(world, changed(&|it| it.record = digest("x")), Refusal::Differs { field: "record", .. });
    refused!(
        world,
        changed(&|it| it.outcome = Outcome::Completed),
        Refusal::Differs { field: "outcome", .. }
    );
    world.hub(&good);
    refused!(world, good.sign(&hub()).unwrap(), Refusal::JobEnded);
    refused!(world, end(GrantEndReason::Lost), Refusal::GrantEnded(1));
    refused!(world, world.grant(2, "west").sign(&hub()).unwrap(), Refusal::JobEnded);
    refused!(world, world.next_commit(1).sign(&sidecar(1)).unwrap(), Refusal::GrantEnded(1));
    world.close(1, CloseReason::JobEnd);
}
