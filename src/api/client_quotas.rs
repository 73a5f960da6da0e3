//! DescribeClientQuotas (key 48) and AlterClientQuotas (key 49), versions 0 to 1 each (KIP-546).
//!
//! Owner: the core of the connection plans and answers, the catalog's writer applies. Invariants: an entity is a
//! user, a client id, both, or an address; every value is a positive number that reads back as it was given.
//! Must not: commit, or throttle anybody (that is `throttle`).

use super::control::{ItemError, commit_failed, text};
use crate::catalog::{Catalog, CatalogChange, Configs, DYNAMIC_ENTRIES_MAX, QuotaEntity};
use crate::quota::{CONNECTION_RATE, FETCH_RATE, MUTATION_RATE, PRODUCE_RATE, REQUEST_PERCENTAGE};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_client_quotas_request::{
    EntityData as AskedEntity, EntryData as AskedEntry, OpData,
};
use kafka_protocol::messages::alter_client_quotas_response as altered;
use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::describe_client_quotas_response::{EntityData, EntryData, ValueData};
use kafka_protocol::messages::{
    AlterClientQuotasRequest, AlterClientQuotasResponse, DescribeClientQuotasRequest,
    DescribeClientQuotasResponse,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, BTreeSet};

const USER: &str = "user";
const CLIENT_ID: &str = "client-id";
const IP: &str = "ip";

/// The longest name in an entity, in bytes.
const NAME_BYTES_MAX: usize = 1024;

const MATCH_EXACT: i8 = 0;
const MATCH_DEFAULT: i8 = 1;
const MATCH_ANY: i8 = 2;

fn invalid<T>(message: impl Into<String>) -> Result<T, ItemError> {
    Err(ItemError::new(ResponseError::InvalidRequest, message))
}

/// The quotas that fit a request's filter, from one snapshot.
pub fn describe(catalog: &Catalog, request: &DescribeClientQuotasRequest) -> DescribeClientQuotasResponse {
    let answer = DescribeClientQuotasResponse::default();
    let filter = match filter(&request.components) {
        Ok(filter) => filter,
        Err(error) => {
            return answer
                .with_error_code(error.code)
                .with_error_message(Some(text(error.message)))
                .with_entries(None);
        }
    };
    let fits = |entity: &&QuotaEntity| {
        let all = filter.iter().all(|(kind, wanted)| {
            let found = entity.get(*kind);
            found.is_some_and(|name| wanted.is_none_or(|wanted| name.as_deref() == wanted))
        });
        all && (!request.strict || entity.len() == filter.len())
    };
    let entries =
        catalog.dynamic.quotas().iter().filter(|(entity, _)| fits(entity)).map(|(entity, values)| {
            let entity = entity.iter().map(|(kind, name)| {
                EntityData::default()
                    .with_entity_type(text(kind.as_str()))
                    .with_entity_name(name.as_deref().map(text))
            });
            let values = values.iter().filter_map(|(key, value)| {
                Some(ValueData::default().with_key(text(key.as_str())).with_value(value.parse().ok()?))
            });
            EntryData::default().with_entity(entity.collect()).with_values(values.collect())
        });
    answer.with_error_message(None).with_entries(Some(entries.collect()))
}

