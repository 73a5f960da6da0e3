//! Client quotas: who is limited to what, and how much of it was used.
//!
//! Owner: one core. Every core has the table of limits; the use of one limit is accounted on one core only, its
//! *home* (by a hash of its name), so that a client with connections on several cores gets its rate once and not
//! once a core. Invariants: without quotas nothing is looked up or counted; at most [`QUOTA_METERS_MAX`] meters a
//! core. Spec: KIP-13, KIP-55, KIP-124, KIP-546, KIP-599, KIP-612. Must not: know the protocol.

mod bucket;
mod meter;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::catalog::{Configs, QuotaEntity};
use crate::limits::{QUOTA_METERS_MAX, THROTTLE_MS_MAX};
use bucket::Bucket;
use meter::Meter;

/// Keys of client quotas, as Describe- and AlterClientQuotas name them.
pub const PRODUCE_RATE: &str = "producer_byte_rate";
/// Bytes a second that a client may fetch.
pub const FETCH_RATE: &str = "consumer_byte_rate";
/// Hundredths of one core's time that a client may use.
pub const REQUEST_PERCENTAGE: &str = "request_percentage";
/// Partitions a second that a client may create and delete.
pub const MUTATION_RATE: &str = "controller_mutation_rate";
/// Connections a second that an address may open.
pub const CONNECTION_RATE: &str = "connection_creation_rate";

/// The longest throttling for [`REQUEST_PERCENTAGE`], milliseconds: one window, as in Kafka.
const REQUEST_THROTTLE_MS_MAX: u64 = 1000;

/// One limit that applies to a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Whose use counts together.
    name: Arc<str>,
    /// What may be used a second.
    rate: f64,
    throttle_ms_max: u64,
    kind: LimitKind,
}

/// How the use of a limit is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
enum LimitKind {
    /// As a rate over windows.
    Rate,
    /// With a token bucket.
    Bucket,
}

/// All limits that apply to a client.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClientLimits {
    /// Request bytes of produces.
    pub produce: Option<Limit>,
    /// Response bytes of fetches.
    pub fetch: Option<Limit>,
    /// Time of a core, in percent.
    pub request: Option<Limit>,
    /// Partitions created and deleted.
    pub mutation: Option<Limit>,
}

impl Limit {
    /// The core that keeps account of this limit.
    pub fn home(&self, cores: usize) -> usize {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        (hasher.finish() % cores as u64) as usize
    }

    /// What may be used in the whole window over which rates are measured.
    pub fn window_amount(&self) -> f64 {
        self.rate * meter::FULL_WINDOWS_S
    }
}

/// Quotas on one core.
#[derive(Default)]
pub struct Quotas {
    table: RefCell<BTreeMap<QuotaEntity, Configs>>,
    meters: RefCell<HashMap<Arc<str>, Meter>>,
    buckets: RefCell<HashMap<Arc<str>, Bucket>>,
    limits_clients: Cell<bool>,
    limits_ips: Cell<bool>,
    generation: Cell<u64>,
}

impl Quotas {
    /// Takes a new table.
    pub fn set(&self, table: &BTreeMap<QuotaEntity, Configs>) {
        if *self.table.borrow() == *table {
            return;
        }
        self.limits_ips.set(table.keys().any(|entity| entity.contains_key("ip")));
        self.limits_clients.set(table.keys().any(|entity| !entity.contains_key("ip")));
        self.table.replace(table.clone());
        self.generation.set(self.generation.get() + 1);
    }

    /// Whether any quota for users or client ids is set.
    pub fn limits_clients(&self) -> bool {
        self.limits_clients.get()
    }

    /// Whether any quota for addresses is set.
    pub fn limits_ips(&self) -> bool {
        self.limits_ips.get()
    }

