//! Client telemetry (KIP-714): GetTelemetrySubscriptions (key 71) and PushTelemetry (key 72).
//!
//! Owner: the core of the connection. Clients look for these at every start and complain without them. Nothing in
//! this version receives metrics, so that every client gets an id and an empty subscription; what is pushed all the
//! same is bounded, checked and dropped. Invariant: no state is kept for a client. Must not: unpack metrics.

use crate::limits::TELEMETRY_BYTES_MAX;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{
    GetTelemetrySubscriptionsRequest, GetTelemetrySubscriptionsResponse, PushTelemetryRequest,
    PushTelemetryResponse,
};
use uuid::Uuid;

/// When a client asks again whether somebody wants its metrics, milliseconds (Kafka's default).
const PUSH_INTERVAL_MS: i32 = 300_000;
/// zstd, lz4, gzip, snappy: the codecs clients may use, as Kafka lists them.
const COMPRESSION_TYPES: [i8; 4] = [4, 3, 1, 2];

/// The id of the one, empty, subscription as one client sees it.
fn subscription_id(client: Uuid) -> i32 {
    (crc32c::crc32c(client.as_bytes()) >> 1) as i32
}

/// A client's subscription; a client without an id gets one.
pub fn subscriptions(request: &GetTelemetrySubscriptionsRequest) -> GetTelemetrySubscriptionsResponse {
    let client =
        if request.client_instance_id.is_nil() { Uuid::new_v4() } else { request.client_instance_id };
    GetTelemetrySubscriptionsResponse::default()
        .with_client_instance_id(client)
        .with_subscription_id(subscription_id(client))
        .with_accepted_compression_types(COMPRESSION_TYPES.to_vec())
        .with_push_interval_ms(PUSH_INTERVAL_MS)
        .with_telemetry_max_bytes(TELEMETRY_BYTES_MAX as i32)
        .with_delta_temporality(true)
}

/// Takes a push.
pub fn push(request: &PushTelemetryRequest) -> PushTelemetryResponse {
    let client = request.client_instance_id;
    let code = if client.is_nil() {
        ResponseError::InvalidRequest.code()
    } else if request.subscription_id != subscription_id(client) {
        ResponseError::UnknownSubscriptionId.code()
    } else if request.metrics.len() > TELEMETRY_BYTES_MAX {
        ResponseError::TelemetryTooLarge.code()
    } else if request.compression_type != 0 && !COMPRESSION_TYPES.contains(&request.compression_type) {
        ResponseError::UnsupportedCompressionType.code()
    } else {
        0
    };
    PushTelemetryResponse::default().with_error_code(code)
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::seen_by_client;
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_client_gets_an_id_and_keeps_it() {
        let first = seen_by_client(&subscriptions(&GetTelemetrySubscriptionsRequest::default()), 0);
        assert!(!first.client_instance_id.is_nil() && first.requested_metrics.is_empty());
        let request =
            GetTelemetrySubscriptionsRequest::default().with_client_instance_id(first.client_instance_id);
        let again = subscriptions(&request);
        assert_eq!(again.client_instance_id, first.client_instance_id);
        assert_eq!((again.subscription_id, again.error_code), (first.subscription_id, 0));
    }

    #[test]
    fn pushes_are_checked() {
        let client = Uuid::from_u128(77);
        let good = PushTelemetryRequest::default()
            .with_client_instance_id(client)
            .with_subscription_id(subscription_id(client))
            .with_metrics(Bytes::from_static(b"x"));
        let code = |request: PushTelemetryRequest| seen_by_client(&push(&request), 0).error_code;
        assert_eq!(code(good.clone()), 0);
        assert_eq!(code(good.clone().with_client_instance_id(Uuid::nil())), 42);
        assert_eq!(code(good.clone().with_subscription_id(-1)), 117);
        assert_eq!(code(good.clone().with_compression_type(9)), 76);
        assert_eq!(code(good.with_metrics(vec![0; TELEMETRY_BYTES_MAX + 1].into())), 118);
    }
}
