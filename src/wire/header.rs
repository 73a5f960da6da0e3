//! Request and response headers, and the frame's size field.
//!
//! Owner: nobody; pure. Spec: Kafka protocol guide, "Request Header"; KIP-482 (header version 2), KIP-511 (the
//! ApiVersions response header is never flexible, so that any client can read it).
//!
//! A frame is `size: i32 | header | body`; here `frame` always means the part after `size`.

use super::api_table::{API_VERSIONS, is_flexible};
use super::primitives::{Reader, WireError, Writer};

/// The header of one request. Borrows the client id from the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    /// Which API is called.
    pub api_key: i16,
    /// In which version.
    pub api_version: i16,
    /// To be sent back in the response.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<&'a str>,
    /// Size of the header: the offset of the body in the frame, in bytes.
    pub header_size: usize,
}

impl<'a> RequestHeader<'a> {
    /// Reads the header of `frame` (without the size field). It works for APIs and versions that are not served
    /// too, so that those can be refused with the right correlation id. A prefix of the frame is enough as long
    /// as it holds the header; otherwise [`WireError::Truncated`].
    pub fn parse(frame: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(frame);
        let api_key = reader.i16()?;
        let api_version = reader.i16()?;
        let correlation_id = reader.i32()?;
        // Not compact even in header version 2: KIP-482 kept it readable for brokers that know no better.
        let client_id = reader.nullable_string(false)?;
        reader.skip_tagged_fields(is_flexible(api_key, api_version))?;
        Ok(RequestHeader { api_key, api_version, correlation_id, client_id, header_size: reader.position() })
    }
}

/// Response header version: 1 (with tagged fields) for flexible versions, else 0; ApiVersions always 0.
pub fn response_header_version(api_key: i16, version: i16) -> i16 {
    i16::from(api_key != API_VERSIONS && is_flexible(api_key, version))
}

/// Appends the size field (zero for now) and the response header; the body goes behind it. Returns the position
/// of the size field for [`patch_frame_size`].
pub fn begin_response(out: &mut Vec<u8>, api_key: i16, version: i16, correlation_id: i32) -> usize {
    let start = out.len();
    let mut writer = Writer::new(out);
    writer.i32(0);
    writer.i32(correlation_id);
    writer.no_tagged_fields(response_header_version(api_key, version) == 1);
    start
}

/// Sets the size field at `start` to what follows it in `out`, plus `extra_bytes` that are sent from elsewhere
/// (record bytes of a fetch). Panics if a response of ours is over 2 GiB: limits must have prevented that.
pub fn patch_frame_size(out: &mut [u8], start: usize, extra_bytes: usize) {
    let size_bytes = out.len() - start - 4 + extra_bytes;
    let size = i32::try_from(size_bytes).expect("a response is under 2 GiB");
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::{ApiKey, RequestHeader as TheirHeader};
    use kafka_protocol::protocol::{Encodable, StrBytes};

    use super::super::api_table::SUPPORTED;
    use super::*;

    #[test]
    fn headers_of_every_api_and_version_are_read() {
        for range in SUPPORTED {
            let api = ApiKey::try_from(range.key).expect("known key");
            for version in range.min..=range.max {
                let theirs = TheirHeader::default()
                    .with_request_api_key(range.key)
                    .with_request_api_version(version)
                    .with_correlation_id(77)
                    .with_client_id(Some(StrBytes::from_static_str("me")));
                let mut frame = BytesMut::new();
                theirs.encode(&mut frame, api.request_header_version(version)).expect("encodes");
                let header_size = frame.len();
                frame.extend_from_slice(b"body");
                let ours = RequestHeader::parse(&frame).expect("parses");
                assert_eq!((ours.api_key, ours.api_version, ours.correlation_id), (range.key, version, 77));
                assert_eq!((ours.client_id, ours.header_size), (Some("me"), header_size));
                assert_eq!(response_header_version(range.key, version), api.response_header_version(version));
                for cut in 0..header_size {
                    assert!(
                        RequestHeader::parse(&frame[..cut]).is_err(),
                        "{} v{version} cut {cut}",
                        range.name
                    );
                }
            }
        }
    }

    #[test]
    fn an_unknown_api_still_yields_its_correlation_id() {
        let frame = [0x7f, 0xff, 0, 9, 0, 0, 0, 5, 0xff, 0xff];
        let header = RequestHeader::parse(&frame).expect("parses");
        assert_eq!((header.api_key, header.correlation_id, header.client_id), (0x7fff, 5, None));
    }

    #[test]
    fn frame_size_counts_what_is_sent_from_elsewhere() {
        let mut out = vec![9, 9];
        let start = begin_response(&mut out, 1, 12, 42);
        out.extend_from_slice(b"body");
        patch_frame_size(&mut out, start, 100);
        assert_eq!(out, [&[9, 9, 0, 0, 0, 109, 0, 0, 0, 42, 0][..], b"body"].concat());
    }
}