    /// Grows with every change of the table: limits that were looked up before are outdated.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// The limits of a client; Kafka's order of precedence, for each kind of quota by itself.
    pub fn client_limits(&self, user: &str, client_id: &str) -> ClientLimits {
        ClientLimits {
            produce: self.client_limit(PRODUCE_RATE, user, client_id, THROTTLE_MS_MAX),
            fetch: self.client_limit(FETCH_RATE, user, client_id, THROTTLE_MS_MAX),
            request: self.client_limit(REQUEST_PERCENTAGE, user, client_id, REQUEST_THROTTLE_MS_MAX),
            mutation: self
                .client_limit(MUTATION_RATE, user, client_id, THROTTLE_MS_MAX)
                .map(|limit| Limit { kind: LimitKind::Bucket, ..limit }),
        }
    }

    fn client_limit(&self, key: &str, user: &str, client_id: &str, throttle_ms_max: u64) -> Option<Limit> {
        let users = [Some(Some(user)), Some(None), None];
        let clients = [Some(Some(client_id)), Some(None), None];
        // User and client, user alone, then the same with the default user, at last the client alone.
        for of_user in users {
            for of_client in clients {
                let Some(rate) = self.rate(key, &[("user", of_user), ("client-id", of_client)]) else {
                    continue;
                };
                let user = of_user.map_or("", |_| user);
                let client_id = of_client.map_or("", |_| client_id);
                let name = format!("{key}/{}:{user}/{client_id}", user.len());
                return Some(Limit { name: name.into(), rate, throttle_ms_max, kind: LimitKind::Rate });
            }
        }
        None
    }

    /// The limit of an address on new connections.
    pub fn ip_limit(&self, ip: &str) -> Option<Limit> {
        let named = self.rate(CONNECTION_RATE, &[("ip", Some(Some(ip)))]);
        let rate = named.or_else(|| self.rate(CONNECTION_RATE, &[("ip", Some(None))]))?;
        Some(Limit {
            name: format!("{CONNECTION_RATE}/{ip}").into(),
            rate,
            throttle_ms_max: REQUEST_THROTTLE_MS_MAX,
            kind: LimitKind::Rate,
        })
    }

    fn rate(&self, key: &str, entity: &[(&str, Option<Option<&str>>)]) -> Option<f64> {
        let entity: QuotaEntity = entity
            .iter()
            .filter_map(|(kind, name)| Some(((*kind).to_owned(), (*name)?.map(str::to_owned))))
            .collect();
        self.table.borrow().get(&entity)?.get(key)?.parse().ok()
    }

    /// On the home core of `limit`: notes that `amount` was used; for how many milliseconds the client must pause
    /// so that its rate comes back to the limit.
    pub fn record(&self, limit: &Limit, amount: f64, now_ms: i64) -> u64 {
        if limit.kind == LimitKind::Bucket {
            let take = |bucket: &mut Bucket| bucket.take(amount, limit.rate, now_ms);
            return self.with_bucket(limit, now_ms, take).min(limit.throttle_ms_max);
        }
        let mut meters = self.meters.borrow_mut();
        if meters.len() >= QUOTA_METERS_MAX && !meters.contains_key(&limit.name) {
            meters.retain(|_, meter| !meter.is_idle(now_ms));
            if meters.len() >= QUOTA_METERS_MAX {
                // Peers may invent client ids: somebody's account starts anew.
                let victim = meters.keys().next().cloned();
                victim.and_then(|name| meters.remove(&name));
            }
        }
        let meter = meters.entry(limit.name.clone()).or_default();
        meter.record(amount, now_ms);
        meter.throttle_ms(limit.rate, now_ms).min(limit.throttle_ms_max)
    }

    /// On the home core of a limit with a bucket: what may still be used at once; below zero it is overdrawn.
    pub fn balance(&self, limit: &Limit, now_ms: i64) -> f64 {
        self.with_bucket(limit, now_ms, |bucket| bucket.balance(limit.rate, now_ms))
    }