/// What each type of entity must be: `None` for anything, else a name or the default.
fn filter(components: &[ComponentData]) -> Result<BTreeMap<&str, Option<Option<&str>>>, ItemError> {
    let mut filter = BTreeMap::new();
    for component in components {
        let kind = component.entity_type.as_str();
        if ![USER, CLIENT_ID, IP].contains(&kind) {
            let message = format!("Custom entity type '{kind}' not supported");
            return Err(ItemError::new(ResponseError::UnsupportedVersion, message));
        }
        let wanted = match (component.match_type, component._match.as_deref()) {
            (MATCH_EXACT, Some(name)) => Some(Some(name)),
            (MATCH_DEFAULT, None) => Some(None),
            (MATCH_ANY, None) => None,
            (MATCH_EXACT, None) => return invalid("a match by name needs a name"),
            (MATCH_DEFAULT | MATCH_ANY, Some(_)) => return invalid("only a match by name has a name"),
            (other, _) => return invalid(format!("{other} is no kind of match")),
        };
        if filter.insert(kind, wanted).is_some() {
            return invalid(format!("Duplicate filter component entity type '{kind}'"));
        }
    }
    if filter.contains_key(IP) && filter.len() > 1 {
        return invalid(
            "Invalid entity filter component combination, IP filter component should not be used with user or clientId filter component.",
        );
    }
    Ok(filter)
}

/// What a request would do.
#[derive(Debug)]
pub struct Plan {
    /// The changes to commit; empty if there is nothing to do or the request only wants validation.
    pub changes: Vec<CatalogChange>,
    results: Vec<(Echo, Result<(), ItemError>)>,
}

/// An entity as the request named it.
type Echo = Vec<(StrBytes, Option<StrBytes>)>;

/// Checks an AlterClientQuotas request against one snapshot.
pub fn plan(catalog: &Catalog, request: &AlterClientQuotasRequest) -> Plan {
    let mut plan = Plan { changes: Vec::new(), results: Vec::new() };
    let mut next: BTreeMap<QuotaEntity, Configs> = BTreeMap::new();
    for entry in &request.entries {
        let result = check_entry(catalog, &mut next, entry);
        let echo = entry.entity.iter().map(|part| (part.entity_type.clone(), part.entity_name.clone()));
        plan.results.push((echo.collect(), result));
    }
    if !request.validate_only {
        plan.changes =
            next.into_iter().map(|(entity, values)| CatalogChange::SetQuotas { entity, values }).collect();
    }
    plan
}

/// The answer once the changes were committed, or could not be.
pub fn respond(plan: Plan, outcome: Result<(), String>) -> AlterClientQuotasResponse {
    let entries = plan.results.into_iter().map(|(entity, result)| {
        let entity = entity
            .into_iter()
            .map(|(kind, name)| altered::EntityData::default().with_entity_type(kind).with_entity_name(name));
        let entry = altered::EntryData::default().with_entity(entity.collect());
        let error = result.err().or_else(|| outcome.as_ref().err().map(|why| commit_failed(why)));
        match error {
            None => entry.with_error_message(None),
            Some(error) => entry.with_error_code(error.code).with_error_message(Some(text(error.message))),
        }
    });
    AlterClientQuotasResponse::default().with_entries(entries.collect())
}

fn check_entry(
    catalog: &Catalog,
    next: &mut BTreeMap<QuotaEntity, Configs>,
    entry: &AskedEntry,
) -> Result<(), ItemError> {
    let entity = entity_of(&entry.entity)?;
    let present = next.get(&entity).or_else(|| catalog.dynamic.quotas().get(&entity));
    let mut values = present.cloned().unwrap_or_default();
    let mut seen = BTreeSet::new();
    for operation in &entry.ops {
        if !seen.insert(operation.key.as_str()) {
            return invalid(format!("{} is given twice", operation.key.as_str()));
        }
        check_operation(&entity, operation)?;
        if operation.remove {
            values.remove(operation.key.as_str());
        } else {
            values.insert(operation.key.to_string(), operation.value.to_string());
        }
    }
    let all = catalog.dynamic.quotas();
    if !all.contains_key(&entity) && !values.is_empty() && all.len() + next.len() >= DYNAMIC_ENTRIES_MAX {
        let message = format!("there are {DYNAMIC_ENTRIES_MAX} entities with quotas already");
        return Err(ItemError::new(ResponseError::PolicyViolation, message));
    }
    next.insert(entity, values);
    Ok(())
}

