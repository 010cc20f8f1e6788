//! The numbers were computed by this Python (`H` is formats.md section 1), with seed = bytes 0..32:
//!
//! ```python
//! chain = [seed]; [chain.append(H("muster.beacon/1", chain[-1])) for _ in range(4)]
//! window = sha256(b"window").digest()
//! x = unpack("<Q", H("muster.draw/1", preimage, window, b"I")[:8])[0] % n
//! second = unpack("<Q", H("muster.draw/1", preimage, window, b"S")[:8])[0] % 5 == 0
//! sorted(owners, key=lambda o: H("muster.draw/1", preimage, window, b"O", o))
//! ```
use super::*;
use crate::records::fields::ChainLength;

fn seed() -> Digest {
    Digest::from_bytes(std::array::from_fn(|i| i as u8))
}

fn beacon(length: u64) -> Beacon {
    Beacon { anchor: links(&seed(), length), length: ChainLength::new(length).unwrap() }
}

fn standing(intervals: u64, since_fault: Option<u64>) -> Standing {
    Standing { intervals, since_fault }
}

#[test]
fn the_chain_is_as_specified() {
    let hex = ["6d04837f7739dd23", "fb36d335e7d37e0b", "317a8451d9481931", "dda20f36c1b61568"];
    for (count, start) in (1..).zip(hex) {
        assert_eq!(&links(&seed(), count).to_hex()[..16], start);
    }
    assert_eq!(
        links(&seed(), 4).to_hex(),
        "dda20f36c1b615688530ec30f14c8dfb9e6695ce583835dad56acece1ac1581e"
    );
}

#[test]
fn preimages_come_in_order_and_once() {
    let mut chain = Chain::new(&beacon(4));
    let preimage = |index| links(&seed(), 3 - index);
    assert_eq!(chain.reveal(1, &preimage(1)), Err(ChainError::Index { got: 1, want: 0 }));
    assert_eq!(chain.reveal(0, &preimage(1)), Err(ChainError::Preimage));
    for index in 0..4 {
        chain.reveal(index, &preimage(index)).unwrap();
        assert_eq!(chain.drawn(), index + 1);
        let again = chain.reveal(index, &preimage(index));
        assert!(matches!(again, Err(ChainError::Index { .. } | ChainError::UsedUp(4))));
    }
    assert_eq!(chain.reveal(4, &seed()), Err(ChainError::UsedUp(4)));
}

#[test]
fn windows_shrink_for_the_new_and_the_fallen() {
    let old = |tier| window_size(tier, standing(200, None));
    assert_eq!(old(Tier::None), None);
    let sizes = [Tier::Bronze, Tier::Silver, Tier::Gold, Tier::Platinum].map(|tier| old(tier).unwrap());
    assert_eq!(sizes, [50, 20, 5, 1]);
    let silver = |intervals, since| window_size(Tier::Silver, standing(intervals, since)).unwrap();
    assert_eq!((silver(0, None), silver(199, None), silver(200, None)), (10, 10, 20));
    assert_eq!((silver(900, Some(0)), silver(900, Some(499)), silver(900, Some(500))), (5, 5, 20));
    let bronze = |intervals, since| window_size(Tier::Bronze, standing(intervals, since)).unwrap();
    assert_eq!((bronze(900, Some(1)), bronze(100, Some(1)), bronze(100, None)), (12, 10, 10));
    assert_eq!(window_size(Tier::Gold, standing(900, Some(1))), Some(1));
    assert_eq!(window_size(Tier::Platinum, standing(0, Some(1))), Some(1));
}

#[test]
fn draws_are_as_specified() {
    let window = Digest::of(b"window");
    let want = [(11, 3, true), (5, 3, false), (2, 6, false), (7, 1, false)];
    for (preimage, (of_20, of_7, second)) in (0..4).map(|i| links(&seed(), 3 - i)).zip(want) {
        assert_eq!(drawn_interval(&preimage, &window, 20), Some(of_20));
        assert_eq!(drawn_interval(&preimage, &window, 7), Some(of_7));
        assert_eq!(drawn_interval(&preimage, &window, 1), Some(0));
        assert_eq!(second_joins(&preimage, &window), second);
    }
    assert_eq!(drawn_interval(&seed(), &window, 0), None);
    assert_eq!(drawn_interval(&seed(), &window, MAX_INTERVALS + 1), None);
    assert_ne!(
        drawn_interval(&seed(), &window, MAX_INTERVALS),
        drawn_interval(&seed(), &Digest::of(b"w"), MAX_INTERVALS)
    );
}

#[test]
fn auditors_are_asked_in_the_order_specified() {
    let owner = |name: &str, providers: &[&str]| Eligible {
        owner: name.parse().unwrap(),
        providers: providers.iter().map(|p| p.parse().unwrap()).collect(),
    };
    let eligible = [
        owner("acme", &["east", "west"]),
        owner("globex", &["north"]),
        owner("initech", &["down", "south", "up"]),
    ];
    let window = Digest::of(b"window");
    let names = |preimage| {
        let order = order(&preimage, &window, &eligible);
        order.into_iter().map(|(_, provider)| provider.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(links(&seed(), 3)), "west east down up south north");
    assert_eq!(names(links(&seed(), 2)), "east west down up south north");
    assert_eq!(names(links(&seed(), 1)), "east west north down up south");
    assert_eq!(names(seed()), "west east north down up south");
    assert!(order(&seed(), &window, &[]).is_empty());
}
