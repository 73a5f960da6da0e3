//! `synthetic`: an endpoint that speaks just enough Kafka to be loaded, and answers after delays that are known.
//!
//! Owner: two threads for each connection: one receives and computes when an answer is due, one sends it then.
//! Invariants: an answer never leaves before its time; answers leave in the order of the requests, so that a slow one
//! holds up those behind it, as with any Kafka broker. It stores nothing, and has no fetches: they are refused.
//! Must not: be taken for a broker; it is a gauge for the harness.

mod delay;
mod wire;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use clap::Args;

use self::delay::Delay;
use self::wire::Topics;
use crate::error::{Result, io_err};
use crate::limits::{REQUEST_BYTES_MAX, SYNTHETIC_CONNECTIONS_MAX, SYNTHETIC_PENDING_MAX};
use crate::sys;

/// `synthetic`
#[derive(Debug, Args)]
pub(crate) struct SyntheticCommand {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:9492", value_name = "HOST:PORT")]
    pub(crate) listen: SocketAddr,
    /// `constant:2ms`, `bimodal:1ms,20ms,0.05` (a share of 0.05 takes 20 ms), `stall:5s,500ms,1ms` (every 5 s nothing
    /// for 500 ms, else 1 ms)
    #[arg(long)]
    pub(crate) delay: Delay,
}

/// What connections share.
#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    delay: Delay,
    start_ns: u64,
    /// Produce requests so far, over all connections: the number a delay is drawn by.
    requests: AtomicU64,
    connections: AtomicUsize,
    topics: Topics,
}

/// An answer and when it is due.
#[derive(Debug)]
struct Due {
    at_ns: u64,
    bytes: Vec<u8>,
}

/// Serves until the process ends.
///
/// # Errors
/// When the address cannot be listened on.
fn serve(listener: &TcpListener, delay: Delay) -> Result<()> {
    let address = listener.local_addr().map_err(io_err("listening address"))?;
    let shared = Arc::new(Shared {
        address,
        delay,
        start_ns: sys::now_ns(),
        requests: AtomicU64::new(0),
        connections: AtomicUsize::new(0),
        topics: Topics::default(),
    });
    for stream in listener.incoming() {
        let stream = stream.map_err(io_err("accept"))?;
        if shared.connections.fetch_add(1, Ordering::Relaxed) >= SYNTHETIC_CONNECTIONS_MAX {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || {
            // A connection that breaks off or sends nonsense is over; the others are not touched.
            if let Err(error) = connection(&stream, &shared) {
                eprintln!("a connection ended: {error}");
            }
            shared.connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

fn connection(stream: &TcpStream, shared: &Arc<Shared>) -> Result<()> {
    stream.set_nodelay(true).map_err(io_err("TCP_NODELAY"))?;
    let sender = stream.try_clone().map_err(io_err("clone a socket"))?;
    let (answers, pending) = sync_channel(SYNTHETIC_PENDING_MAX);
    let writer = std::thread::spawn(move || send(&sender, &pending));
    let received = receive(stream, shared, &answers);
    drop(answers);
    writer.join().ok();
    received
}

fn receive(mut stream: &TcpStream, shared: &Shared, answers: &SyncSender<Due>) -> Result<()> {
    let mut frame = Vec::new();
    loop {
        let mut length = [0u8; 4];
        if stream.read_exact(&mut length).is_err() {
            return Ok(());
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > REQUEST_BYTES_MAX {
            return Err(crate::error::protocol(format!("a frame of {length} bytes")));
        }
        // Grows by what arrives, not by what was announced.
        frame.clear();
        let got = stream.take(length as u64).read_to_end(&mut frame).map_err(io_err("receive"))?;
        if got < length {
            return Ok(());
        }
        let arrival_ns = sys::now_ns() - shared.start_ns;
        let Some(answer) = wire::answer(&frame, shared.address, &shared.topics)? else { continue };
        let due_ns = if answer.is_produce {
            shared.delay.due_ns(arrival_ns, shared.requests.fetch_add(1, Ordering::Relaxed))
        } else {
            arrival_ns
        };
        if answers.send(Due { at_ns: shared.start_ns + due_ns, bytes: answer.bytes }).is_err() {
            return Ok(());
        }
    }
}

fn send(mut stream: &TcpStream, pending: &Receiver<Due>) {
    sys::sharp_timers();
    while let Ok(due) = pending.recv() {
        // Sleeps may be cut short; an answer is never early.
        loop {
            let now_ns = sys::now_ns();
            if now_ns >= due.at_ns {
                break;
            }
            std::thread::sleep(Duration::from_nanos(due.at_ns - now_ns));
        }
        if stream.write_all(&due.bytes).is_err() {
            return;
        }
    }
}

/// `synthetic`
pub(crate) fn command(command: &SyntheticCommand) -> Result<()> {
    let listener =
        TcpListener::bind(command.listen).map_err(io_err(format!("listen on {}", command.listen)))?;
    let address = listener.local_addr().map_err(io_err("listening address"))?;
    println!("synthetic endpoint ready on {address}");
    serve(&listener, command.delay)
}
