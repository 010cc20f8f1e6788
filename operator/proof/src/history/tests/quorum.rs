//! Whose cosignatures make a head count.
use super::*;
use crate::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use crate::tlog::note::{Algorithm, KeyName, NoteKey};

fn note_key(name: &str, algorithm: Algorithm) -> NoteKey {
    NoteKey::new(KeyName::new(name).unwrap(), algorithm, *digest(name).as_bytes())
}

/// The witness of a provider, or of anybody else.
fn looks(provider: &str) -> NoteKey {
    note_key(provider, Algorithm::CosignatureV1)
}

/// A head of 9 entries that these have cosigned.
fn head(by: &[&str]) -> SignedCheckpoint {
    let head = Checkpoint::new("hub.example/log", 9, digest("root")).unwrap();
    let mut head = SignedCheckpoint::sign(head, &note_key("hub.example/log", Algorithm::Ed25519)).unwrap();
    for key in by.iter().map(|name| looks(name)) {
        let line = head.cosign(&key, 1_700_000_000).unwrap();
        assert_eq!(head.merge(&[line], &[key.public().clone()]).unwrap(), 1);
    }
    head
}

fn world(providers: &[(&str, &str)]) -> World {
    let mut world = World::with_providers_of(&[]);
    for (provider, owner) in providers {
        let mut record = world.provider_key(provider, owner);
        record.witness = looks(provider).public().to_string().parse().unwrap();
        world.push(&record.sign_both(&hub(), &identity(provider)).unwrap()).unwrap();
    }
    world
}

#[test]
fn a_head_counts_with_two_thirds_of_the_owners() {
    for (owners, needed) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (6, 4), (7, 5), (100, 67)] {
        let quorum = |cosigned| Quorum { owners, cosigned };
        assert_eq!(quorum(0).needed(), needed, "{owners}");
        assert!(quorum(needed).counts() && (needed == 0 || !quorum(needed - 1).counts()));
        // Who has cosigned two heads of one size.
        assert!(3 * (2 * needed - owners) >= owners, "{owners}");
    }
}

#[test]
fn owners_count_and_not_their_providers_nor_strangers_nor_the_revoked() {
    let mut world =
        world(&[("east", "acme"), ("east-two", "acme"), ("west", "globex"), ("north", "initech")]);
    let seen = |world: &World, by: &[&str]| {
        let quorum = world.history.quorum(&head(by));
        (quorum.cosigned, quorum.owners, quorum.counts())
    };
    assert_eq!(world.history.witnesses(), 4);
    assert_eq!(seen(&world, &[]), (0, 3, false));
    assert_eq!(seen(&world, &["east", "east-two"]), (1, 3, false));
    assert_eq!(seen(&world, &["east", "stranger", "south"]), (1, 3, false));
    assert_eq!(seen(&world, &["east-two", "north"]), (2, 3, true));
    let revoked = KeyRevocation {
        hub: world.job.hub.clone(),
        provider: text("north"),
        key: identity("north").public().key_id(),
    };
    world.hub(&revoked);
    assert_eq!(world.history.witnesses(), 3);
    assert_eq!(seen(&world, &["east-two", "north"]), (1, 2, false));
    assert_eq!(seen(&world, &["east-two", "west", "north"]), (2, 2, true));
}
