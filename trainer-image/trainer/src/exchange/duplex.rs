//! One TLS connection that one thread reads and another writes.
//!
//! The TLS state has one lock, and nobody waits for the network while holding it: the reader takes bytes from the socket,
//! then decrypts under the lock; the writer encrypts under the lock, then gives the bytes to the socket. So both ends may
//! send as much as they like at the same time. Only the writer writes to the socket: what TLS itself has to say (an alert,
//! an answer to a change of keys, the goodbye) goes out with the writer's next bytes, in the order in which it was
//! encrypted. Neither holds more than a few records; a large payload exists once, at its owner's.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::Connection;

/// Bytes of ciphertext that are read at once.
const READ: usize = 1 << 18;
/// Bytes of plaintext that are encrypted at once: four whole records.
const WRITE: usize = 4 << 14;

type Shared = Arc<Mutex<Connection>>;

/// The TLS state is consistent between calls, so a holder that panicked leaves it as good as before.
fn locked(tls: &Shared) -> MutexGuard<'_, Connection> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The two ends of a connection whose handshake is done.
pub(super) fn split(mut tls: Connection, stream: &TcpStream) -> io::Result<(Incoming, Outgoing)> {
    // What is written at once is bounded here, and sent before more is written.
    tls.set_buffer_limit(None);
    let tls = Arc::new(Mutex::new(tls));
    let incoming =
        Incoming { tls: tls.clone(), stream: stream.try_clone()?, buffer: vec![0; READ], waiting: 0..0 };
    let outgoing = Outgoing { tls, stream: stream.try_clone()?, buffer: Vec::new() };
    Ok((incoming, outgoing))
}

/// Reads plaintext. The end of the stream is the peer's goodbye; a connection that ends without one is an error.
pub(super) struct Incoming {
    tls: Shared,
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The part of `buffer` that TLS has not seen yet.
    waiting: Range<usize>,
}

impl Read for Incoming {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(read) = self.decrypt(out)? {
                return Ok(read);
            }
            match self.stream.read(&mut self.buffer)? {
                0 => {
                    let problem = "its connection ended without a goodbye: it died, or was cut off";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, problem));
                }
                read => self.waiting = 0..read,
            }
        }
    }
}

impl Incoming {
    /// Plaintext out of what was read from the socket; `None` if more must be read first.
    fn decrypt(&mut self, out: &mut [u8]) -> io::Result<Option<usize>> {
        let mut tls = locked(&self.tls);
        loop {
            match tls.reader().read(out) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other.map(Some),
            }
            if self.waiting.is_empty() {
                return Ok(None);
            }
            let mut bytes = self.buffer.get(self.waiting.clone()).unwrap_or_default();
            self.waiting.start += tls.read_tls(&mut bytes)?;
            tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

/// Writes plaintext, and whatever TLS has to say.
pub(super) struct Outgoing {
    tls: Shared,
    stream: TcpStream,
    /// Ciphertext on its way to the socket.
    buffer: Vec<u8>,
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let some = bytes.get(..WRITE).unwrap_or(bytes);
        self.send(|tls| tls.writer().write(some))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send(|_| Ok(()))
    }
}

impl Outgoing {
    /// Says that nothing follows, and means it.
    pub fn goodbye(&mut self) -> io::Result<()> {
        self.send(|tls| {
            tls.send_close_notify();
            Ok(())
        })?;
        self.stream.shutdown(Shutdown::Write)
    }

    /// Changes this direction's keys and asks the peer to change its own, as TLS does by itself after 2^24 records.
    #[cfg(test)]
    pub fn renew_keys(&mut self) -> io::Result<()> {
        self.send(|tls| tls.refresh_traffic_keys().map_err(io::Error::other))
    }

    /// Encrypts under the lock and sends outside of it. Also if nothing could be encrypted: the alert that says why must
    /// reach the peer.
    fn send<T>(&mut self, encrypt: impl FnOnce(&mut Connection) -> io::Result<T>) -> io::Result<T> {
        let mut tls = locked(&self.tls);
        let done = encrypt(&mut tls);
        self.buffer.clear();
        while tls.wants_write() {
            tls.write_tls(&mut self.buffer)?;
        }
        drop(tls);
        self.stream.write_all(&self.buffer)?;
        done
    }
}
