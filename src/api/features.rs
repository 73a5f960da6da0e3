//! Feature levels (KIP-584): what ApiVersions announces, and UpdateFeatures (key 57, versions 0 to 2).
//!
//! Owner: the core of the connection plans and answers, the catalog's writer applies. Invariants: [`FEATURES`] is the
//! one table; a feature whose level was never set is finalised at the newest level this broker knows. A level of 0
//! means that the feature is off. Must not: list a feature that is not implemented end to end.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::{FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::update_features_response::UpdatableFeatureResult;
use kafka_protocol::messages::{ApiVersionsResponse, UpdateFeaturesRequest, UpdateFeaturesResponse};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeSet;

use super::control::{ItemError, commit_failed, text};
use crate::catalog::{Catalog, CatalogChange};

/// One feature and the levels this broker can work at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Kafka's name for it.
    pub name: &'static str,
    /// The lowest level; 0 means that it can be off.
    pub min: i16,
    /// The newest level, which is the one in effect unless UpdateFeatures chose another.
    pub max: i16,
}

/// Every feature, by name. One line each; Java clients read them from ApiVersions (`transaction.version` 2 switches
/// on KIP-890's second part, `group.version` 1 is KIP-848).
pub const FEATURES: &[Feature] = &[
    Feature { name: "group.version", min: 0, max: 1 },
    // 3.3-IV3 to 4.1-IV1, the range of Kafka 4.1.
    Feature { name: "metadata.version", min: 7, max: 27 },
    // 1: share groups (KIP-932).
    Feature { name: "share.version", min: 0, max: 1 },
    // 1: flexible records; 2: an epoch for each transaction (KIP-890). Clients choose by the level.
    Feature { name: "transaction.version", min: 0, max: 2 },
];

/// The first version of ApiVersions whose clients understand a lowest level of 0 (KAFKA-17011).
const LEVEL_ZERO_VERSION_MIN: i16 = 4;
/// Downgrades that may lose something (`UpgradeType` in UpdateFeatures): 1 is upgrade, 2 safe, 3 unsafe downgrade.
const UPGRADE_ONLY: i8 = 1;
const UNSAFE_DOWNGRADE: i8 = 3;

/// The level of a feature in effect; 0 for one that is unknown or off.
pub fn level(catalog: &Catalog, name: &str) -> i16 {
    let known = FEATURES.iter().find(|feature| feature.name == name);
    known.map_or(0, |feature| level_of(catalog, feature))
}

fn level_of(catalog: &Catalog, feature: &Feature) -> i16 {
    let chosen = catalog.dynamic.feature_level(feature.name);
    chosen.filter(|level| (feature.min..=feature.max).contains(level)).unwrap_or(feature.max)
}

/// Adds supported and finalised features to an answer of ApiVersions.
pub(super) fn announce(
    catalog: &Catalog,
    version: i16,
    response: ApiVersionsResponse,
) -> ApiVersionsResponse {
    let floor = if version < LEVEL_ZERO_VERSION_MIN { 1 } else { 0 };
    let supported = FEATURES.iter().map(|feature| {
        SupportedFeatureKey::default()
            .with_name(StrBytes::from_static_str(feature.name))
            .with_min_version(feature.min.max(floor))
            .with_max_version(feature.max)
    });
    let finalized = FEATURES
        .iter()
        .map(|feature| (feature.name, level_of(catalog, feature)))
        .filter(|(_, level)| *level > 0);
    let finalized = finalized.map(|(name, level)| {
        FinalizedFeatureKey::default()
            .with_name(StrBytes::from_static_str(name))
            .with_min_version_level(level)
            .with_max_version_level(level)
    });
    response
        .with_supported_features(supported.collect())
        .with_finalized_features_epoch(i64::try_from(catalog.sequence).unwrap_or(i64::MAX))
        .with_finalized_features(finalized.collect())
}

/// What a request would do.
#[derive(Debug)]
pub struct Plan {
    /// The changes to commit; empty if there is nothing to do or the request only wants validation.
    pub changes: Vec<CatalogChange>,
    names: Vec<StrBytes>,
    error: Option<ItemError>,
}

/// Checks a request against one snapshot. As in Kafka 4, all updates are made or none.
pub fn plan(catalog: &Catalog, request: &UpdateFeaturesRequest, version: i16) -> Plan {
    let names = request.feature_updates.iter().map(|update| update.feature.clone()).collect();
    let mut plan = Plan { changes: Vec::new(), names, error: None };
    let mut seen = BTreeSet::new();
    for update in &request.feature_updates {
        if !seen.insert(update.feature.as_str()) {
            let message = format!("{} is updated twice", update.feature.as_str());
            plan.error = Some(ItemError::new(ResponseError::InvalidRequest, message));
            break;
        }
        match check(catalog, update, version) {
            Ok(change) => plan.changes.extend(change),
            Err(error) => {
                plan.error = Some(error);
                break;
            }
        }
    }
    if request.validate_only || plan.error.is_some() {
        plan.changes.clear();
    }
    plan
}