fn entity_of(parts: &[AskedEntity]) -> Result<QuotaEntity, ItemError> {
    let mut entity = QuotaEntity::new();
    for part in parts {
        let kind = part.entity_type.as_str();
        if ![USER, CLIENT_ID, IP].contains(&kind) {
            return invalid(format!("Unhandled client quota entity type: {kind}"));
        }
        let name = match part.entity_name.as_deref() {
            Some("") => return invalid(format!("Empty {kind} not supported")),
            Some(name) if name.len() > NAME_BYTES_MAX => return invalid(format!("the {kind} is too long")),
            Some(name) if kind == IP => Some(canonical_ip(name)?),
            name => name.map(str::to_owned),
        };
        if entity.insert(kind.to_owned(), name).is_some() {
            return invalid(format!("Duplicate {kind} entity"));
        }
    }
    if entity.is_empty() {
        return invalid("Invalid empty client quota entity");
    }
    if entity.contains_key(IP) && entity.len() > 1 {
        return invalid(
            "Invalid quota entity combination, IP entity should not be used with user/client ID entity",
        );
    }
    Ok(entity)
}

fn canonical_ip(name: &str) -> Result<String, ItemError> {
    match name.parse::<std::net::IpAddr>() {
        Ok(address) => Ok(address.to_canonical().to_string()),
        Err(_) => invalid(format!("{name} is not a valid IP")),
    }
}

