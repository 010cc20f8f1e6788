//! Connections before anything is known of who is at their other end: how many one address may have open and all together, how
//! long the handshake and the headers may take. For every server that strangers can reach.
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Request;
use axum_server::Server;
use axum_server::accept::Accept;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::Service;

/// A handshake takes no longer.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Headers of a request are here within this time.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// No more of a request's headers is kept, nor of a body at once.
const BUFFER: usize = 64 * 1024;
/// Connections that one address may have open: what a stranger can take of memory.
pub const PER_ADDRESS: usize = 512;

/// Gives a connection no longer than [`HANDSHAKE`] and [`HEADERS_WITHIN`] to say what it wants.
#[must_use]
pub fn hurried<A>(mut server: Server<SocketAddr, A>) -> Server<SocketAddr, A> {
    server.http_builder().http1().header_read_timeout(HEADERS_WITHIN).max_buf_size(BUFFER);
    server.first_request_timeout(HEADERS_WITHIN)
}

/// Open connections by address.
#[derive(Debug)]
pub struct Connections {
    all: usize,
    each: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl Connections {
    /// So many in all, and so many of one address.
    #[must_use]
    pub fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all, each, open: Mutex::default() })
    }

    /// Makes the handshake, unless too many are open.
    ///
    /// # Errors
    /// Any error of the connection; it is closed then.
    pub async fn accept(
        self: Arc<Self>,
        config: Arc<ServerConfig>,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Held)> {
        let address = stream.peer_addr()?.ip();
        let held = self.enter(address).ok_or_else(|| io::Error::other("too many connections"))?;
        tune(&stream)?;
        let handshake = TlsAcceptor::from(config).accept(stream);
        Ok((tokio::time::timeout(HANDSHAKE, handshake).await??, held))
    }

    fn enter(self: Arc<Self>, address: IpAddr) -> Option<Held> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (open.values().sum::<usize>(), open.get(&address).copied().unwrap_or(0));
        if all >= self.all || own >= self.each {
            return None;
        }
        open.insert(address, own + 1);
        drop(open);
        Some(Held { connections: self, address })
    }
}

/// An answer of a few bytes does not wait for more; a peer that vanished is noticed within half a minute, or its watches would
/// hold their places until the kernel gives up, which takes a quarter of an hour.
fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let alive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    socket.set_tcp_keepalive(&alive.with_retries(3))?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(30)))
}

/// One open connection.
#[derive(Debug)]
pub struct Held {
    connections: Arc<Connections>,
    address: IpAddr,
}

impl Held {
    /// Tells each request of the connection who is at its other end.
    pub fn telling<S, T>(self, inner: S, peer: T) -> Telling<S, T> {
        Telling { inner, peer, _held: Arc::new(self) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// Puts the peer into each request's extensions.
#[derive(Debug, Clone)]
pub struct Telling<S, T> {
    inner: S,
    peer: T,
    _held: Arc<Held>,
}

impl<S, B, T> Service<Request<B>> for Telling<S, T>
where
    S: Service<Request<B>>,
    T: Clone + Send + Sync + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        self.inner.call(request)
    }
}

/// Makes the handshake and gives each request of the connection the address of its other end, a [`SocketAddr`].
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    connections: Arc<Connections>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor { .. }")
    }
}

impl Acceptor {
    /// With this configuration.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>, connections: Arc<Connections>) -> Self {
        Self { config, connections }
    }
}

impl<S: Send + 'static> Accept<TcpStream, S> for Acceptor {
    type Stream = TlsStream<TcpStream>;
    type Service = Telling<S, SocketAddr>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let Self { config, connections } = self.clone();
        Box::pin(async move {
            let address = stream.peer_addr()?;
            let (stream, held) = connections.accept(config, stream).await?;
            Ok((stream, held.telling(service, address)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let connections = Connections::new(usize::MAX, PER_ADDRESS);
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let mut held: Vec<_> =
            (0..PER_ADDRESS).map(|_| connections.clone().enter(address).unwrap()).collect();
        assert!(connections.clone().enter(address).is_none());
        assert!(connections.clone().enter("10.0.0.2".parse().unwrap()).is_some());
        held.pop();
        assert!(connections.clone().enter(address).is_some());
        held.clear();
        assert!(connections.open.lock().unwrap().is_empty());
    }

    #[test]
    fn all_addresses_together_have_only_so_many() {
        let connections = Connections::new(3, 2);
        let enter = |address: &str| connections.clone().enter(address.parse().unwrap());
        let held: Vec<_> = ["10.0.0.1", "10.0.0.1", "10.0.0.2"].map(enter).into_iter().collect();
        assert!(held.iter().all(Option::is_some));
        assert!(enter("10.0.0.3").is_none());
        drop(held);
        assert!(enter("10.0.0.3").is_some());
    }
}