fn check(
    catalog: &Catalog,
    update: &FeatureUpdateKey,
    version: i16,
) -> Result<Option<CatalogChange>, ItemError> {
    let name = update.feature.as_str();
    let refuse = |message: String| Err(ItemError::new(ResponseError::InvalidUpdateVersion, message));
    let Some(feature) = FEATURES.iter().find(|feature| feature.name == name) else {
        return refuse(format!("this node does not support {name}"));
    };
    let (asked, present) = (update.max_version_level, level_of(catalog, feature));
    if !(feature.min..=feature.max).contains(&asked) {
        let Feature { min, max, .. } = *feature;
        return refuse(format!("{name} cannot have level {asked}; this node supports {min} to {max}"));
    }
    let upgrade_type = match version {
        0 if update.allow_downgrade => UNSAFE_DOWNGRADE,
        0 => UPGRADE_ONLY,
        _ => update.upgrade_type,
    };
    if !(UPGRADE_ONLY..=UNSAFE_DOWNGRADE).contains(&upgrade_type) {
        let message = format!("{upgrade_type} is no kind of upgrade");
        return Err(ItemError::new(ResponseError::InvalidRequest, message));
    }
    if asked < present && upgrade_type == UPGRADE_ONLY {
        return refuse(format!(
            "{name} is at level {present}; going to {asked} is a downgrade, which was not allowed"
        ));
    }
    let change = CatalogChange::SetFeatureLevel { name: name.to_owned(), level: asked };
    Ok((asked != present).then_some(change))
}

/// The answer once the changes were committed, or could not be.
pub fn respond(plan: Plan, outcome: Result<(), String>, version: i16) -> UpdateFeaturesResponse {
    let error = plan.error.or_else(|| outcome.err().map(|why| commit_failed(&why)));
    let (code, message) = match &error {
        Some(error) => (error.code, Some(text(error.message.as_str()))),
        None => (0, None),
    };
    let mut response =
        UpdateFeaturesResponse::default().with_error_code(code).with_error_message(message.clone());
    if version <= 1 {
        // Up to version 1 each feature has a result of its own; the outcome is the same for all.
        let one = |name| {
            UpdatableFeatureResult::default()
                .with_feature(name)
                .with_error_code(code)
                .with_error_message(message.clone())
        };
        response.results = plan.names.into_iter().map(one).collect();
        response.error_code = 0;
        response.error_message = None;
    }
    response
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{catalog, seen_by_client};
    use super::*;

    fn update(name: &str, level: i16, upgrade_type: i8) -> UpdateFeaturesRequest {
        let mut update = FeatureUpdateKey::default().with_feature(text(name)).with_max_version_level(level);
        update.upgrade_type = upgrade_type;
        UpdateFeaturesRequest::default().with_feature_updates(vec![update])
    }

    #[test]
    fn features_are_finalised_at_the_newest_level_until_somebody_chooses() {
        let catalog = catalog(&[]);
        assert_eq!((level(&catalog, "metadata.version"), level(&catalog, "x")), (27, 0));
        for version in 3..=4 {
            let seen = seen_by_client(&announce(&catalog, version, ApiVersionsResponse::default()), version);
            assert_eq!(seen.supported_features.len(), FEATURES.len());
            assert!(seen.supported_features.iter().all(|f| f.min_version >= 1 || version >= 4));
            let metadata = seen.finalized_features.iter().find(|f| f.name.as_str() == "metadata.version");
            assert_eq!(metadata.map(|f| f.max_version_level), Some(27));
        }
        let lower = plan(&catalog, &update("metadata.version", 25, 2), 1);
        let catalog = catalog.apply(&lower.changes).expect("applies");
        assert_eq!(level(&catalog, "metadata.version"), 25);
        assert_eq!(seen_by_client(&respond(lower, Ok(()), 1), 1).results[0].error_code, 0);
    }

    #[test]
    fn wrong_updates_are_refused_as_a_whole() {
        let catalog = catalog(&[]);
        for (name, level, kind, code) in [
            ("nope", 1, 1, 95),
            ("metadata.version", 28, 1, 95),
            ("metadata.version", 25, 1, 95),
            ("metadata.version", 25, 9, 42),
        ] {
            let refused = plan(&catalog, &update(name, level, kind), 2);
            assert!(refused.changes.is_empty());
            assert_eq!(
                seen_by_client(&respond(refused, Ok(()), 2), 2).error_code,
                code,
                "{name} {level} {kind}"
            );
        }
    }
}
