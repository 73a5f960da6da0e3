//! The few requests the synthetic endpoint understands, in the versions this harness sends.
//!
//! Owner: `synthetic`. Requests come from the network: every length is checked by `Reader`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use crate::error::{Result, protocol};
use crate::limits::PARTITIONS_MAX;
use crate::wire::{Reader, Writer};

/// Topics and their partition counts. Touched by administration only, never on the way of a produce request.
#[derive(Debug, Default)]
pub(super) struct Topics(Mutex<BTreeMap<String, usize>>);

/// Topics it keeps at most.
const TOPICS_MAX: usize = 1_000;

/// An encoded reply.
#[derive(Debug)]
pub(super) struct Answer {
    /// Frame with its length.
    pub(super) bytes: Vec<u8>,
    /// Whether it is delayed.
    pub(super) is_produce: bool,
}

/// APIs and the versions served: key, lowest, highest.
const APIS: [(i16, i16, i16); 7] =
    [(0, 3, 8), (1, 4, 11), (2, 1, 2), (3, 1, 4), (18, 0, 0), (19, 2, 4), (20, 1, 3)];

/// The reply to a frame (without its length); `None` when none is wanted.
///
/// # Errors
/// When the request is none of `APIS`, or cut short: the connection ends.
pub(super) fn answer(frame: &[u8], address: SocketAddr, topics: &Topics) -> Result<Option<Answer>> {
    let mut reader = Reader::new(frame);
    let (api, version, correlation) = (reader.i16()?, reader.i16()?, reader.i32()?);
    reader.string()?;
    let mut out = Writer::new();
    out.i32(0).i32(correlation);
    // Kafka answers an ApiVersions of a version it does not know in version 0, with error 35.
    let known = APIS.iter().any(|(key, low, high)| *key == api && (*low..=*high).contains(&version));
    match api {
        18 => versions(&mut out, known),
        _ if !known => return Err(protocol(format!("API {api} v{version} is not served"))),
        0 => {
            if !produce(&mut reader, &mut out)? {
                return Ok(None);
            }
        }
        // Nothing is stored: UNSUPPORTED_VERSION for the whole request where it has room for a code.
        1 if version >= 7 => {
            out.i32(0).i16(35).i32(0).count(0);
        }
        1 => return Err(protocol("fetches are not served")),
        2 => list_offsets(&mut reader, &mut out, version)?,
        3 => metadata(&mut reader, &mut out, version, address, topics)?,
        19 => create(&mut reader, &mut out, topics)?,
        20 => delete(&mut reader, &mut out, topics)?,
        _ => return Err(protocol(format!("API {api} is not served"))),
    }
    let length = (out.bytes.len() - 4) as u32;
    out.bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(Some(Answer { bytes: out.bytes, is_produce: api == 0 }))
}

fn versions(out: &mut Writer, known: bool) {
    out.i16(if known { 0 } else { 35 }).count(APIS.len());
    for (key, low, high) in APIS {
        out.i16(key).i16(low).i16(high);
    }
}

/// Acknowledges every batch; false for acks=0, which wants no answer.
fn produce(reader: &mut Reader, out: &mut Writer) -> Result<bool> {
    reader.string()?;
    let acks = reader.i16()?;
    reader.i32()?;
    let topics = reader.count(6)?;
    out.count(topics);
    for _ in 0..topics {
        let name = reader.string()?.unwrap_or_default();
        let partitions = reader.count(8)?;
        out.string(name).count(partitions);
        for _ in 0..partitions {
            let index = reader.i32()?;
            let length = reader.i32()?;
            reader.take(usize::try_from(length).unwrap_or(0))?;
            out.i32(index).i16(0).i64(0).i64(-1).i64(0);
        }
    }
    out.i32(0);
    Ok(acks != 0)
}

