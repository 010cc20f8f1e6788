use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use muster_numerics::graph::{Graph, StepShape};
use muster_numerics::reduce::SubtreeAccumulator;
use muster_numerics::spec::{Architecture, Arithmetic, ModelSpec, TiedEmbeddings};
use muster_proof::Digest;

use super::*;

const SHARDS: u64 = 8;

/// About `width * 3000` parameters; 16 is small, larger ones make frames that exceed the sockets' buffers.
fn graph(width: u64) -> Graph {
    let model = ModelSpec {
        architecture: Architecture::Gpt2,
        layers: 1,
        width,
        heads: 2,
        context: 8,
        vocabulary: 2000,
        tied_embeddings: TiedEmbeddings::Tied,
    };
    Graph::build(&model, StepShape { batch: SHARDS, shards: SHARDS }, Arithmetic::F32Chain).unwrap()
}

fn identity(rank: u32, workers: u32) -> Identity {
    Identity { rank, workers, step: 3, training_digest: Digest::of(b"job") }
}

fn key() -> Key {
    Key::new([7; 32])
}

fn gradient(shard: u64, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i as u64 * 31 + shard * 17) % 1013) as f32 * 1e-3 - 0.4).collect()
}

/// One worker's part of a step: its shards' gradients in, the mean out.
fn step(
    reducer: &Reducer,
    graph: &Graph,
    number: u64,
    votes: StepVotes,
) -> Result<(Vec<f32>, Vec<f32>, StepVotes), Error> {
    let n = graph.parameters();
    let mut sums = SubtreeAccumulator::new(SHARDS, reducer.my_shards(), n).unwrap();
    let mut losses = Vec::new();
    for shard in reducer.my_shards() {
        sums.push(&gradient(shard, n)).unwrap();
        losses.push(shard as f32 + number as f32);
    }
    let mut out = vec![0.0; n];
    let (losses, votes) = reducer.exchange(number, votes, &losses, sums.subtrees().unwrap(), &mut out)?;
    Ok((out, losses, votes))
}

fn meet(graph: &Graph, me: Identity, listener: Listener, addresses: &[SocketAddr]) -> Result<Reducer, Error> {
    Reducer::meet(graph, me, listener, addresses, &key(), &AtomicBool::new(false), &|_| ())
}

fn listeners(workers: u32) -> (Vec<Listener>, Vec<SocketAddr>) {
    let all: Vec<_> = (0..workers).map(|_| Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap()).collect();
    let addresses = all.iter().map(Listener::address).collect();
    (all, addresses)
}

