//! Commits that are another one's, or come twice: refused, and the honest one of the same interval stands.
use muster_proof::records::Tier;

use super::world::Wanted;
use super::{Agent, Lent, Lie, Provider, World, no};

/// The honest agent is back and has forgotten what the hub has: all that it says again is where it was, and it goes on. The log
/// has exactly the commits that an honest one makes.
async fn unharmed(
    world: &World,
    job: &Wanted,
    (provider, lent): (&Provider, &Lent),
    before: &[muster_proof::Digest],
) {
    let agent = provider.agent(None).await;
    agent.forgets(lent).await;
    let size = world.size();
    agent.uploads(lent).await;
    assert_eq!(world.size(), size, "said again, and not once more");
    let mut want = before.to_vec();
    while want.len() < 3 {
        want.push(agent.commits(lent).await);
    }
    assert_eq!(world.path(job), want);
    world.end_job(job).await;
    assert_eq!(world.history().open(job.id).unwrap(), []);
    for provider in ["east", "west"] {
        let standing = world.history().standing(&provider.parse().unwrap());
        assert!(standing.is_none_or(|standing| standing.since_fault.is_none()), "{provider}");
    }
}

/// The manifest that the store has for the end of the job's interval is that of its one commit.
async fn recorded(world: &World, agent: &Agent, job: &Wanted, lent: &Lent, step: u64) {
    let known = agent.unit(lent).await.state().await;
    let known = known.checkpoints.iter().find(|commit| commit.step == step.cast_signed()).unwrap().manifest;
    assert_eq!(world.store.checkpoint(&job.uid, step).await.unwrap(), Some(known));
}

#[tokio::test]
async fn a_second_commit_of_an_interval_is_refused() {
    let world = World::new().await;
    let west = Provider::new(&world, "west", "globex").await;
    let job = world.job("commits twice", Tier::None).await;
    let lent = world.grant(&job, &west, 3).await;
    let liar = west.agent(Some(Lie::CommitsTwice)).await;
    let first = liar.commits(&lent).await;
    let once = [
        no("a second commit, of other records", "Known"),
        no("a second commit, of another state", "StepTaken"),
    ];
    assert_eq!(liar.told(), once);
    assert_eq!(world.path(&job), [first]);
    recorded(&world, &liar, &job, &lent, 20).await;
    let second = liar.commits(&lent).await;
    assert_eq!(liar.told(), [once.clone(), once].concat());
    drop(liar);
    unharmed(&world, &job, (&west, &lent), &[first, second]).await;
}

/// East has begun the job, and trains another one. West, who goes on, says that what East has done is his.
#[tokio::test]
async fn another_providers_commit_is_not_ours() {
    let world = World::new().await;
    let (east, west) =
        (Provider::new(&world, "east", "acme").await, Provider::new(&world, "west", "globex").await);
    let job = world.job("copied commit", Tier::None).await;
    let lent = world.grant(&job, &east, 3).await;
    let first = east.agent(None).await.commits(&lent).await;
    world.end(&lent).await;
    let lent = world.grant(&job, &west, 4).await;
    let liar = west.agent(Some(Lie::CopiedCommit)).await;
    let second = liar.commits(&lent).await;
    // The unit may read what it starts from, but that is the state of another step.
    let told = [
        no("another provider's commit, as it is", "BadCommit"),
        no("another provider's state and seal, signed by us", "WrongStep"),
    ];
    assert_eq!(liar.told(), told);
    assert_eq!(world.path(&job), [first, second]);
    recorded(&world, &liar, &job, &lent, 40).await;

    let other = world.job("another job", Tier::None).await;
    let theirs = world.grant(&other, &east, 3).await;
    let honest = east.agent(None).await;
    let made = [honest.commits(&theirs).await, honest.commits(&theirs).await];
    let third = liar.commits(&lent).await;
    assert_eq!(liar.told()[2..], told, "of another job neither");
    drop(liar);
    unharmed(&world, &job, (&west, &lent), &[first, second, third]).await;
    assert_eq!(world.path(&other), made, "nothing is taken from whom it was copied");
}

/// The state of a step that another unit has put, before we have: it must be put here, which needs its bytes.
#[tokio::test]
async fn a_copied_state_needs_its_bytes() {
    let world = World::new().await;
    let (east, west) =
        (Provider::new(&world, "east", "acme").await, Provider::new(&world, "west", "globex").await);
    let (one, other) = (world.job("one", Tier::None).await, world.job("other", Tier::None).await);
    let (lent, theirs) = (world.grant(&one, &west, 3).await, world.grant(&other, &east, 3).await);
    let honest = east.agent(None).await;
    let mut made = vec![honest.commits(&theirs).await];
    made.push(honest.commits(&theirs).await);
    // East's newest is of step 40, west is at step 20.
    let liar = west.agent(Some(Lie::CopiedCommit)).await;
    let first = liar.commits(&lent).await;
    let told = [
        no("another provider's commit, as it is", "BadCommit"),
        no("another provider's state and seal, signed by us", "BlobMissing"),
    ];
    assert_eq!(liar.told(), told);
    drop(liar);
    unharmed(&world, &one, (&west, &lent), &[first]).await;
    assert_eq!(world.path(&other), made);
}

#[tokio::test]
async fn a_commit_is_of_its_job_and_epoch() {
    let world = World::new().await;
    let west = Provider::new(&world, "west", "globex").await;
    let (old, job) = (world.job("old", Tier::None).await, world.job("new", Tier::None).await);
    let (of_old, lent) = (world.grant(&old, &west, 3).await, world.grant(&job, &west, 3).await);
    let honest = west.agent(None).await;
    let before = honest.commits(&of_old).await;
    let first = honest.commits(&lent).await;
    drop(honest);
    // The same job under a new grant: of the old epoch's commit, too, nothing can be used again.
    world.end(&lent).await;
    let lent = world.grant(&job, &west, 4).await;
    let liar = west.agent(Some(Lie::ReplayedCommit)).await;
    let second = liar.commits(&lent).await;
    let told = [no("a commit of another job", "BadCommit"), no("a commit of another epoch", "BadCommit")];
    assert_eq!(liar.told(), told);
    assert_eq!(world.path(&job), [first, second]);
    recorded(&world, &liar, &job, &lent, 40).await;
    drop(liar);
    unharmed(&world, &job, (&west, &lent), &[first, second]).await;
    assert_eq!(world.path(&old), [before]);
}