fn list_offsets(reader: &mut Reader, out: &mut Writer, version: i16) -> Result<()> {
    reader.i32()?;
    if version >= 2 {
        reader.i8()?;
        out.i32(0);
    }
    let topics = reader.count(6)?;
    out.count(topics);
    for _ in 0..topics {
        let name = reader.string()?.unwrap_or_default();
        let partitions = reader.count(12)?;
        out.string(name).count(partitions);
        for _ in 0..partitions {
            let index = reader.i32()?;
            reader.i64()?;
            out.i32(index).i16(0).i64(-1).i64(0);
        }
    }
    Ok(())
}

fn metadata(
    reader: &mut Reader,
    out: &mut Writer,
    version: i16,
    address: SocketAddr,
    topics: &Topics,
) -> Result<()> {
    let topics = topics.0.lock().map_err(|_| protocol("a thread died"))?;
    let count = reader.i32()?;
    let mut names: Vec<String> = Vec::new();
    for _ in 0..count.max(0) {
        names.push(reader.string()?.unwrap_or_default().to_owned());
    }
    if count < 0 {
        names.extend(topics.keys().cloned());
    }
    if version >= 3 {
        out.i32(0);
    }
    out.count(1).i32(0).string(&address.ip().to_string()).i32(i32::from(address.port())).null_string();
    if version >= 2 {
        out.string("synthetic");
    }
    out.i32(0).count(names.len());
    for name in names {
        let partitions = topics.get(&name).copied();
        out.i16(if partitions.is_some() { 0 } else { 3 }).string(&name).i8(0).count(partitions.unwrap_or(0));
        for index in 0..partitions.unwrap_or(0) {
            out.i16(0).i32(index as i32).i32(0).count(1).i32(0).count(1).i32(0);
        }
    }
    Ok(())
}

fn create(reader: &mut Reader, out: &mut Writer, topics: &Topics) -> Result<()> {
    let mut topics = topics.0.lock().map_err(|_| protocol("a thread died"))?;
    let count = reader.count(6)?;
    out.i32(0).count(count);
    for _ in 0..count {
        let name = reader.string()?.unwrap_or_default().to_owned();
        let partitions = usize::try_from(reader.i32()?).unwrap_or(1);
        reader.i16()?;
        for _ in 0..reader.count(4)? {
            reader.i32()?;
            let replicas = reader.count(4)?;
            reader.take(replicas * 4)?;
        }
        for _ in 0..reader.count(2)? {
            reader.string()?;
            reader.string()?;
        }
        // 36: exists already; 37: a wrong number of partitions.
        let code = match () {
            () if topics.contains_key(&name) => 36,
            () if !(1..=PARTITIONS_MAX).contains(&partitions) || topics.len() >= TOPICS_MAX => 37,
            () => 0,
        };
        if code == 0 {
            topics.insert(name.clone(), partitions);
        }
        out.string(&name).i16(code).null_string();
    }
    Ok(())
}

fn delete(reader: &mut Reader, out: &mut Writer, topics: &Topics) -> Result<()> {
    let mut topics = topics.0.lock().map_err(|_| protocol("a thread died"))?;
    let count = reader.count(2)?;
    out.i32(0).count(count);
    for _ in 0..count {
        let name = reader.string()?.unwrap_or_default();
        let code = if topics.remove(name).is_some() { 0 } else { 3 };
        out.string(name).i16(code);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_ends_the_connection_and_never_panics() {
        let address = "127.0.0.1:1".parse().unwrap();
        let topics = Topics::default();
        let mut random = crate::random::Random(1);
        for _ in 0..20_000 {
            let (key, _, version) = APIS[random.below(APIS.len())];
            let mut frame = Writer::new();
            frame.i16(key).i16(version).i32(7).string("x");
            frame.bytes.extend((0..random.below(60)).map(|_| random.below(4) as u8));
            answer(&frame.bytes, address, &topics).ok();
        }
        assert!(answer(&[0, 0, 0], address, &topics).is_err());
    }
}
