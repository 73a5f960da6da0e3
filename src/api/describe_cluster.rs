//! DescribeCluster (key 60, versions 0 to 2): the brokers of the cluster.
//!
//! Owner: the core of the connection. Invariants: the cluster is this node. Must not: do I/O.

use super::control::{NodeInfo, cluster_operations, text};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};

const ENDPOINT_BROKERS: i8 = 1;
const ENDPOINT_CONTROLLERS: i8 = 2;

/// The answer. A request for the controllers' endpoints is refused, as by a Kafka broker: there are none.
pub fn respond(node: &NodeInfo, request: &DescribeClusterRequest) -> DescribeClusterResponse {
    let refused = |error: ResponseError, message: String| {
        DescribeClusterResponse::default()
            .with_error_code(error.code())
            .with_error_message(Some(text(message)))
            .with_endpoint_type(ENDPOINT_BROKERS)
    };
    match request.endpoint_type {
        ENDPOINT_BROKERS => {}
        ENDPOINT_CONTROLLERS => {
            let message = "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER";
            return refused(ResponseError::MismatchedEndpointType, message.to_owned());
        }
        other => {
            return refused(
                ResponseError::UnsupportedEndpointType,
                format!("Unsupported endpoint type {other}"),
            );
        }
    }
    let endpoint = |(id, port): (i32, u16)| {
        DescribeClusterBroker::default()
            .with_broker_id(BrokerId(id))
            .with_host(text(node.host.as_str()))
            .with_port(port.into())
            .with_rack(node.rack.as_deref().map(text))
    };
    DescribeClusterResponse::default()
        .with_error_message(None)
        .with_endpoint_type(ENDPOINT_BROKERS)
        .with_cluster_id(text(node.cluster_id.as_str()))
        .with_controller_id(BrokerId(node.node_id))
        .with_brokers(node.endpoints().map(endpoint).collect())
        .with_cluster_authorized_operations(cluster_operations(request.include_cluster_authorized_operations))
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{node, seen_by_client};
    use super::*;

    #[test]
    fn every_version_sees_this_node() {
        for version in 0..=2 {
            let request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
            let seen = seen_by_client(&respond(&node(), &seen_by_client(&request, version)), version);
            assert_eq!(
                (seen.error_code, seen.controller_id.0, seen.cluster_authorized_operations),
                (0, 1, 8096)
            );
            assert_eq!(seen.cluster_id.as_str(), node().cluster_id);
            assert_eq!(
                (seen.brokers.len(), seen.brokers[0].port, seen.brokers[0].is_fenced),
                (1, 9092, false)
            );
        }
    }

    #[test]
    fn other_endpoint_types_are_refused() {
        for (kind, code) in [(2, 114), (7, 115)] {
            let request = DescribeClusterRequest::default().with_endpoint_type(kind);
            let seen = seen_by_client(&respond(&node(), &request), 1);
            assert_eq!((seen.error_code, seen.brokers.len()), (code, 0));
        }
    }
}
