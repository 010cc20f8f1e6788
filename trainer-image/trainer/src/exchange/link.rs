//! One connection to one peer. Reading and writing each have a thread, so two workers that send large frames to each
//! other at the same time never wait for each other.

use std::io::{self, BufReader};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use super::handshake::Key;
use super::wire::{self, Direction, Frame, Kind, Lengths};
use super::{Error, KEEP_ALIVE, SILENCE};

/// Frames that may wait to be read: what a peer can be ahead is one step's worth.
const QUEUE: usize = 8;

/// A live connection to the worker `rank`.
#[derive(Debug)]
pub(super) struct Link {
    rank: u32,
    stream: TcpStream,
    outgoing: Option<Sender<Frame>>,
    /// In a mutex only to make the link shareable between threads; there is one reader.
    incoming: Mutex<Receiver<io::Result<Frame>>>,
    writer: Option<JoinHandle<()>>,
}

impl Link {
    /// Takes over a proven connection.
    pub fn start(stream: TcpStream, me: u32, rank: u32, session: &Key, lengths: Lengths) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        // A peer that takes nothing for so long is as gone as one that says nothing.
        stream.set_write_timeout(Some(SILENCE))?;
        let (outgoing, to_send) = channel();
        let (received, incoming) = sync_channel(QUEUE);
        let (reading, writing) = (stream.try_clone()?, stream.try_clone()?);
        let (inward, outward) = (Direction::new(session, rank, me), Direction::new(session, me, rank));
        std::thread::Builder::new()
            .name(format!("from-{rank}"))
            .spawn(move || read(reading, inward, &lengths, &received))?;
        let writer = std::thread::Builder::new()
            .name(format!("to-{rank}"))
            .spawn(move || write(writing, outward, &to_send))?;
        Ok(Self {
            rank,
            stream,
            outgoing: Some(outgoing),
            incoming: Mutex::new(incoming),
            writer: Some(writer),
        })
    }

    /// Queues a frame; never waits.
    pub fn send(&self, kind: Kind, step: u64, payload: Vec<u8>) -> Result<(), Error> {
        let sent = self.outgoing.as_ref().map(|queue| queue.send(Frame { kind, step, payload }));
        // The writer ends only when the connection is broken; why is what the reader says.
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(self.lost("the connection broke while sending")),
        }
    }

    /// The payload of the next frame, which must be of this kind and step.
    pub fn receive(&self, kind: Kind, step: u64) -> Result<Vec<u8>, Error> {
        let next = match self.incoming.lock() {
            Ok(incoming) => incoming.recv(),
            Err(_) => return Err(self.lost("its reader failed")),
        };
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

    fn lost(&self, problem: &str) -> Error {
        Error::Lost { rank: self.rank, problem: problem.to_owned() }
    }

    /// Says goodbye: everything queued is sent, then the peer's goodbye is awaited, so that neither side's last frame
    /// is destroyed by a reset.
    pub fn close(mut self) {
        self.finish_writing();
        drop(self.stream.shutdown(Shutdown::Write));
        if let Ok(incoming) = self.incoming.lock() {
            // Ends with the peer's end of stream, or after SILENCE.
            while let Ok(Ok(_)) = incoming.recv() {}
        }
    }

    fn finish_writing(&mut self) {
        self.outgoing = None;
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
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the connection".into(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("it was silent for {SILENCE:?}"),
        io::ErrorKind::InvalidData => format!("it {error}"),
        _ => error.to_string(),
    }
}

fn read(stream: TcpStream, mut inward: Direction, lengths: &Lengths, to: &SyncSender<io::Result<Frame>>) {
    let mut stream = BufReader::with_capacity(1 << 18, stream);
    loop {
        let frame = wire::receive(&mut stream, &mut inward, lengths);
        if matches!(&frame, Ok(frame) if frame.kind == Kind::KeepAlive) {
            continue;
        }
        let last = frame.is_err();
        if to.send(frame).is_err() || last {
            return;
        }
    }
}

fn write(mut stream: TcpStream, mut outward: Direction, from: &Receiver<Frame>) {
    loop {
        let frame = match from.recv_timeout(KEEP_ALIVE) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Timeout) => Frame { kind: Kind::KeepAlive, step: 0, payload: Vec::new() },
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if wire::send(&mut stream, &mut outward, &frame).is_err() {
            return;
        }
    }
}
