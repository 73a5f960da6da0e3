//! ApiVersions (key 18): which APIs and versions this broker serves.
//!
//! Owner: the core of the connection. Invariants: any version gets an answer its sender can read: an unknown one
//! gets a version 0 body (KIP-511). The response header is version 0 at every version. Must not: keep a table of
//! its own; the caller passes the one that dispatch uses.

use super::control::NodeInfo;
use super::features;
use crate::catalog::Catalog;
use crate::wire::newer::Addressee;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

/// Kafka's code for it (KIP-1102).
const REBOOTSTRAP_REQUIRED: i16 = 129;
/// The key of this API.
const API_KEY: i16 = 18;
/// The version of the response header, whatever the version of the body.
pub const RESPONSE_HEADER_VERSION: i16 = 0;

/// The answer to a request of a supported version; `table` holds key, lowest and highest version. Feature levels
/// come from `catalog`.
pub fn respond(
    table: &[(i16, i16, i16)],
    catalog: &Catalog,
    request: &ApiVersionsRequest,
    version: i16,
) -> ApiVersionsResponse {
    let named = version < 3
        || (is_software_name(&request.client_software_name)
            && is_software_name(&request.client_software_version));
    if !named {
        return ApiVersionsResponse::default().with_error_code(ResponseError::InvalidRequest.code());
    }
    let response = ApiVersionsResponse::default().with_api_keys(table.iter().map(entry).collect());
    // Tagged fields, which exist since version 3.
    if version >= 3 { features::announce(catalog, version, response) } else { response }
}

/// The answer to a version that is not in the table. It is to be encoded with version 0 and names the versions of
/// ApiVersions itself, with which the client asks again.
pub fn respond_unsupported(table: &[(i16, i16, i16)]) -> ApiVersionsResponse {
    ApiVersionsResponse::default()
        .with_error_code(ResponseError::UnsupportedVersion.code())
        .with_api_keys(table.iter().filter(|(key, ..)| *key == API_KEY).map(entry).collect())
}

/// Whether a client that says whom it means (version 5) means us.
pub fn is_meant(node: &NodeInfo, addressee: &Addressee) -> bool {
    let cluster = addressee.cluster_id.as_ref().is_none_or(|id| *id == node.cluster_id);
    let own = node.endpoints().any(|(id, _)| id == addressee.node_id);
    cluster && (addressee.node_id == -1 || own)
}

/// The answer to a client that means another cluster or node: it must begin with its bootstrap servers again.
pub fn rebootstrap() -> ApiVersionsResponse {
    ApiVersionsResponse::default().with_error_code(REBOOTSTRAP_REQUIRED)
}

fn entry(&(key, min, max): &(i16, i16, i16)) -> ApiVersion {
    ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
}

/// Letters, digits, dots and dashes, with a letter or digit at both ends (KIP-511).
fn is_software_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{catalog, seen_by_client};
    use super::super::control::text;
    use super::*;

    const TABLE: &[(i16, i16, i16)] = &[(0, 0, 13), (18, 0, 4)];

    fn request(name: &str) -> ApiVersionsRequest {
        ApiVersionsRequest::default()
            .with_client_software_name(text(name))
            .with_client_software_version(text("1.0"))
    }

    #[test]
    fn every_version_sees_the_table() {
        for version in 0..=4 {
            let seen = seen_by_client(
                &respond(TABLE, &catalog(&[]), &request("apache-kafka-java"), version),
                version,
            );
            let keys: Vec<_> =
                seen.api_keys.iter().map(|k| (k.api_key, k.min_version, k.max_version)).collect();
            assert_eq!((seen.error_code, keys.as_slice()), (0, TABLE), "version {version}");
        }
    }

    #[test]
    fn an_unsupported_version_gets_error_35_readable_at_version_0() {
        let seen = seen_by_client(&respond_unsupported(TABLE), 0);
        assert_eq!((seen.error_code, seen.api_keys.len()), (35, 1));
        assert_eq!((seen.api_keys[0].api_key, seen.api_keys[0].max_version), (18, 4));
    }

    #[test]
    fn a_malformed_software_name_is_refused_from_version_3() {
        for bad in ["", "-x", "a b", "x."] {
            assert_eq!(respond(TABLE, &catalog(&[]), &request(bad), 3).error_code, 42, "{bad}");
            assert_eq!(respond(TABLE, &catalog(&[]), &request(bad), 2).error_code, 0, "{bad}");
        }
        assert_eq!(respond(TABLE, &catalog(&[]), &request("a"), 4).error_code, 0);
    }
}
