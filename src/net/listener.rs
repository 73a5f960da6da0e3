//! One listening socket per core (SO_REUSEPORT): the kernel spreads connections over the cores.
//!
//! Owner: one core. Invariants: at most `max.connections` over all cores, and `max.connections.per.ip` of one
//! address; an accept error never ends the loop; a stop closes the socket. It must not read from connections.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::rc::Rc;

use glommio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use super::connection;
use super::idle::Seats;
use crate::api;
use crate::limits::ACCEPT_BACKLOG;
use crate::metrics::{self, Counter};
use crate::rt;
use crate::shard::Shard;

/// Pause after a failed accept (out of descriptors), milliseconds.
const ACCEPT_RETRY_MS: u64 = 50;

/// Opens this core's listening socket on `address`.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    open(address).map_err(|error| std::io::Error::other(format!("cannot listen on {address}: {error}")))
}

/// A socket with SO_REUSEPORT, and with SO_REUSEADDR, which accepted connections inherit: what remains of them after
/// the broker's end (TIME_WAIT, a minute long) must not keep the next broker from the port. Two brokers at once are
/// still refused at the start: a socket that listens is in the way of the preflight's whatever its options.
fn open(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_BACKLOG)?;
    // SAFETY: the descriptor is a listening socket that nobody else owns any more.
    Ok(unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) })
}

/// Accepts connections of listener number `number` until the broker stops.
pub async fn serve(shard: Rc<Shard>, listener: TcpListener, number: usize) {
    let seats = Rc::new(Seats::default());
    let accepting = {
        let (shard, seats) = (shard.clone(), seats.clone());
        async move {
            loop {
                match listener.accept().await {
                    Ok(stream) => admit(&shard, stream, number, &seats),
                    Err(error) => {
                        tracing::warn!("accept failed: {error}");
                        rt::sleep_ms(ACCEPT_RETRY_MS).await;
                    }
                }
            }
        }
    };
    let stopped = shard.stop.wait_until(|| shard.is_stopping());
    let working = futures_lite::future::or(accepting, seats.sweep(&shard));
    futures_lite::future::or(working, stopped).await;
}

fn admit(shard: &Rc<Shard>, stream: TcpStream, listener: usize, seats: &Rc<Seats>) {
    if shard.is_stopping() {
        return;
    }
    let address = stream.peer_addr().ok().map(|peer| peer.ip().to_canonical());
    if !shard.admit_connection(address) {
        metrics::add(Counter::ConnectionsRefused, 1);
        if shard.may_complain() {
            tracing::warn!("connection refused: max.connections or max.connections.per.ip is reached");
        }
        return;
    }
    metrics::add(Counter::ConnectionsAccepted, 1);
    let _ = stream.set_nodelay(true);
    choose_congestion_control(&stream);
    let (shard, activity) = (shard.clone(), seats.take());
    rt::spawn(async move {
        if shard.quotas.limits_ips() && !is_welcome(&shard, &stream).await {
            shard.release_connection(address);
            return;
        }
        connection::run(shard.clone(), stream, listener, activity).await;
        shard.release_connection(address);
    });
}

/// Whether the peer's address may open another connection now. One that may not is held for a while before it is
/// closed, so that a peer that tries again at once is slowed down (KIP-612).
async fn is_welcome(shard: &Rc<Shard>, stream: &TcpStream) -> bool {
    let Ok(peer) = stream.peer_addr() else { return true };
    match api::connection_pause_ms(shard, peer.ip()).await {
        0 => true,
        pause_ms => {
            let stopped = shard.stop.wait_until(|| shard.is_stopping());
            futures_lite::future::or(rt::sleep_ms(pause_ms), stopped).await;
            false
        }
    }
}

/// Loopback peers get cubic: pacing controls such as BBR halve loopback and help nobody there.
fn choose_congestion_control(stream: &TcpStream) {
    if !stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback()) {
        return;
    }
    let name = b"cubic";
    // SAFETY: the option's value is a byte string of the given length; a refusal changes nothing.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        );
    }
}
