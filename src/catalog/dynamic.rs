//! What can be set while the broker runs and is no topic: configurations of brokers, groups and client metrics,
//! client quotas, feature levels.
//!
//! Owner: part of a catalog snapshot, shared by `Arc` so that a change of topics does not copy it. Invariants: a
//! resource or entity without values is not kept; at most [`DYNAMIC_ENTRIES_MAX`] of each kind. Must not: know what
//! a key means (that is `config` and `api`).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Resources of one kind, or quota entities, that the catalog takes.
pub const DYNAMIC_ENTRIES_MAX: usize = 10_000;

/// Values by key, in text form.
pub type Configs = BTreeMap<String, String>;

/// Who a quota is for: `user`, `client-id` or `ip` by name; no name stands for the default of that type.
pub type QuotaEntity = BTreeMap<String, Option<String>>;

/// What a dynamic configuration belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceKind {
    /// A broker by its id, or all of them by the empty name.
    Broker,
    /// A client metrics subscription (KIP-714).
    ClientMetrics,
    /// A group (KIP-848).
    Group,
}

/// The dynamic part of the catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dynamic {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    brokers: BTreeMap<String, Configs>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    client_metrics: BTreeMap<String, Configs>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<String, Configs>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "as_list")]
    quotas: BTreeMap<QuotaEntity, Configs>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    feature_levels: BTreeMap<String, i16>,
}

impl Dynamic {
    /// The resources of one kind that have values.
    pub fn resources(&self, kind: ResourceKind) -> &BTreeMap<String, Configs> {
        match kind {
            ResourceKind::Broker => &self.brokers,
            ResourceKind::ClientMetrics => &self.client_metrics,
            ResourceKind::Group => &self.groups,
        }
    }

    /// The values of one resource, if it has any.
    pub fn configs(&self, kind: ResourceKind, name: &str) -> Option<&Configs> {
        self.resources(kind).get(name)
    }

    /// The quotas by entity.
    pub fn quotas(&self) -> &BTreeMap<QuotaEntity, Configs> {
        &self.quotas
    }

    /// The level chosen for a feature, if one was.
    pub fn feature_level(&self, name: &str) -> Option<i16> {
        self.feature_levels.get(name).copied()
    }

    /// Replaces the values of a resource; false when there are too many resources.
    pub(super) fn set_configs(&mut self, kind: ResourceKind, name: &str, configs: &Configs) -> bool {
        let all = match kind {
            ResourceKind::Broker => &mut self.brokers,
            ResourceKind::ClientMetrics => &mut self.client_metrics,
            ResourceKind::Group => &mut self.groups,
        };
        replace(all, name.to_owned(), configs)
    }

    /// Replaces the quotas of an entity; false when there are too many entities.
    pub(super) fn set_quotas(&mut self, entity: &QuotaEntity, values: &Configs) -> bool {
        replace(&mut self.quotas, entity.clone(), values)
    }

    pub(super) fn set_feature_level(&mut self, name: &str, level: i16) {
        self.feature_levels.insert(name.to_owned(), level);
    }
}

fn replace<K: Ord>(all: &mut BTreeMap<K, Configs>, key: K, values: &Configs) -> bool {
    if values.is_empty() {
        all.remove(&key);
        return true;
    }
    if all.len() >= DYNAMIC_ENTRIES_MAX && !all.contains_key(&key) {
        return false;
    }
    all.insert(key, values.clone());
    true
}

/// Keys of a JSON object are strings, an entity is none.
mod as_list {
    use super::{BTreeMap, Configs, QuotaEntity};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        quotas: &BTreeMap<QuotaEntity, Configs>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        quotas.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<QuotaEntity, Configs>, D::Error> {
        Ok(Vec::<(QuotaEntity, Configs)>::deserialize(deserializer)?.into_iter().collect())
    }
}
