//! Single limits of this machine: disk bandwidth, flush latency, loopback bandwidth, CRC32C.
//!
//! Owner: the threads it starts, for as long as a probe lasts. Each probe is the shortest loop that does the
//! thing. Must not: run beside load.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Result, io_err, protocol};
use crate::generator::open_stream;
use crate::limits::{FETCH_BUFFER_BYTES, SLEEP_NS_MAX};
use crate::record::new_histogram;
use crate::report::{Quantiles, quantiles};
use crate::ring::{Job, ProbeFile, Ring};
use crate::sys::{self, Epoll, HugeBuffer, Ready};

const DISK_DEPTH: usize = 8;

/// GB/s of O_DIRECT reads or writes of `block_bytes`, eight in flight, over an already written file.
pub(crate) fn disk_gb_per_s(probe: &ProbeFile, job: Job, block_bytes: usize, time: Duration) -> Result<f64> {
    let what = "disk probe";
    let buffer = HugeBuffer::new(DISK_DEPTH * block_bytes).map_err(io_err(what))?;
    let mut ring = Ring::new(&probe.file, DISK_DEPTH).map_err(io_err(what))?;
    let start = sys::now_ns();
    let deadline = start + time.as_nanos() as u64;
    let mut free: Vec<usize> = (0..DISK_DEPTH).collect();
    let (mut offset, mut moved) = (0u64, 0u64);
    let mut end = start;
    while end < deadline {
        while let Some(slot) = free.pop() {
            ring.submit(job, slot as u64, &buffer, (slot * block_bytes, block_bytes), offset)
                .map_err(io_err(what))?;
            offset = probe.advance(offset, block_bytes);
        }
        ring.reap(1, |slot, bytes| {
            free.push(slot as usize);
            moved += bytes as u64;
        })
        .map_err(io_err(what))?;
        end = sys::now_ns();
    }
    Ok(moved as f64 / (end - start) as f64)
}

/// Latency of one write and one fdatasync behind it, one pair at a time, over an already written file.
pub(crate) fn flush_latency(probe: &ProbeFile, block_bytes: usize, time: Duration) -> Result<Quantiles> {
    let what = "flush probe";
    let buffer = HugeBuffer::new(block_bytes).map_err(io_err(what))?;
    let mut ring = Ring::new(&probe.file, 1).map_err(io_err(what))?;
    let mut values = new_histogram();
    let mut overflow = 0;
    let deadline = sys::now_ns() + time.as_nanos() as u64;
    let mut offset = 0;
    loop {
        let start = sys::now_ns();
        if start >= deadline {
            break;
        }
        ring.submit(Job::Write, 0, &buffer, (0, block_bytes), offset).map_err(io_err(what))?;
        ring.reap(1, |_, _| ()).map_err(io_err(what))?;
        ring.submit_sync(0).map_err(io_err(what))?;
        ring.reap(1, |_, _| ()).map_err(io_err(what))?;
        if values.record(sys::now_ns() - start).is_err() {
            overflow += 1;
        }
        offset = probe.advance(offset, block_bytes);
    }
    Ok(quantiles(&values, overflow))
}

/// GB/s of CRC32C over a buffer that stays in the cache.
pub(crate) fn crc_gb_per_s(time: Duration) -> f64 {
    let bytes = vec![0xa5u8; 1 << 20];
    let start = sys::now_ns();
    let deadline = start + time.as_nanos() as u64;
    let (mut done, mut crc, mut end) = (0u64, 0u32, start);
    while end < deadline {
        crc = crc32c::crc32c_append(crc, std::hint::black_box(&bytes));
        done += bytes.len() as u64;
        end = sys::now_ns();
    }
    std::hint::black_box(crc);
    done as f64 / (end - start) as f64
}

/// How loopback is probed.
#[derive(Debug, Clone)]
pub(crate) struct Loopback<'a> {
    /// Connections.
    pub(crate) connections: usize,
    /// Cores of the sending threads.
    pub(crate) cpus_send: &'a [usize],
    /// Cores of the receiving threads.
    pub(crate) cpus_receive: &'a [usize],
    /// Congestion control.
    pub(crate) congestion: Option<&'a str>,
    /// Bytes of one send call.
    pub(crate) send_bytes: usize,
    /// Measured time.
    pub(crate) time: Duration,
}

