//! Vectored sends of header bytes and record slices, without copying them together.
//!
//! Owner: the connection's core. Invariant: every byte given is sent, in order, or the connection ends.
//! The socket is tried first; only when it is full does the task wait for it to become writable.

use std::io;
use std::os::fd::RawFd;

use crate::limits::IOVECS_MAX;

use super::connection::Socket;

/// Sends all of `parts`, in order.
pub(super) async fn send_all(socket: &Socket, parts: &[&[u8]]) -> io::Result<()> {
    let mut first = 0;
    let mut skip = 0;
    while first < parts.len() {
        if skip == parts[first].len() {
            first += 1;
            skip = 0;
            continue;
        }
        match try_send(socket.fd(), &parts[first..], skip) {
            Ok(sent) => advance(parts, &mut first, &mut skip, sent),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let sent = socket.write(&parts[first][skip..]).await?;
                if sent == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                advance(parts, &mut first, &mut skip, sent);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn advance(parts: &[&[u8]], first: &mut usize, skip: &mut usize, sent: usize) {
    let mut left = sent;
    while left > 0 {
        let room = parts[*first].len() - *skip;
        if left < room {
            *skip += left;
            return;
        }
        left -= room;
        *first += 1;
        *skip = 0;
    }
}

fn try_send(fd: RawFd, parts: &[&[u8]], skip: usize) -> io::Result<usize> {
    let mut vectors: [libc::iovec; IOVECS_MAX] =
        [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; IOVECS_MAX];
    let count = parts.len().min(IOVECS_MAX);
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
