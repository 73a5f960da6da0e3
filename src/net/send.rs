//! Vectored sends of header bytes and record slices, without copying them together.
//!
//! Owner: the connection's core. Invariant: every byte given is sent, in order, or the connection ends.
//! The socket is tried first; only when it is full does the task wait for it to become writable.

use std::io;
use std::os::fd::RawFd;

use crate::limits::IOVECS_MAX;

use super::answers::Held;
use super::connection::Socket;

/// Parts of a reply that is sent from a small table.
const IOVECS_FEW: usize = 16;

/// How much of some parts was sent.
#[derive(Default)]
pub(super) struct Progress {
    /// Parts of which all was sent.
    first: usize,
    /// Bytes of the next part that were.
    skip: usize,
}

impl Progress {
    /// What is left.
    pub(super) fn rest_of<'a>(&self, parts: &[&'a [u8]]) -> Vec<&'a [u8]> {
        let mut rest = parts[self.first..].to_vec();
        if let Some(begun) = rest.first_mut() {
            *begun = &begun[self.skip..];
        }
        rest
    }

    fn advance(&mut self, parts: &[&[u8]], sent: usize) {
        let mut left = sent;
        while left > 0 {
            let room = parts[self.first].len() - self.skip;
            if left < room {
                self.skip += left;
                return;
            }
            left -= room;
            self.first += 1;
            self.skip = 0;
        }
    }

    /// The next part that is not sent, if there is one.
    fn next(&mut self, parts: &[&[u8]]) -> Option<usize> {
        while self.first < parts.len() && self.skip == parts[self.first].len() {
            self.first += 1;
            self.skip = 0;
        }
        (self.first < parts.len()).then_some(self.first)
    }
}

/// Sends as much of `parts` as the socket takes at once; whether that was all.
pub(super) fn send_now(socket: &Socket, parts: &[&[u8]], progress: &mut Progress) -> io::Result<bool> {
    while let Some(first) = progress.next(parts) {
        match try_send(socket.fd(), &parts[first..], progress.skip) {
            Ok(sent) => progress.advance(parts, sent),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Sends what is left of `parts`, in order, waiting for the peer as often as it takes, while `held` is in memory.
pub(super) async fn send_rest(
    socket: &Socket,
    parts: &[&[u8]],
    progress: &mut Progress,
    held: &Held,
) -> io::Result<()> {
    while !send_now(socket, parts, progress)? {
        let sent = socket.write(&parts[progress.first][progress.skip..], held.bytes()).await?;
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        progress.advance(parts, sent);
    }
    Ok(())
}

fn try_send(fd: RawFd, parts: &[&[u8]], skip: usize) -> io::Result<usize> {
    // Most replies have few parts, and the largest table is two pages to clear.
    match parts.len() {
        0..=IOVECS_FEW => try_send_some::<IOVECS_FEW>(fd, parts, skip),
        _ => try_send_some::<IOVECS_MAX>(fd, parts, skip),
    }
}

fn try_send_some<const MOST: usize>(fd: RawFd, parts: &[&[u8]], skip: usize) -> io::Result<usize> {
    let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MOST];
    let count = parts.len().min(MOST);
    for (at, part) in parts[..count].iter().enumerate() {
        let bytes = if at == 0 { &part[skip..] } else { part };
        vectors[at] = libc::iovec { iov_base: bytes.as_ptr() as *mut libc::c_void, iov_len: bytes.len() };
    }
    // SAFETY: a zeroed msghdr is valid; the vectors point into slices that outlive the call, and sending
    // only reads them.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = count;
        libc::sendmsg(fd, &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}