fn run(graph: &Graph, workers: u32) -> Vec<(Vec<f32>, Vec<f32>, StepVotes)> {
    let (listeners, addresses) = listeners(workers);
    thread::scope(|scope| {
        let handles: Vec<_> = listeners
            .into_iter()
            .zip(0..)
            .map(|(listener, rank)| {
                let addresses = &addresses;
                scope.spawn(move || {
                    let reducer = meet(graph, identity(rank, workers), listener, addresses).unwrap();
                    step(&reducer, graph, 4, StepVotes::default()).unwrap();
                    let votes = StepVotes { drain: rank + 1 == workers, stop: false };
                    let last = step(&reducer, graph, 5, votes).unwrap();
                    reducer.close();
                    last
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

#[test]
fn every_number_of_workers_gives_the_same_mean_on_every_worker() {
    let graph = graph(16);
    let alone = Reducer::alone(&graph, identity(0, 1)).unwrap();
    let (want, losses, _) = step(&alone, &graph, 5, StepVotes::default()).unwrap();
    assert_eq!(losses, (0..SHARDS).map(|s| s as f32 + 5.0).collect::<Vec<_>>());
    for workers in [2, 3, 5, 8] {
        for (rank, (mean, got, votes)) in run(&graph, workers).into_iter().enumerate() {
            assert!(
                mean.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{workers} workers, rank {rank}"
            );
            assert_eq!(got, losses);
            assert_eq!(votes, StepVotes { drain: true, stop: false }, "one vote is everyone's");
        }
    }
}

/// 8 MB each way at once: more than the sockets hold, so a worker that sent before it received would hang.
#[test]
fn large_frames_in_both_directions_do_not_wait_for_each_other() {
    let graph = graph(1024);
    assert!(graph.parameters() > 10_000_000);
    let results = run(&graph, 2);
    assert_eq!(results[0].0, results[1].0);
}

#[test]
fn more_workers_than_shards_are_refused() {
    let (mut listeners, addresses) = listeners(9);
    let error = meet(&graph(16), identity(0, 9), listeners.remove(0), &addresses).unwrap_err().to_string();
    assert!(error.contains("9 workers for 8 shards"), "{error}");
}

/// Strangers come first with garbage, with silence, with another key, with an echo: the true peer still gets in.
#[test]
fn strangers_do_not_disturb() {
    let graph = graph(16);
    let (mut listeners, addresses) = listeners(2);
    let (second, first) = (listeners.pop().unwrap(), listeners.pop().unwrap());
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let mut strangers = Vec::new();
    for bytes in [&[0xffu8; 400][..], b"GET / HTTP/1.1\r\n\r\n", &[], b"muster.peer/1"] {
        let mut stream = TcpStream::connect(addresses[0]).unwrap();
        stream.write_all(bytes).unwrap();
        strangers.push(stream);
    }
    let echo = TcpStream::connect(addresses[0]).unwrap();
    let mut reader = echo.try_clone().unwrap();
    thread::spawn(move || {
        let (mut echo, mut buffer) = (echo, [0; 1000]);
        while let Ok(n @ 1..) = reader.read(&mut buffer) {
            drop(echo.write_all(&buffer[..n]));
        }
    });
    let thief = {
        let (address, me) = (addresses[0], identity(1, 2));
        thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            handshake::shake(&mut stream, &Key::new([8; 32]), &me, Some(0)).is_err()
        })
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (graph, addresses) = (&graph, &addresses);
        let (heard, stop) = (warnings.clone(), &stop);
        let zero = scope.spawn(move || {
            let warn = |text| heard.lock().unwrap().push(text);
            Reducer::meet(graph, identity(0, 2), first, addresses, &key(), stop, &warn).unwrap()
        });
        assert!(thief.join().unwrap(), "another key is refused");
        let one = meet(graph, identity(1, 2), second, addresses).unwrap();
        let zero = zero.join().unwrap();
        // Both links live until both are done: a reducer that is dropped hangs up on its peer.
        let other = scope.spawn(move || {
            step(&one, graph, 4, StepVotes::default()).unwrap();
            one
        });
        step(&zero, graph, 4, StepVotes::default()).unwrap();
        drop(other.join().unwrap());
    });
    let warnings = warnings.lock().unwrap().join("\n");
    for part in ["does not speak this protocol", "does not hold this run's key", "claims to be this worker"] {
        assert!(warnings.contains(part), "{warnings}");
    }
    assert!(TcpStream::connect(addresses[0]).is_err(), "the port is closed once all are there");
}

#[test]
fn a_peer_of_another_job_step_or_size_is_named() {
    let graph = graph(16);
    let others = [
        ("training digest", Identity { training_digest: Digest::of(b"other"), ..identity(1, 2) }),
        ("start step", Identity { step: 4, ..identity(1, 2) }),
    ];
    for (what, other) in others {
        let (mut listeners, addresses) = listeners(2);
        let (second, first) = (listeners.pop().unwrap(), listeners.pop().unwrap());
        thread::scope(|scope| {
            let (graph, addresses) = (&graph, &addresses);
            let one = scope.spawn(move || meet(graph, other, second, addresses).unwrap_err());
            let zero = meet(graph, identity(0, 2), first, addresses).unwrap_err();
            for error in [zero, one.join().unwrap()] {
                assert!(error.to_string().contains(what), "{error}");
            }
        });
    }
}

/// A proven peer that then misbehaves ends the run with an error that names it.
#[test]
fn a_peer_that_sends_nonsense_is_an_error() {
    use super::wire::{Direction, Frame, Kind, send};
    let graph = graph(16);
    type Misdeed = fn(&mut TcpStream, &mut Direction);
    let misdeeds: [(&str, Misdeed); 6] = [
        ("closed", |_, _| ()),
        ("kind 200", |stream, _| drop(stream.write_all(&[200; 33]))),
        ("must be", |stream, _| {
            drop(stream.write_all(&[&[1][..], &4u64.to_le_bytes(), &u64::MAX.to_le_bytes()].concat()));
        }),
        ("changed on the way", |stream, _| drop(stream.write_all(&[0; 33]))),
        ("where Losses of step 4", |stream, direction| {
            drop(send(stream, direction, &Frame { kind: Kind::Losses, step: 9, payload: vec![0; 17] }));
        }),
        ("must be", |stream, direction| {
            drop(send(stream, direction, &Frame { kind: Kind::Losses, step: 4, payload: vec![0; 18] }));
        }),
    ];
    for (what, misdeed) in misdeeds {
        let (mut listeners, addresses) = listeners(2);
        let first = listeners.remove(0);
        thread::scope(|scope| {
            let (graph, addresses) = (&graph, &addresses);
            let zero = scope.spawn(move || {
                let reducer = meet(graph, identity(0, 2), first, addresses).unwrap();
                step(&reducer, graph, 4, StepVotes::default()).unwrap_err()
            });
            let mut stream = TcpStream::connect(addresses[0]).unwrap();
            let peer = handshake::shake(&mut stream, &key(), &identity(1, 2), Some(0)).unwrap();
            let mut direction = Direction::new(&peer.session, 1, 0);
            misdeed(&mut stream, &mut direction);
            drop(stream.shutdown(std::net::Shutdown::Write));
            let error = zero.join().unwrap();
            let text = error.to_string();
            assert!(text.contains("lost worker 1") && text.contains(what), "{what}: {text}");
            assert_eq!(Failure::from(error).code, ExitCode::PeerLost);
        });
    }
}

#[test]
fn a_silent_peer_is_lost_and_waiting_can_be_stopped() {
    let graph = graph(16);
    let (mut listeners, addresses) = listeners(2);
    let first = listeners.remove(0);
    let started = std::time::Instant::now();
    thread::scope(|scope| {
        let (graph, addresses) = (&graph, &addresses);
        let zero = scope.spawn(move || {
            let reducer = meet(graph, identity(0, 2), first, addresses).unwrap();
            step(&reducer, graph, 4, StepVotes::default()).unwrap_err()
        });
        let mut stream = TcpStream::connect(addresses[0]).unwrap();
        handshake::shake(&mut stream, &key(), &identity(1, 2), Some(0)).unwrap();
        let text = zero.join().unwrap().to_string();
        assert!(text.contains("silent for 10s"), "{text}");
    });
    assert!(started.elapsed() < SILENCE * 2);

    let (mut listeners, addresses) = self::listeners(2);
    let (first, stop) = (listeners.remove(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let (graph, addresses, stop) = (&graph, &addresses, &stop);
        let zero = scope.spawn(move || {
            Reducer::meet(graph, identity(0, 2), first, addresses, &key(), stop, &|_| ()).unwrap_err()
        });
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(zero.join().unwrap(), Error::Stopped));
    });
}
