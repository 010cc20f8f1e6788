//! Who gets in, and who is told why not.

use std::io::ErrorKind;
use std::time::Instant;

use super::super::tls::Holders;
use super::*;

/// Strangers come first with garbage, with silence, without a key, with keys of their own or another's rank: the true peer
/// still gets in.
#[test]
fn strangers_do_not_disturb() {
    let graph = graph(16);
    let (listeners, peers) = listeners(3);
    let mut strangers = Vec::new();
    let hello = identity(1, 3).to_hello();
    for bytes in [&[0xffu8; 400][..], b"GET / HTTP/1.1\r\n\r\n", &[], &hello, &[22, 3, 1, 2, 0, 1]] {
        let mut stream = TcpStream::connect(peers[0].address).unwrap();
        stream.write_all(bytes).unwrap();
        strangers.push(stream);
    }
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let ended: Vec<_> = thread::scope(|scope| {
        let (graph, peers) = (&graph, &peers);
        let mut listeners = listeners.into_iter();
        let heard = warnings.clone();
        let first = listeners.next().unwrap();
        let zero = scope.spawn(move || {
            let warn = |text| heard.lock().unwrap().push(text);
            Reducer::meet(graph, identity(0, 3), first, peers, &AtomicBool::new(false), &warn).unwrap()
        });
        // A key that is in no list.
        let own = WorkerKey::generate().unwrap();
        let mut lie = peers.to_vec();
        lie[1].key = own.public().key_id();
        let refused = call(own, &lie, identity(1, 3)).err().unwrap();
        assert!(refused.contains("does not find this worker's key") || refused.contains("Io("), "{refused}");
        // TLS without any key.
        assert!(keyless(peers[0]).is_err());
        // The true peers come only after worker 0 has hung up on the garbage.
        for stranger in &mut strangers[..2] {
            drop(stranger.read_to_end(&mut Vec::new()));
        }
        let rest: Vec<_> = listeners
            .zip(1..)
            .map(|(listener, rank)| {
                scope.spawn(move || meet(graph, identity(rank, 3), listener, peers).unwrap())
            })
            .collect();
        let all: Vec<_> = std::iter::once(zero).chain(rest).map(|handle| handle.join().unwrap()).collect();
        // The links live until all are done: a reducer that is dropped hangs up on its peers.
        let steps: Vec<_> = all
            .into_iter()
            .map(|reducer| {
                scope.spawn(move || (step(&reducer, graph, 4, StepVotes::default()).unwrap().0, reducer))
            })
            .collect();
        steps.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    assert!(ended.iter().all(|(mean, _)| *mean == ended[0].0));
    let warnings = warnings.lock().unwrap().join("\n");
    for part in ["does not speak this protocol", "not the one in the list of peers", "shows no key"] {
        assert!(warnings.contains(part), "{part}: {warnings}");
    }
    assert!(TcpStream::connect(peers[0].address).is_err(), "the port is closed once all are there");
}

/// Five seconds are for the whole handshake, however bytes drip in.
#[test]
fn a_stranger_that_drips_is_turned_away() {
    let graph = graph(16);
    let (first, _, peers) = against_a_fake();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (graph, peers, stop) = (&graph, &peers, &stop);
        let zero = scope.spawn(move || Reducer::meet(graph, identity(0, 2), first, peers, stop, &|_| ()));
        let mut stream = TcpStream::connect(peers[0].address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let began = Instant::now();
        // The beginning of a ClientHello of 512 bytes.
        let mut bytes = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3].into_iter().chain(std::iter::repeat(7));
        while stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            assert!(began.elapsed() < Duration::from_secs(9), "it is still listened to");
            drop(stream.write_all(&[bytes.next().unwrap()]));
        }
        assert!(began.elapsed() > Duration::from_secs(4));
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(zero.join().unwrap(), Err(Error::Stopped)));
    });
}