/// Bytes received, counted over all receivers.
#[derive(Debug, Default)]
struct Meter {
    stop: AtomicBool,
    bytes: AtomicU64,
}

/// GB/s received over loopback: send from one hot buffer, receive into one hot buffer, nothing else.
pub(crate) fn loopback_gb_per_s(setup: &Loopback<'_>) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io_err("loopback probe"))?;
    let address = listener.local_addr().map_err(io_err("loopback probe"))?;
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    for _ in 0..setup.connections {
        senders.push(open_stream(address, setup.congestion)?);
        let (stream, _) = listener.accept().map_err(io_err("loopback probe"))?;
        stream.set_nonblocking(true).map_err(io_err("loopback probe"))?;
        receivers.push(stream);
    }
    let meter = Arc::new(Meter::default());
    let mut threads = Vec::new();
    for (streams, cpus, sends) in [(receivers, setup.cpus_receive, false), (senders, setup.cpus_send, true)] {
        let count = cpus.len().max(1).min(streams.len());
        let mut hands: Vec<Vec<TcpStream>> = (0..count).map(|_| Vec::new()).collect();
        for (index, stream) in streams.into_iter().enumerate() {
            hands[index % count].push(stream);
        }
        for (index, hand) in hands.into_iter().enumerate() {
            let (meter, cpu, send_bytes) = (Arc::clone(&meter), cpus.get(index).copied(), setup.send_bytes);
            threads.push(std::thread::spawn(move || -> io::Result<()> {
                cpu.map_or(Ok(()), sys::pin_thread)?;
                if sends { send_loop(&hand, &meter, send_bytes) } else { receive_loop(&hand, &meter) }
            }));
        }
    }
    // A short start lets the buffers grow to their size.
    std::thread::sleep(setup.time / 5);
    let (start, before) = (sys::now_ns(), meter.bytes.load(Ordering::Relaxed));
    std::thread::sleep(setup.time);
    let (end, after) = (sys::now_ns(), meter.bytes.load(Ordering::Relaxed));
    meter.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread
            .join()
            .map_err(|_| protocol("a loopback thread panicked"))?
            .map_err(io_err("loopback probe"))?;
    }
    Ok((after - before) as f64 / (end - start) as f64)
}

fn watch(streams: &[TcpStream]) -> io::Result<Epoll> {
    let epoll = Epoll::new()?;
    for (token, stream) in streams.iter().enumerate() {
        epoll.add_edge(stream.as_raw_fd(), token)?;
    }
    Ok(epoll)
}

fn send_loop(streams: &[TcpStream], meter: &Meter, send_bytes: usize) -> io::Result<()> {
    let buffer = vec![0x5a; send_bytes];
    let mut epoll = watch(streams)?;
    let mut events: Vec<Ready> = Vec::new();
    let mut open = vec![true; streams.len()];
    while !meter.stop.load(Ordering::Relaxed) {
        let mut idle = true;
        for (stream, open) in streams.iter().zip(&mut open).filter(|(_, open)| **open) {
            match (&mut &*stream).write(&buffer) {
                Ok(_) => idle = false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => *open = false,
                // The receiver may have stopped first.
                Err(_) => return Ok(()),
            }
        }
        if idle {
            epoll.wait(SLEEP_NS_MAX, &mut events)?;
            for event in events.iter().filter(|event| event.writable) {
                open[event.token] = true;
            }
        }
    }
    Ok(())
}

fn receive_loop(streams: &[TcpStream], meter: &Meter) -> io::Result<()> {
    let mut buffer = vec![0; FETCH_BUFFER_BYTES];
    let mut epoll = watch(streams)?;
    let mut events: Vec<Ready> = Vec::new();
    while !meter.stop.load(Ordering::Relaxed) {
        epoll.wait(SLEEP_NS_MAX, &mut events)?;
        for event in &events {
            loop {
                match (&streams[event.token]).read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(count) => drop(meter.bytes.fetch_add(count as u64, Ordering::Relaxed)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => return Ok(()),
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_moves_bytes() {
        let setup = Loopback {
            connections: 3,
            cpus_send: &[],
            cpus_receive: &[],
            congestion: None,
            send_bytes: 65_536,
            time: Duration::from_millis(50),
        };
        assert!(loopback_gb_per_s(&setup).unwrap() > 0.0);
    }
}
