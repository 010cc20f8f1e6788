//! One connection to one peer. Reading and writing each have a thread, so two workers that send large frames to each
//! other at the same time never wait for each other.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::AlertDescription;

use super::duplex::{Incoming, Outgoing};
use super::handshake::{Proven, tls_error};
use super::wire::{self, Frame, Kind, Lengths};
use super::{Error, KEEP_ALIVE, SILENCE};

/// Frames that may wait to be read: what a peer can be ahead is one step's worth.
const QUEUE: usize = 8;
/// How long a link whose writer has failed waits to hear from its reader why.
const CAUSE: Duration = Duration::from_secs(1);

/// A live connection to the worker `rank`.
#[derive(Debug)]
pub(super) struct Link {
    rank: u32,
    stream: TcpStream,
    orders: Sender<Order>,
    /// In a mutex only to make the link shareable between threads; there is one reader.
    incoming: Mutex<Receiver<io::Result<Frame>>>,
    writer: Option<JoinHandle<()>>,
}

/// What the writer does next.
#[derive(Debug)]
enum Order {
    Send(Frame),
    /// TLS may have something to say.
    Flush,
    Close,
}

impl Link {
    /// Takes over a proven connection.
    pub fn start(peer: Proven, lengths: Lengths) -> io::Result<Self> {
        let Proven { rank, stream, incoming, outgoing } = peer;
        stream.set_read_timeout(Some(SILENCE))?;
        // A peer that takes nothing for so long is as gone as one that says nothing.
        stream.set_write_timeout(Some(SILENCE))?;
        let (orders, to_do) = channel();
        let (received, frames) = sync_channel(QUEUE);
        let alert = orders.clone();
        std::thread::Builder::new()
            .name(format!("from-{rank}"))
            .spawn(move || read(incoming, &lengths, &received, &alert))?;
        let writer =
            std::thread::Builder::new().name(format!("to-{rank}")).spawn(move || write(outgoing, &to_do))?;
        Ok(Self { rank, stream, orders, incoming: Mutex::new(frames), writer: Some(writer) })
    }

    /// Queues a frame; never waits for the peer.
    pub fn send(&self, kind: Kind, step: u64, payload: Vec<u8>) -> Result<(), Error> {
        // The writer ends only when the connection is broken; why is what the reader says.
        self.orders.send(Order::Send(Frame { kind, step, payload })).map_err(|_| self.cause())
    }

    /// The payload of the next frame, which must be of this kind and step.
    pub fn receive(&self, kind: Kind, step: u64) -> Result<Vec<u8>, Error> {
        let next = self.incoming.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(Ok(frame)) if frame.kind == kind && frame.step == step => Ok(frame.payload),
            Ok(Ok(frame)) => Err(self.lost(&format!(
                "it sent {:?} of step {} where {kind:?} of step {step} belongs",
                frame.kind, frame.step
            ))),
            Ok(Err(error)) => Err(self.lost(&describe(&error))),
            Err(_) => Err(self.lost("the connection is closed")),
        }
    }

    fn cause(&self) -> Error {
        let incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match incoming.recv_timeout(CAUSE) {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return self.lost(&describe(&error)),
                Err(_) => return self.lost("the connection broke while sending"),
            }
        }
    }

    fn lost(&self, problem: &str) -> Error {
        Error::Lost { rank: self.rank, problem: problem.to_owned() }
    }

    /// Says goodbye: everything queued is sent, then the peer's goodbye is awaited, so that neither side's last frame
    /// is destroyed by a reset.
    pub fn close(mut self) {
        self.finish_writing();
        let incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        // Ends with the peer's goodbye, or after SILENCE.
        while let Ok(Ok(_)) = incoming.recv() {}
    }

    fn finish_writing(&mut self) {
        drop(self.orders.send(Order::Close));
        if let Some(writer) = self.writer.take() {
            drop(writer.join());
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Also wakes both threads out of their system calls.
        drop(self.stream.shutdown(Shutdown::Both));
        self.finish_writing();
    }
}

fn describe(error: &io::Error) -> String {
    if let Some(tls) = tls_error(error) {
        return match tls {
            rustls::Error::DecryptError
            | rustls::Error::InvalidMessage(_)
            | rustls::Error::PeerSentOversizedRecord => "it sent bytes that were changed on the way".into(),
            rustls::Error::AlertReceived(
                AlertDescription::BadRecordMac
                | AlertDescription::DecodeError
                | AlertDescription::RecordOverflow,
            ) => "it got bytes that were changed on the way".into(),
            other => format!("TLS: {other}"),
        };
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the connection".into(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("it was silent for {SILENCE:?}"),
        io::ErrorKind::InvalidData => format!("it {error}"),
        _ => error.to_string(),
    }
}

fn read(mut from: Incoming, lengths: &Lengths, to: &SyncSender<io::Result<Frame>>, orders: &Sender<Order>) {
    loop {
        let frame = wire::receive(&mut from, lengths);
        if matches!(&frame, Ok(frame) if frame.kind == Kind::KeepAlive) {
            continue;
        }
        let last = frame.is_err();
        if last {
            // The peer may have to be told what is wrong with what it sent.
            drop(orders.send(Order::Flush));
        }
        if to.send(frame).is_err() || last {
            return;
        }
    }
}

fn write(mut to: Outgoing, orders: &Receiver<Order>) {
    let keep_alive = Frame { kind: Kind::KeepAlive, step: 0, payload: Vec::new() };
    loop {
        let done = match orders.recv_timeout(KEEP_ALIVE) {
            Ok(Order::Send(frame)) => wire::send(&mut to, &frame),
            Ok(Order::Flush) => io::Write::flush(&mut to),
            Err(RecvTimeoutError::Timeout) => wire::send(&mut to, &keep_alive),
            Ok(Order::Close) | Err(RecvTimeoutError::Disconnected) => {
                drop(to.goodbye());
                return;
            }
        };
        if done.is_err() {
            return;
        }
    }
}
