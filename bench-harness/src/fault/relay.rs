//! A relay between the harness and the server, so that the network between them can fail.
//!
//! Owner: `fault`; an accepting thread for each address, two threads for each connection, all ended by drop. Everything
//! the load sends goes through it, whatever addresses the server advertises. Invariants: bytes pass unchanged and
//! in order, or the connection is closed; connections and buffers are bounded. Must not: know what passes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::error::{BenchError, Result, io_err};
use crate::kafka::Partition;
use crate::limits::{RELAY_BUFFER_BYTES, RELAY_CONNECTIONS_MAX};

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// It works.
    Passes,
    /// Nothing arrives, nothing is closed: packets are lost and sent again until they pass.
    Holds,
    /// Connections break, with whatever is on its way, and new ones are closed at once.
    Cuts,
    /// The relay is over.
    Ends,
}

#[derive(Debug)]
struct State {
    network: Network,
    /// Both sides of the connections that are open, to close them.
    open: Vec<(usize, TcpStream)>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    connections: AtomicUsize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the network holds; whether bytes may go on.
    fn may_pass(&self) -> bool {
        let mut state = self.lock();
        while state.network == Network::Holds {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.network == Network::Passes
    }
}

/// The relay.
#[derive(Debug)]
pub(crate) struct Relay {
    shared: Arc<Shared>,
    /// Where it listens, and for whom.
    ways: Vec<(SocketAddr, SocketAddr)>,
    acceptors: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Puts a relay in front of every leader, whose addresses in `partitions` become the relay's.
    ///
    /// # Errors
    /// When it cannot listen.
    pub(crate) fn before(partitions: &mut [Partition]) -> Result<Self> {
        let state = Mutex::new(State { network: Network::Passes, open: Vec::new() });
        let shared = Arc::new(Shared { state, changed: Condvar::new(), connections: AtomicUsize::new(0) });
        let mut relay = Self { shared, ways: Vec::new(), acceptors: Vec::new() };
        for partition in partitions {
            let known = relay.ways.iter().find(|(_, to)| *to == partition.leader).map(|(here, _)| *here);
            partition.leader = match known {
                Some(here) => here,
                None => relay.listen(partition.leader)?,
            };
        }
        Ok(relay)
    }

    fn listen(&mut self, to: SocketAddr) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(io_err("listen for the relay"))?;
        let here = listener.local_addr().map_err(io_err("listening address"))?;
        let shared = Arc::clone(&self.shared);
        self.acceptors.push(std::thread::spawn(move || accept(&listener, to, &shared)));
        self.ways.push((here, to));
        Ok(here)
    }

    /// The relay's address for each of the server's.
    pub(crate) fn detours(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.ways.iter().map(|(here, to)| (*to, *here)).collect()
    }

    /// From now on the network does this.
    pub(crate) fn set(&self, network: Network) {
        let mut state = self.shared.lock();
        state.network = network;
        if matches!(network, Network::Cuts | Network::Ends) {
            for (_, stream) in state.open.drain(..) {
                stream.shutdown(Shutdown::Both).ok();
            }
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.set(Network::Ends);
        for (here, _) in &self.ways {
            // The acceptor sees the end when somebody connects.
            TcpStream::connect(here).ok();
        }
        for acceptor in self.acceptors.drain(..) {
            acceptor.join().ok();
        }
    }
}

fn accept(listener: &TcpListener, to: SocketAddr, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.lock().network == Network::Ends {
            return;
        }
        let Ok(client) = client else { continue };
        let id = shared.connections.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            // A connection that cannot be made is closed: its client tries again.
            connection(id, &client, to, &shared).ok();
            client.shutdown(Shutdown::Both).ok();
        });
    }
}

/// Passes a connection's bytes both ways until it ends.
fn connection(id: usize, client: &TcpStream, to: SocketAddr, shared: &Arc<Shared>) -> Result<()> {
    if !shared.may_pass() {
        return Ok(());
    }
    let server = crate::kafka::connect(to).map_err(io_err("connect to the server"))?;
    for stream in [client, &server] {
        stream.set_nodelay(true).map_err(io_err("TCP_NODELAY"))?;
    }
    {
        let mut state = shared.lock();
        if state.open.len() >= 2 * RELAY_CONNECTIONS_MAX {
            return Err(BenchError::Usage("more connections than the relay takes".into()));
        }
        if state.network != Network::Passes && state.network != Network::Holds {
            return Ok(());
        }
        for stream in [client, &server] {
            state.open.push((id, stream.try_clone().map_err(io_err("clone a socket"))?));
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| pass(client, &server, shared));
        pass(&server, client, shared);
    });
    shared.lock().open.retain(|(other, _)| *other != id);
    Ok(())
}

/// Passes bytes one way; its end is the end of both.
fn pass(mut from: &TcpStream, mut to: &TcpStream, shared: &Shared) {
    let mut buffer = vec![0; RELAY_BUFFER_BYTES];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(count) if count > 0 => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            _ => break,
        };
        if !shared.may_pass() || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        stream.shutdown(Shutdown::Both).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream).ok());
            }
        });
        address
    }

    fn talk(stream: &TcpStream) -> bool {
        let (mut stream, mut answer) = (stream, [0; 5]);
        stream.write_all(b"hello").is_ok() && stream.read_exact(&mut answer).is_ok() && answer == *b"hello"
    }

    #[test]
    fn bytes_pass_wait_and_are_cut() {
        let server = echo();
        let mut partitions = [0, 1].map(|index| Partition { index, leader: server });
        let relay = Relay::before(&mut partitions).unwrap();
        let here = partitions[0].leader;
        assert!(here != server && partitions[1].leader == here, "one way for one leader");
        let first = TcpStream::connect(here).unwrap();
        assert!(talk(&first));
        relay.set(Network::Holds);
        let waiting = {
            let first = first.try_clone().unwrap();
            std::thread::spawn(move || talk(&first))
        };
        relay.set(Network::Passes);
        assert!(waiting.join().unwrap(), "what was held arrives");
        relay.set(Network::Cuts);
        assert!(!talk(&first), "a connection from before is over");
        assert!(!talk(&TcpStream::connect(here).unwrap()), "a new one is closed");
        relay.set(Network::Passes);
        assert!(talk(&TcpStream::connect(here).unwrap()));
    }
}
