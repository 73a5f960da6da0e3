//! ListConfigResources (key 74, versions 0 to 1; version 0 was ListClientMetricsResources): which resources have a
//! configuration.
//!
//! Owner: the core of the connection. Invariant: a resource is listed once. Must not: list what DescribeConfigs
//! would refuse.

use super::alter_configs::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use super::control::text;
use crate::catalog::{Catalog, ResourceKind};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use std::collections::BTreeSet;

/// The answer from one snapshot of the catalog.
pub fn respond(
    catalog: &Catalog,
    request: &ListConfigResourcesRequest,
    version: i16,
) -> ListConfigResourcesResponse {
    const ALL: [i8; 5] = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
    let asked: BTreeSet<i8> = match version {
        0 => [CLIENT_METRICS].into(),
        _ if request.resource_types.is_empty() => ALL.into(),
        _ => request.resource_types.iter().copied().collect(),
    };
    if !asked.iter().all(|kind| ALL.contains(kind)) {
        let code = ResponseError::UnsupportedVersion.code();
        return ListConfigResourcesResponse::default().with_error_code(code);
    }
    let mut resources = Vec::new();
    for kind in asked {
        let mut add = |name: &str| {
            let resource = ConfigResource::default().with_resource_name(text(name));
            // Version 0 knows one type only, and has no field for it.
            resources.push(if version == 0 { resource } else { resource.with_resource_type(kind) });
        };
        let dynamic = |kind| catalog.dynamic.resources(kind).keys();
        match kind {
            TOPIC => catalog.topics().for_each(|topic| add(&topic.name)),
            BROKER | BROKER_LOGGER => add(&catalog.node_id.to_string()),
            CLIENT_METRICS => dynamic(ResourceKind::ClientMetrics).for_each(|name| add(name)),
            _ => dynamic(ResourceKind::Group).for_each(|name| add(name)),
        }
    }
    ListConfigResourcesResponse::default().with_config_resources(resources)
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{catalog, seen_by_client};
    use super::*;
    use crate::catalog::CatalogChange;

    #[test]
    fn resources_are_listed_by_type() {
        let catalog = catalog(&[("a", 1), ("b", 1)])
            .apply(&[CatalogChange::SetConfigs {
                kind: ResourceKind::ClientMetrics,
                name: "m".to_owned(),
                configs: [("interval.ms".to_owned(), "1000".to_owned())].into(),
            }])
            .expect("applies");
        let ask = |types: &[i8], version| {
            let request = ListConfigResourcesRequest::default().with_resource_types(types.to_vec());
            let seen = seen_by_client(&respond(&catalog, &request, version), version);
            let names: Vec<(String, i8)> = seen
                .config_resources
                .iter()
                .map(|r| (r.resource_name.to_string(), r.resource_type))
                .collect();
            (seen.error_code, names)
        };
        assert_eq!(ask(&[], 0), (0, vec![("m".to_owned(), 16)]));
        assert_eq!(ask(&[2, 2], 1), (0, vec![("a".to_owned(), 2), ("b".to_owned(), 2)]));
        assert_eq!(ask(&[], 1).1.len(), 5);
        assert_eq!(ask(&[3], 1), (35, Vec::new()));
    }
}
