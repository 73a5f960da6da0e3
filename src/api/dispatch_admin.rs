//! Administrative requests, from a body behind the gate to an answer. See `dispatch.rs`, of which this is a part.
//!
//! Owner: the connection's core. Invariant: a change is answered after the catalog is on disk and every core has
//! it. It must not hold state between requests.

use kafka_protocol::messages::{
    AlterClientQuotasRequest, AlterConfigsRequest, AlterPartitionReassignmentsRequest,
    AlterReplicaLogDirsRequest, DescribeClientQuotasRequest, DescribeQuorumRequest, ElectLeadersRequest,
    GetTelemetrySubscriptionsRequest, IncrementalAlterConfigsRequest, ListConfigResourcesRequest,
    ListPartitionReassignmentsRequest, PushTelemetryRequest, UpdateFeaturesRequest,
};

use super::dispatch::{decode, encode, node_info, planned};
use super::{
    Call, ConnectionContext, Outcome, alter_configs, client_quotas, describe_quorum, features,
    list_config_resources, replicas, telemetry,
};
use crate::rt;
use crate::wire::WireError;
use crate::wire::api_table::*;

/// Handles a request of an API that `dispatch` does not know.
pub(super) async fn handle(context: &ConnectionContext, call: Call, body: &[u8]) -> Outcome {
    let shard = &context.shard;
    let catalog = shard.catalog();
    match call.api_key {
        INCREMENTAL_ALTER_CONFIGS | ALTER_CONFIGS | ALTER_CLIENT_QUOTAS | UPDATE_FEATURES => {
            change(context, call, body).await
        }
        LIST_CONFIG_RESOURCES => {
            let request: ListConfigResourcesRequest = decode(call, body).await?;
            Ok(encode(call, &list_config_resources::respond(&catalog, &request, call.version)))
        }
        DESCRIBE_CLIENT_QUOTAS => {
            let request: DescribeClientQuotasRequest = decode(call, body).await?;
            Ok(encode(call, &client_quotas::describe(&catalog, &request)))
        }
        ELECT_LEADERS => {
            let request: ElectLeadersRequest = decode(call, body).await?;
            Ok(encode(call, &replicas::elect_leaders(&catalog, &request)))
        }
        ALTER_PARTITION_REASSIGNMENTS => {
            let request: AlterPartitionReassignmentsRequest = decode(call, body).await?;
            Ok(encode(call, &replicas::alter_reassignments(&catalog, &request)))
        }
        LIST_PARTITION_REASSIGNMENTS => {
            let _: ListPartitionReassignmentsRequest = decode(call, body).await?;
            Ok(encode(call, &replicas::list_reassignments()))
        }
        ALTER_REPLICA_LOG_DIRS => {
            let request: AlterReplicaLogDirsRequest = decode(call, body).await?;
            Ok(encode(call, &replicas::alter_log_dirs(&catalog, &shard.config.data_dir, &request)))
        }
        DESCRIBE_QUORUM => {
            let request: DescribeQuorumRequest = decode(call, body).await?;
            let node = node_info(context, &catalog);
            let now_ms = rt::wall_ms();
            let response =
                describe_quorum::respond(&catalog, &shard.config, &node, &request, call.version, now_ms);
            Ok(encode(call, &response))
        }
        GET_TELEMETRY_SUBSCRIPTIONS => {
            let request: GetTelemetrySubscriptionsRequest = decode(call, body).await?;
            Ok(encode(call, &telemetry::subscriptions(&request)))
        }
        PUSH_TELEMETRY => {
            let request: PushTelemetryRequest = decode(call, body).await?;
            Ok(encode(call, &telemetry::push(&request)))
        }
        _ => Err(WireError::UnsupportedVersion { api_key: call.api_key, version: call.version }.into()),
    }
}

/// Requests that change the catalog.
async fn change(context: &ConnectionContext, call: Call, body: &[u8]) -> Outcome {
    let shard = &context.shard;
    let config = shard.config_now();
    match call.api_key {
        INCREMENTAL_ALTER_CONFIGS => {
            let request: IncrementalAlterConfigsRequest = decode(call, body).await?;
            let (plan, outcome) = planned(shard, move |catalog| {
                let mut plan = alter_configs::plan_incremental(catalog, &config, &request);
                let changes = std::mem::take(&mut plan.changes);
                (plan, changes)
            })
            .await?;
            Ok(encode(call, &alter_configs::respond_incremental(plan, outcome)))
        }
        ALTER_CONFIGS => {
            let request: AlterConfigsRequest = decode(call, body).await?;
            let (plan, outcome) = planned(shard, move |catalog| {
                let mut plan = alter_configs::plan_replace(catalog, &config, &request);
                let changes = std::mem::take(&mut plan.changes);
                (plan, changes)
            })
            .await?;
            Ok(encode(call, &alter_configs::respond_replace(plan, outcome)))
        }
        ALTER_CLIENT_QUOTAS => {
            let request: AlterClientQuotasRequest = decode(call, body).await?;
            let (plan, outcome) = planned(shard, move |catalog| {
                let mut plan = client_quotas::plan(catalog, &request);
                let changes = std::mem::take(&mut plan.changes);
                (plan, changes)
            })
            .await?;
            Ok(encode(call, &client_quotas::respond(plan, outcome)))
        }
        _ => {
            let request: UpdateFeaturesRequest = decode(call, body).await?;
            let version = call.version;
            let (plan, outcome) = planned(shard, move |catalog| {
                let mut plan = features::plan(catalog, &request, version);
                let changes = std::mem::take(&mut plan.changes);
                (plan, changes)
            })
            .await?;
            Ok(encode(call, &features::respond(plan, outcome, version)))
        }
    }
}