/// A TLS client that shows no certificate, up to the first answer.
fn keyless(peer: Peer) -> std::io::Result<()> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Holders::new(vec![peer.key], provider.clone())))
        .with_no_client_auth();
    let name = peer.address.ip().into();
    let mut tls = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TcpStream::connect(peer.address).unwrap();
    rustls::Stream::new(&mut tls, &mut stream).read_exact(&mut [0; handshake::HELLO])
}

/// The key is right, but not what its holder says of itself.
#[test]
fn a_key_speaks_for_its_own_rank_only() {
    let graph = graph(16);
    for (claimed, want) in [(0, "claims the rank"), (2, "claims the rank")] {
        let (first, key, mut peers) = against_a_fake();
        let third = WorkerKey::generate().unwrap();
        peers.push(Peer { address: peers[1].address, key: third.public().key_id() });
        let stop = AtomicBool::new(false);
        let warnings = Mutex::new(Vec::new());
        thread::scope(|scope| {
            let (graph, peers, stop, warnings) = (&graph, &peers, &stop, &warnings);
            let zero = scope.spawn(move || {
                let warn = |text| {
                    warnings.lock().unwrap().push(text);
                    stop.store(true, Ordering::Relaxed);
                };
                Reducer::meet(graph, identity(0, 3), first, peers, stop, &warn).unwrap_err()
            });
            // The hello says one rank, the key another.
            let keys = Keys::new(key, 1, peers).unwrap();
            let stream = TcpStream::connect(peers[0].address).unwrap();
            let met =
                handshake::call(stream, &keys, &Identity { rank: claimed, ..identity(1, 3) }, &peers[0]);
            assert!(matches!(zero.join().unwrap(), Error::Stopped));
            drop(met);
        });
        assert!(warnings.lock().unwrap().join("\n").contains(want), "{warnings:?}");
    }
    // Worker 1 is called by higher ranks only: worker 0's key is no caller's.
    let (second, key) =
        (Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap(), WorkerKey::generate().unwrap());
    let peers = [
        Peer { address: "127.0.0.1:9".parse().unwrap(), key: key.public().key_id() },
        Peer { address: second.address(), key: second.public_key().key_id() },
    ];
    let keys = Keys::new(key, 0, &peers).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (graph, peers, stop) = (&graph, &peers, &stop);
        let one = scope.spawn(move || Reducer::meet(graph, identity(1, 2), second, peers, stop, &|_| ()));
        let stream = TcpStream::connect(peers[1].address).unwrap();
        assert!(handshake::call(stream, &keys, &identity(0, 2), &peers[1]).is_err());
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(one.join().unwrap(), Err(Error::Stopped)));
    });
}

#[test]
fn a_list_that_is_not_this_workers_is_refused() {
    let graph = graph(16);
    let (mut listeners, peers) = listeners(2);
    let (second, first) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let error = meet(&graph, identity(0, 2), first, &[peers[1], peers[0]]).unwrap_err().to_string();
    assert!(error.contains("another key for this worker"), "{error}");
    let error = meet(&graph, identity(1, 2), second, &peers[1..]).unwrap_err().to_string();
    assert!(error.contains("1 peers for 2 workers"), "{error}");
}

#[test]
fn a_peer_of_another_job_step_or_size_is_named() {
    let graph = graph(16);
    let others = [
        ("training digest", Identity { training_digest: Digest::of(b"other"), ..identity(1, 2) }),
        ("start step", Identity { step: 4, ..identity(1, 2) }),
    ];
    for (what, other) in others {
        let (mut listeners, peers) = listeners(2);
        let (second, first) = (listeners.pop().unwrap(), listeners.pop().unwrap());
        thread::scope(|scope| {
            let (graph, peers) = (&graph, &peers);
            let one = scope.spawn(move || meet(graph, other, second, peers).unwrap_err());
            let zero = meet(graph, identity(0, 2), first, peers).unwrap_err();
            for error in [zero, one.join().unwrap()] {
                assert!(error.to_string().contains(what), "{error}");
            }
        });
    }
}
