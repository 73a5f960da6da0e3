//! Receives that do not wait: into two places at once, and how much there is.
//!
//! Owner: the connection's core. Invariant: a receive takes what is there and returns; waiting is the caller's.
//! It must not look at the bytes.

use std::io;
use std::os::fd::RawFd;

/// Receives what is there into `first` and, when that is full, `second`; `None` when nothing is there, `Some(0)` at the
/// end of the stream.
pub(super) fn try_receive(fd: RawFd, first: &mut [u8], second: &mut [u8]) -> io::Result<Option<usize>> {
    let mut vectors = [
        libc::iovec { iov_base: first.as_mut_ptr().cast(), iov_len: first.len() },
        libc::iovec { iov_base: second.as_mut_ptr().cast(), iov_len: second.len() },
    ];
    loop {
        // SAFETY: a zeroed msghdr is valid; the vectors point into two slices that are borrowed for the call.
        let count = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = vectors.as_mut_ptr();
            message.msg_iovlen = vectors.len();
            libc::recvmsg(fd, &mut message, libc::MSG_DONTWAIT)
        };
        if count >= 0 {
            return Ok(Some(count as usize));
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock => return Ok(None),
            io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

/// Bytes that can be received without waiting; 0 when that is not known.
pub(super) fn available(fd: RawFd) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int, which outlives the call.
    let code = unsafe { libc::ioctl(fd, libc::FIONREAD, &mut count) };
    if code == 0 { count.max(0) as usize } else { 0 }
}

/// Lets the socket count as readable only when `bytes` are there (or its buffer is full, or the stream ends): one
/// wake-up for much instead of many for little. Linux makes the buffer large enough for it, within `net.ipv4.tcp_rmem`.
pub(super) fn wake_at(fd: RawFd, bytes: usize) {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    let value = std::ptr::from_ref(&bytes).cast();
    // SAFETY: the call reads one int, which outlives it. Should it fail, the socket wakes up for less.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, size) };
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_is_there_fills_the_first_place_and_then_the_second() {
        let (mut peer, own) = UnixStream::pair().expect("a pair of sockets");
        let (mut first, mut second) = ([0; 3], [0; 8]);
        assert_eq!(try_receive(own.as_raw_fd(), &mut first, &mut second).expect("no error"), None);
        peer.write_all(b"abcde").expect("sent");
        assert_eq!(available(own.as_raw_fd()), 5);
        assert_eq!(try_receive(own.as_raw_fd(), &mut first, &mut second).expect("no error"), Some(5));
        assert_eq!((&first, &second[..2]), (b"abc", b"de".as_slice()));
        drop(peer);
        assert_eq!(try_receive(own.as_raw_fd(), &mut first, &mut second).expect("no error"), Some(0));
    }
}
