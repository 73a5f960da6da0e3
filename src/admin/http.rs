//! One HTTP/1.1 exchange: a GET without body, an answer, the end of the connection.
//!
//! Owner: an admin thread. Invariants: at most `ADMIN_REQUEST_BYTES_MAX` are read, and the exchange ends by its
//! deadline whatever the peer does; nothing of the request is echoed.
//! It must not know what is served.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::limits::ADMIN_REQUEST_BYTES_MAX;

/// What goes back.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// Plain text.
    pub(super) fn text(status: u16, text: &str) -> Answer {
        Answer { status, content_type: "text/plain; charset=utf-8", body: text.as_bytes().to_vec() }
    }
}

/// Reads one request, lets `answer` make what goes back from path and query, and sends it.
pub(super) fn serve(
    stream: &TcpStream,
    time_max: Duration,
    answer: impl FnOnce(&str, &str) -> Answer,
) -> io::Result<()> {
    let deadline = Instant::now() + time_max;
    let head = read_head(stream, deadline)?;
    let reply = match parse(&head) {
        Ok((path, query)) => answer(path, query),
        Err(status) => Answer::text(status, "GET / HTTP/1.1 is what is understood here\n"),
    };
    let reason = match reply.status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    };
    let mut out = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        reply.status,
        reply.content_type,
        reply.body.len()
    )
    .into_bytes();
    out.extend_from_slice(&reply.body);
    let mut sent = 0;
    while sent < out.len() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match (&mut &*stream).write(&out[sent..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.shutdown(std::net::Shutdown::Write)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Everything up to the empty line.
fn read_head(stream: &TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match (&mut &*stream).read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => head.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if head.windows(4).any(|end| end == b"\r\n\r\n") {
            return Ok(head);
        }
        if head.len() > ADMIN_REQUEST_BYTES_MAX {
            return Err(io::Error::other("the request is too long"));
        }
    }
}

/// Path and query of a request head, or the status that refuses it.
fn parse(head: &[u8]) -> Result<(&str, &str), u16> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| 400u16)?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    if !version.is_some_and(|version| version.starts_with("HTTP/1.")) || words.next().is_some() {
        return Err(400);
    }
    if method != Some("GET") {
        return Err(405);
    }
    let target = target.filter(|target| target.starts_with('/')).ok_or(400u16)?;
    Ok(target.split_once('?').unwrap_or((target, "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines() {
        assert_eq!(parse(b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"), Ok(("/a", "b=c")));
        assert_eq!(parse(b"GET / HTTP/1.0\r\n\r\n"), Ok(("/", "")));
        assert_eq!(parse(b"POST / HTTP/1.1\r\n\r\n"), Err(405));
        for wrong in ["", "GET", "GET /", "GET / HTTP/2", "GET x HTTP/1.1", "GET / HTTP/1.1 y", "\u{0}\u{0}"]
        {
            assert_eq!(parse(wrong.as_bytes()), Err(400), "{wrong}");
        }
        assert_eq!(parse(&[0xff, 0xfe, b'\r']), Err(400));
    }
}
