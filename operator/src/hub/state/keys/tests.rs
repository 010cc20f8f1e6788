use super::*;

fn first() -> (tempfile::TempDir, Keys) {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path()).unwrap();
    (dir, keys)
}

/// What must hold of any directory that a hub may find.
fn sound(dir: &Path) -> Keys {
    let keys = open(dir).unwrap();
    assert_eq!(hub_keys::trust_first(keys.chain()).unwrap(), *keys.set());
    assert!(keys.set().keys().contains(keys.signer().public()));
    assert!(!dir.join(NEXT).exists(), "nothing is left half done");
    assert_eq!(open(dir).unwrap(), keys, "and opening changes nothing more");
    keys
}

#[test]
fn a_rotation_hands_on_and_retiring_drops() {
    let (dir, one) = first();
    let two = rotate(dir.path(), Change::Add).unwrap();
    assert_eq!((two.set().serial(), two.set().keys().len()), (2, 2));
    assert_ne!(two.signer().key_id(), one.signer().key_id());
    assert_eq!(two.set().keys().last(), Some(two.signer().public()), "the newest signs");
    let three = rotate(dir.path(), Change::Retire).unwrap();
    assert_eq!(three.set().keys(), std::slice::from_ref(two.signer().public()));
    assert_eq!(three.signer().key_id(), two.signer().key_id());
    // An agent that slept through all of it follows.
    assert_eq!(hub_keys::advance(one.set(), three.chain()).unwrap(), *three.set());
    let again = rotate(dir.path(), Change::Retire).unwrap();
    assert_eq!(again, three, "there was nothing more to drop");
    sound(dir.path());
}

#[test]
fn a_crash_between_any_two_writes_leaves_key_and_chain_in_agreement() {
    for change in [Change::Add, Change::Retire] {
        for done in 0..=3 {
            let (dir, _) = first();
            let before = rotate(dir.path(), Change::Add).unwrap();
            let next = match change {
                Change::Add => draw().unwrap(),
                Change::Retire => before.signer.clone(),
            };
            let chain = chain_after(&before, change, &next).unwrap();
            for write in plan(change, &next, &chain).iter().take(done) {
                write.perform(dir.path()).unwrap();
            }
            let found = sound(dir.path());
            // What an agent may have heard already is never taken back, and what the chain says is what happens.
            let announced = done >= if change == Change::Add { 2 } else { 1 };
            assert_eq!(found.set().serial(), if announced { 3 } else { 2 }, "{change:?} {done}");
            let signer = if announced { &next } else { before.signer() };
            assert_eq!(found.signer().key_id(), signer.key_id(), "{change:?} {done}");
            let on = rotate(dir.path(), Change::Add).unwrap();
            assert_eq!(hub_keys::advance(before.set(), on.chain()).unwrap(), *on.set(), "{change:?} {done}");
        }
    }
}

#[test]
fn a_crash_on_the_first_start_is_a_first_start() {
    let dir = tempfile::tempdir().unwrap();
    let key = draw().unwrap();
    write_key(dir.path(), SIGNING, &key).unwrap();
    assert_eq!(sound(dir.path()).signer().key_id(), key.key_id());
}

#[test]
fn a_long_chain_loses_its_oldest_sets() {
    let (dir, one) = first();
    for _ in 0..MAX_SETS {
        rotate(dir.path(), Change::Add).unwrap();
        rotate(dir.path(), Change::Retire).unwrap();
    }
    let keys = sound(dir.path());
    assert_eq!((keys.chain().len(), keys.set().serial()), (MAX_SETS, 1 + 2 * MAX_SETS as u64));
    assert!(matches!(hub_keys::advance(one.set(), keys.chain()), Err(hub_keys::Error::Gap { .. })));
}

#[test]
fn agents_believe_only_so_many_keys() {
    let (dir, _) = first();
    for _ in 1..MAX_KEYS {
        rotate(dir.path(), Change::Add).unwrap();
    }
    let text = rotate(dir.path(), Change::Add).unwrap_err().to_string();
    assert!(text.contains("--retire"), "{text}");
    assert_eq!(sound(dir.path()).set().serial(), MAX_KEYS as u64);
    rotate(dir.path(), Change::Retire).unwrap();
    rotate(dir.path(), Change::Add).unwrap();
}

#[test]
fn a_key_of_another_time_is_refused() {
    let (dir, one) = first();
    rotate(dir.path(), Change::Add).unwrap();
    rotate(dir.path(), Change::Retire).unwrap();
    write_key(dir.path(), SIGNING, one.signer()).unwrap();
    let text = open(dir.path()).unwrap_err().to_string();
    assert!(text.contains(&one.signer().key_id().to_string()) && text.contains("backup"), "{text}");
}

#[test]
fn what_was_read_before_is_read_again_once_it_changes() {
    let (dir, one) = first();
    let mut known = None;
    for _ in 0..2 {
        assert_eq!(reopen(dir.path(), &mut known).unwrap(), one);
    }
    assert!(known.is_some());
    let two = rotate(dir.path(), Change::Add).unwrap();
    assert_eq!(reopen(dir.path(), &mut known).unwrap(), two);
    // A rotation that a crash cut short is ended, as at any start.
    write_key(dir.path(), NEXT, &draw().unwrap()).unwrap();
    assert_eq!(reopen(dir.path(), &mut known).unwrap(), two);
    assert!(!dir.path().join(NEXT).exists());
    std::fs::remove_file(dir.path().join(SIGNING)).unwrap();
    assert!(reopen(dir.path(), &mut known).is_err());
}