fn check_operation(entity: &QuotaEntity, operation: &OpData) -> Result<(), ItemError> {
    let key = operation.key.as_str();
    let whole = match key {
        PRODUCE_RATE | FETCH_RATE if !entity.contains_key(IP) => true,
        REQUEST_PERCENTAGE | MUTATION_RATE if !entity.contains_key(IP) => false,
        CONNECTION_RATE if entity.contains_key(IP) => true,
        _ => return invalid(format!("Invalid configuration key {key}")),
    };
    let value = operation.value;
    if operation.remove {
        return Ok(());
    }
    if !value.is_finite() || value <= 0.0 {
        return invalid(format!("Quota {key} must be greater than 0"));
    }
    if whole && (value.fract() != 0.0 || value > i64::MAX as f64) {
        return invalid(format!("{key} must be a whole number"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{catalog, seen_by_client};
    use super::*;

    fn entry(parts: &[(&str, Option<&str>)], ops: &[(&str, f64, bool)]) -> AskedEntry {
        let part = |&(kind, name): &(&str, Option<&str>)| {
            AskedEntity::default().with_entity_type(text(kind)).with_entity_name(name.map(text))
        };
        let op = |&(key, value, remove): &(&str, f64, bool)| {
            OpData::default().with_key(text(key)).with_value(value).with_remove(remove)
        };
        AskedEntry::default()
            .with_entity(parts.iter().map(part).collect())
            .with_ops(ops.iter().map(op).collect())
    }

    fn alter(catalog: &Catalog, entries: Vec<AskedEntry>) -> (Catalog, Vec<i16>) {
        let request = AlterClientQuotasRequest::default().with_entries(entries);
        let mut plan = plan(catalog, &seen_by_client(&request, 1));
        let next = catalog.apply(&std::mem::take(&mut plan.changes)).expect("applies");
        let seen = seen_by_client(&respond(plan, Ok(())), 1);
        (next, seen.entries.iter().map(|entry| entry.error_code).collect())
    }

    fn describe_count(
        catalog: &Catalog,
        components: &[(&str, i8, Option<&str>)],
        strict: bool,
    ) -> (i16, usize) {
        let component = |&(kind, how, name): &(&str, i8, Option<&str>)| {
            ComponentData::default()
                .with_entity_type(text(kind))
                .with_match_type(how)
                .with_match(name.map(text))
        };
        let request = DescribeClientQuotasRequest::default()
            .with_components(components.iter().map(component).collect())
            .with_strict(strict);
        let seen = seen_by_client(&describe(catalog, &seen_by_client(&request, 1)), 1);
        (seen.error_code, seen.entries.map_or(0, |entries| entries.len()))
    }

    #[test]
    fn quotas_are_set_described_and_removed() {
        let (catalog, codes) = alter(
            &catalog(&[]),
            vec![
                entry(
                    &[("user", Some("u")), ("client-id", Some("c"))],
                    &[("producer_byte_rate", 1e6, false)],
                ),
                entry(
                    &[("user", None)],
                    &[("request_percentage", 12.5, false), ("consumer_byte_rate", 5.0, false)],
                ),
                entry(&[("user", Some("m"))], &[("controller_mutation_rate", 0.5, false)]),
                entry(&[("ip", Some("::ffff:10.0.0.1"))], &[("connection_creation_rate", 3.0, false)]),
            ],
        );
        assert_eq!(codes, [0, 0, 0, 0]);
        assert_eq!(describe_count(&catalog, &[], false), (0, 4));
        assert_eq!(describe_count(&catalog, &[("user", 2, None)], false), (0, 3));
        assert_eq!(describe_count(&catalog, &[("user", 2, None)], true), (0, 2));
        assert_eq!(describe_count(&catalog, &[("user", 1, None)], false), (0, 1));
        assert_eq!(describe_count(&catalog, &[("user", 0, Some("u"))], false), (0, 1));
        assert_eq!(describe_count(&catalog, &[("ip", 0, Some("10.0.0.1"))], true), (0, 1));
        let values =
            catalog.dynamic.quotas().values().flatten().map(|(_, v)| v.as_str()).collect::<BTreeSet<_>>();
        assert_eq!(values, ["0.5", "1000000", "12.5", "3", "5"].into());
        let (less, codes) = alter(
            &catalog,
            vec![entry(
                &[("user", None)],
                &[("request_percentage", 0.0, true), ("consumer_byte_rate", 0.0, true)],
            )],
        );
        assert_eq!((codes, describe_count(&less, &[], false)), (vec![0], (0, 3)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let rate = ("producer_byte_rate", 1.0, false);
        for (parts, op) in [
            (&[][..], rate),
            (&[("group", Some("g"))], rate),
            (&[("user", Some(""))], rate),
            (&[("user", Some("u")), ("user", None)], rate),
            (&[("ip", Some("1.2.3.4")), ("user", None)], ("connection_creation_rate", 1.0, false)),
            (&[("ip", Some("nowhere"))], ("connection_creation_rate", 1.0, false)),
            (&[("ip", None)], rate),
            (&[("user", None)], ("connection_creation_rate", 1.0, false)),
            (&[("user", None)], ("producer_byte_rate", 0.0, false)),
            (&[("user", None)], ("producer_byte_rate", -1.0, false)),
            (&[("user", None)], ("producer_byte_rate", f64::NAN, false)),
            (&[("user", None)], ("producer_byte_rate", f64::INFINITY, false)),
            (&[("user", None)], ("producer_byte_rate", 1.5, false)),
            (&[("user", None)], ("no_such_rate", 1.0, false)),
        ] {
            let good = entry(&[("user", Some("fine"))], &[rate]);
            let (after, codes) = alter(&catalog(&[]), vec![entry(parts, &[op]), good]);
            assert_eq!(codes, [42, 0], "{parts:?} {op:?}");
            assert_eq!(after.dynamic.quotas().len(), 1);
        }
        for (components, code) in [
            (&[("user", 0, None)][..], 42),
            (&[("user", 1, Some("x"))], 42),
            (&[("user", 9, None)], 42),
            (&[("user", 1, None), ("user", 2, None)], 42),
            (&[("user", 1, None), ("ip", 2, None)], 42),
            (&[("group", 1, None)], 35),
        ] {
            assert_eq!(describe_count(&catalog(&[]), components, false), (code, 0), "{components:?}");
        }
    }
}
