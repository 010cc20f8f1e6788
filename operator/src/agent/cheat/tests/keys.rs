//! Bindings that are forged or late: no key counts that its provider has not bound, and none before.
use muster_proof::records::{KeyBinding, Payload as _, Tier};

use super::agents::sidecar;
use super::{Lie, Provider, World, no};

#[tokio::test]
async fn a_forged_binding_binds_nothing() {
    let world = World::new().await;
    let (east, west) =
        (Provider::new(&world, "east", "acme").await, Provider::new(&world, "west", "globex").await);
    let (theirs, ours) = (world.job("theirs", Tier::None).await, world.job("ours", Tier::None).await);
    let (of_east, lent) = (world.grant(&theirs, &east, 3).await, world.grant(&ours, &west, 3).await);
    let honest = east.agent(None).await;
    let begun = honest.commits(&of_east).await;
    let liar = west.agent(Some(Lie::ForgedBinding)).await;
    let size = world.size();
    let first = liar.commits(&lent).await;
    let told = [
        no("a binding that nobody has signed", "UnknownSigner"),
        no("a binding of another provider's own key", "KeyTaken"),
        no("a binding of another provider's sidecar", "KeyTaken"),
        no("a binding under another provider's grant", "BadSigner"),
    ];
    assert_eq!(liar.told(), told);
    assert_eq!(world.size(), size + 2, "the honest binding and its commit");
    assert_eq!((world.path(&ours), world.path(&theirs)), (vec![first], vec![begun]));
    drop(liar);
    // Whose keys were named goes on with them, and so does the honest agent, whose place was not taken.
    let next = honest.commits(&of_east).await;
    let back = west.agent(None).await;
    back.forgets(&lent).await;
    let second = back.commits(&lent).await;
    assert_eq!((world.path(&ours), world.path(&theirs)), (vec![first, second], vec![begun, next]));
    assert_eq!(world.size(), size + 4);
}

/// The commit is there before the binding: it is refused, also from whom the binding would be; after the binding it is taken.
#[tokio::test]
async fn a_key_signs_nothing_before_it_is_bound() {
    let world = World::new().await;
    let west = Provider::new(&world, "west", "globex").await;
    let job = world.job("late", Tier::None).await;
    let lent = world.grant(&job, &west, 3).await;
    let liar = west.agent(Some(Lie::LateBinding)).await;
    let first = liar.commits(&lent).await;
    assert_eq!(liar.told(), [no("a commit whose key is not bound yet", "UnknownSigner")]);
    assert_eq!(world.path(&job), [first]);
    // The binding has its place before the commit, whatever was tried first.
    let last: Vec<_> = world.log.records(0).unwrap().into_iter().map(|(_, record)| record).collect();
    let [.., binding, commit] = last.as_slice() else { panic!("{last:?}") };
    let binding = KeyBinding::from_payload(binding.unverified_payload()).unwrap();
    assert_eq!((&binding.key, commit.record_id()), (sidecar(&lent).public(), first));
    drop(liar);
    let back = west.agent(None).await;
    back.forgets(&lent).await;
    let (second, size) = (back.commits(&lent).await, world.size());
    assert_eq!(world.path(&job), [first, second]);
    back.forgets(&lent).await;
    back.uploads(&lent).await;
    assert_eq!(world.size(), size);
}

/// The agent dies between the commit that was refused and the binding: the honest one that comes after it begins with the binding.
#[tokio::test]
async fn an_honest_agent_mends_a_late_binding() {
    let world = World::new().await;
    let west = Provider::new(&world, "west", "globex").await;
    let job = world.job("too late", Tier::None).await;
    let lent = world.grant(&job, &west, 3).await;
    let liar = west.agent(Some(Lie::LateBinding)).await;
    let record = liar.makes(&lent).await;
    let unit = liar.unit(&lent).await;
    let binding = unit.state().await.bindings[&1].record.clone();
    assert_eq!(liar.hub.submit(&binding).await.unwrap_err().reason(), Some("KeptBack"));
    assert_eq!(world.path(&job), []);
    drop(liar);
    west.agent(None).await.uploads(&lent).await;
    assert_eq!(world.path(&job), [record]);
}