    fn with_bucket<R>(&self, limit: &Limit, now_ms: i64, work: impl FnOnce(&mut Bucket) -> R) -> R {
        let mut buckets = self.buckets.borrow_mut();
        if buckets.len() >= QUOTA_METERS_MAX && !buckets.contains_key(&limit.name) {
            buckets.retain(|_, bucket| !bucket.is_idle(now_ms));
            if buckets.len() >= QUOTA_METERS_MAX {
                let victim = buckets.keys().next().cloned();
                victim.and_then(|name| buckets.remove(&name));
            }
        }
        let full = || Bucket::full(limit.rate, now_ms);
        work(buckets.entry(limit.name.clone()).or_insert_with(full))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(parts: &[(&str, Option<&str>)]) -> QuotaEntity {
        parts.iter().map(|(kind, name)| ((*kind).to_owned(), name.map(str::to_owned))).collect()
    }

    /// Parts of an entity, key, value.
    type Entry<'a> = (&'a [(&'a str, Option<&'a str>)], &'a str, &'a str);

    fn quotas(entries: &[Entry<'_>]) -> Quotas {
        let mut table: BTreeMap<QuotaEntity, Configs> = BTreeMap::new();
        for (parts, key, value) in entries {
            table.entry(entity(parts)).or_default().insert((*key).to_owned(), (*value).to_owned());
        }
        let quotas = Quotas::default();
        quotas.set(&table);
        quotas
    }

    #[test]
    fn the_most_specific_entity_wins_for_each_key() {
        let quotas = quotas(&[
            (&[("user", Some("u")), ("client-id", Some("c"))], PRODUCE_RATE, "1"),
            (&[("user", Some("u")), ("client-id", None)], PRODUCE_RATE, "2"),
            (&[("user", Some("u"))], PRODUCE_RATE, "3"),
            (&[("user", None)], PRODUCE_RATE, "4"),
            (&[("client-id", Some("c"))], PRODUCE_RATE, "5"),
            (&[("client-id", None)], FETCH_RATE, "6"),
            (&[("ip", None)], CONNECTION_RATE, "7"),
            (&[("ip", Some("1.2.3.4"))], CONNECTION_RATE, "8"),
        ]);
        let rate = |user, client| quotas.client_limits(user, client).produce.map(|limit| limit.rate);
        assert_eq!(rate("u", "c"), Some(1.0));
        assert_eq!(rate("u", "d"), Some(2.0));
        assert_eq!(rate("v", "c"), Some(4.0));
        assert_eq!(quotas.client_limits("v", "d").fetch.map(|limit| limit.rate), Some(6.0));
        assert_eq!(quotas.client_limits("v", "d").request, None);
        assert_eq!(quotas.ip_limit("1.2.3.4").map(|limit| limit.rate), Some(8.0));
        assert_eq!(quotas.ip_limit("::1").map(|limit| limit.rate), Some(7.0));
        // All clients of the default user quota have an account each; those of one user share it.
        let name = |user, client| quotas.client_limits(user, client).produce.map(|limit| limit.name);
        assert_eq!(name("v", "c"), name("v", "d"));
        assert_ne!(name("v", "c"), name("w", "c"));
    }

    #[test]
    fn nothing_is_limited_without_quotas() {
        let none = quotas(&[]);
        assert!(!none.limits_clients() && !none.limits_ips() && none.generation() == 0);
        let ips = quotas(&[(&[("ip", None)], CONNECTION_RATE, "7")]);
        assert!(ips.limits_ips() && !ips.limits_clients());
    }

    #[test]
    fn use_beyond_the_rate_is_paid_for_with_time() {
        let quotas = quotas(&[(&[("client-id", None)], PRODUCE_RATE, "1000")]);
        let limit = quotas.client_limits("u", "c").produce.expect("limited");
        assert_eq!(quotas.record(&limit, 9_000.0, 0), 0);
        let pause = quotas.record(&limit, 21_000.0, 0);
        assert_eq!(pause, 20_000, "30,000 bytes at 1,000 a second over a window of 10 s");
        let many = |n: usize| Limit {
            name: format!("x{n}").into(),
            rate: 1.0,
            throttle_ms_max: 5,
            kind: LimitKind::Rate,
        };
        for n in 0..QUOTA_METERS_MAX + 10 {
            quotas.record(&many(n), 100.0, 1);
        }
        assert!(quotas.meters.borrow().len() <= QUOTA_METERS_MAX);
        assert_eq!(quotas.record(&many(0), 1000.0, 1), 5);
    }
}
