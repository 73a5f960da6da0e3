//! A small blocking client of the Kafka protocol, for the command line: any broker, no broker code.
//!
//! Owner: the command that runs. Invariants: versions are agreed with each broker before anything else is asked; a
//! reply larger than [`REPLY_BYTES_MAX`] is refused before memory is taken for it. Must not: be used by the broker.

mod cluster;
mod records;

pub(super) use cluster::{Cluster, Endpoint, PartitionId};
pub(super) use records::{Record, decode_records};

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

/// The largest reply that is read, bytes: a fetch of ours asks for far less.
const REPLY_BYTES_MAX: usize = 128 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CLIENT_ID: &str = "ringlog-cli";

/// What a command ends with when it cannot go on: a sentence.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// The network.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    /// The other side is no broker, or sends what it should not.
    #[error("{0}")]
    Protocol(String),
    /// The broker said no.
    #[error("{0}")]
    Refused(String),
}

pub(super) type Result<T> = std::result::Result<T, ClientError>;

/// A refusal in the form `what: CODE (message)`.
pub(super) fn refused(what: &str, code: i16, message: Option<&str>) -> ClientError {
    let name = kafka_protocol::ResponseError::try_from_code(code)
        .map_or_else(|| format!("error {code}"), |error| format!("{error:?}"));
    match message.filter(|message| !message.is_empty()) {
        Some(message) => ClientError::Refused(format!("{what}: {name}: {message}")),
        None => ClientError::Refused(format!("{what}: {name}")),
    }
}

/// Turns an error code into a result.
pub(super) fn check(what: &str, code: i16, message: Option<&str>) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(refused(what, code, message)) }
}

/// A string for a request.
pub(super) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// One connection to one broker.
pub(super) struct Connection {
    address: String,
    stream: TcpStream,
    versions: Vec<(i16, i16, i16)>,
    correlation_id: i32,
}

impl Connection {
    /// Connects and agrees on versions.
    pub(super) fn open(address: &str, timeout: Duration) -> Result<Connection> {
        let io = |error| ClientError::Io(address.to_owned(), error);
        let mut last = std::io::Error::other("no address");
        let mut found = None;
        for candidate in address.to_socket_addrs().map_err(io)? {
            match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    found = Some(stream);
                    break;
                }
                Err(error) => last = error,
            }
        }
        let stream = found.ok_or(last).map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        stream.set_read_timeout(Some(timeout)).map_err(io)?;
        stream.set_write_timeout(Some(timeout)).map_err(io)?;
        let mut connection =
            Connection { address: address.to_owned(), stream, versions: Vec::new(), correlation_id: 0 };
        // Version 0 is understood by everybody.
        let answer = connection.exchange(0, &ApiVersionsRequest::default())?;
        check("ApiVersions", answer.error_code, None)?;
        connection.versions =
            answer.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect();
        Ok(connection)
    }

    /// The version of an API to use: the newest that both sides and the caller (`min` to `max`) know.
    pub(super) fn version<R: Request>(&self, min: i16, max: i16) -> Result<i16> {
        let known = R::VERSIONS;
        let name = ApiKey::try_from(R::KEY).map_or_else(|_| R::KEY.to_string(), |key| format!("{key:?}"));
        let Some(&(_, lowest, newest)) = self.versions.iter().find(|(key, ..)| *key == R::KEY) else {
            return Err(ClientError::Protocol(format!("{} does not serve {name}", self.address)));
        };
        let version = newest.min(max).min(known.max);
        if version < lowest.max(min).max(known.min) {
            return Err(ClientError::Protocol(format!(
                "{} serves {name} {lowest} to {newest}, which this command does not speak",
                self.address
            )));
        }
        Ok(version)
    }

    /// Sends a request in the newest version between `min` and `max`, and reads the answer.
    pub(super) fn call<R: Request>(
        &mut self,
        min: i16,
        max: i16,
        request: impl FnOnce(i16) -> R,
    ) -> Result<R::Response> {
        let version = self.version::<R>(min, max)?;
        self.exchange(version, &request(version))
    }

    fn exchange<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        self.send(version, request)?;
        let frame = self.receive().map_err(|error| ClientError::Io(self.address.clone(), error))?;
        self.decode::<R>(version, frame)
    }

    /// Sends a request that has no answer (produce with acks=0).
    pub(super) fn send<R: Request>(&mut self, version: i16, request: &R) -> Result<()> {
        self.correlation_id += 1;
        let wrong = |error| ClientError::Protocol(format!("the request cannot be encoded: {error}"));
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        let mut frame = BytesMut::from(&[0; 4][..]);
        header.encode(&mut frame, R::header_version(version)).map_err(wrong)?;
        request.encode(&mut frame, version).map_err(wrong)?;
        let size = u32::try_from(frame.len() - 4)
            .map_err(|_| ClientError::Protocol("the request is too large".to_owned()))?;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        self.stream.write_all(&frame).map_err(|error| ClientError::Io(self.address.clone(), error))
    }

    fn receive(&mut self) -> std::io::Result<Bytes> {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix)?;
        let size = u32::from_be_bytes(prefix) as usize;
        if size > REPLY_BYTES_MAX {
            return Err(std::io::Error::other(format!("a reply of {size} bytes: this is no Kafka broker")));
        }
        let mut frame = vec![0; size];
        self.stream.read_exact(&mut frame)?;
        Ok(Bytes::from(frame))
    }

    fn decode<R: Request>(&self, version: i16, mut frame: Bytes) -> Result<R::Response> {
        let wrong = |what: String| {
            ClientError::Protocol(format!("{}: the reply is not understood: {what}", self.address))
        };
        let header =
            ResponseHeader::decode(&mut frame, <R::Response as HeaderVersion>::header_version(version))
                .map_err(|error| wrong(error.to_string()))?;
        if header.correlation_id != self.correlation_id {
            return Err(wrong(format!("it answers request {}", header.correlation_id)));
        }
        R::Response::decode(&mut frame, version).map_err(|error| wrong(error.to_string()))
    }
}
