//! Decodes one histogram of a log: base64, perhaps deflated, HdrHistogram's encodings V1 and V2.
//!
//! Owner: `hlog`. Formats: HdrHistogram's `AbstractHistogram` (header of 40 bytes: cookie, payload length,
//! normalising offset, digits, lowest and highest value, ratio; then counts in bucket order, as fixed words in V1, as
//! zig-zag varints with negative runs of zeros in V2). Must not: allocate by a length that a file only claims.

use std::io::Read;

use super::Counts;
use crate::limits::HISTOGRAM_PAYLOAD_BYTES_MAX;

const V1: u32 = 0x1c84_9301;
const V1_COMPRESSED: u32 = 0x1c84_9302;
const V2: u32 = 0x1c84_9303;
const V2_COMPRESSED: u32 = 0x1c84_9304;
/// The second digit of a cookie is the size of a word.
const COOKIE_MASK: u32 = 0xffff_ff0f;
const HEADER_BYTES: usize = 40;

type Decoded<T> = Result<T, String>;

/// The `(value in ns, count)` pairs of one encoded histogram.
pub(super) fn decode(text: &str, unit_ns: f64) -> Decoded<Counts> {
    let bytes = base64(text)?;
    match word(&bytes, 0)? & COOKIE_MASK {
        V1 | V2 => plain(&bytes, unit_ns),
        V1_COMPRESSED | V2_COMPRESSED => {
            let length = word(&bytes, 4)? as usize;
            let body = bytes.get(8..8 + length).ok_or("the histogram is cut short")?;
            let mut inflated = Vec::new();
            flate2::read::ZlibDecoder::new(body)
                .take(HISTOGRAM_PAYLOAD_BYTES_MAX)
                .read_to_end(&mut inflated)
                .map_err(|error| format!("inflate: {error}"))?;
            plain(&inflated, unit_ns)
        }
        other => Err(format!("an encoding this harness does not know (cookie {other:#x})")),
    }
}

fn word(bytes: &[u8], at: usize) -> Decoded<u32> {
    let part = bytes.get(at..at + 4).ok_or("the histogram is cut short")?;
    Ok(u32::from_be_bytes(part.try_into().expect("four bytes")))
}

fn long(bytes: &[u8], at: usize) -> Decoded<u64> {
    Ok(u64::from(word(bytes, at)?) << 32 | u64::from(word(bytes, at + 4)?))
}

fn plain(bytes: &[u8], unit_ns: f64) -> Decoded<Counts> {
    let cookie = word(bytes, 0)?;
    let length = word(bytes, 4)? as usize;
    if word(bytes, 8)? != 0 {
        return Err("a shifted (normalised) histogram is not supported".into());
    }
    let layout = Layout::new(word(bytes, 12)?, long(bytes, 16)?)?;
    let ratio = f64::from_bits(long(bytes, 32)?);
    let scale = if ratio.is_finite() && ratio > 0.0 { ratio * unit_ns } else { unit_ns };
    let payload =
        bytes.get(HEADER_BYTES..).and_then(|rest| rest.get(..length)).ok_or("the histogram is cut short")?;
    let mut counts = Counts::new();
    let mut put = |index: u64, count: u64| -> Decoded<()> {
        if count > 0 {
            let value = layout.highest(index).ok_or("a bucket beyond the range")?;
            counts.push(((value as f64 * scale).round() as u64, count));
        }
        Ok(())
    };
    match cookie & COOKIE_MASK {
        V2 => variable(payload, &mut put)?,
        V1 => fixed(payload, (cookie >> 4 & 0xe) as usize, &mut put)?,
        other => return Err(format!("a compressed histogram inside another ({other:#x})")),
    }
    Ok(counts)
}

/// V2: zig-zag LEB128, at most nine bytes; a negative number is a run of empty buckets.
fn variable(payload: &[u8], put: &mut impl FnMut(u64, u64) -> Decoded<()>) -> Decoded<()> {
    let mut bytes = payload.iter().copied();
    let mut index = 0u64;
    while let Some(first) = bytes.next() {
        let mut raw = u64::from(first & 0x7f);
        let mut byte = first;
        let mut shift = 7;
        while byte & 0x80 != 0 {
            byte = bytes.next().ok_or("a count is cut short")?;
            if shift == 56 {
                raw |= u64::from(byte) << 56;
                break;
            }
            raw |= u64::from(byte & 0x7f) << shift;
            shift += 7;
        }
        let count = (raw >> 1) as i64 ^ -((raw & 1) as i64);
        if count < 0 {
            index = index.checked_add(count.unsigned_abs()).ok_or("a run of zeros beyond all bounds")?;
        } else {
            put(index, count as u64)?;
            index += 1;
        }
    }
    Ok(())
}

/// V1: big-endian words of 2, 4 or 8 bytes.
fn fixed(payload: &[u8], size: usize, put: &mut impl FnMut(u64, u64) -> Decoded<()>) -> Decoded<()> {
    if ![2, 4, 8].contains(&size) {
        return Err(format!("words of {size} bytes"));
    }
    for (index, bytes) in payload.chunks_exact(size).enumerate() {
        let count = bytes.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        put(index as u64, count)?;
    }
    Ok(())
}

/// How bucket indexes map to values.
#[derive(Debug, Clone, Copy)]
struct Layout {
    unit_magnitude: u32,
    /// log2 of half of the sub-buckets.
    half_magnitude: u32,
}

impl Layout {
    fn new(digits: u32, lowest: u64) -> Decoded<Self> {
        if digits > 5 || lowest == 0 {
            return Err(format!("{digits} digits from {lowest} on"));
        }
        let single_unit_to = 2 * 10u64.pow(digits);
        let sub_bucket_magnitude = u64::BITS - (single_unit_to - 1).leading_zeros();
        Ok(Self { unit_magnitude: lowest.ilog2(), half_magnitude: sub_bucket_magnitude.saturating_sub(1) })
    }

    /// The highest value of a bucket.
    fn highest(&self, index: u64) -> Option<u64> {
        let half = 1u64 << self.half_magnitude;
        let bucket = index >> self.half_magnitude;
        let (sub, shift) = match bucket {
            0 => (index, self.unit_magnitude),
            _ => ((index & (half - 1)) + half, (bucket - 1) as u32 + self.unit_magnitude),
        };
        let fits = bucket < 64 && shift < 63 && (sub + 1).leading_zeros() > shift;
        fits.then(|| ((sub + 1) << shift) - 1)
    }
}

fn base64(text: &str) -> Decoded<Vec<u8>> {
    let text = text.trim().trim_end_matches('=');
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(format!("byte {byte:#x} is no base64")),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::new_histogram;

    #[test]
    fn bucket_edges_are_those_of_the_crate() {
        let layout = Layout::new(3, 1).unwrap();
        let reference = new_histogram();
        // Walks the buckets through the crate's own iterator.
        for (index, step) in reference.iter_all().take(30_000).enumerate() {
            assert_eq!(layout.highest(index as u64), Some(step.value_iterated_to()), "{index}");
        }
        assert_eq!(layout.highest(u64::MAX), None);
    }

    #[test]
    fn the_older_encoding_with_fixed_words_is_read() {
        for (size, cookie) in [(2, V1 | 0x20), (4, V1 | 0x40), (8, V1 | 0x80)] {
            let counts = [0u64, 3, 0, 0, 7];
            let mut bytes = cookie.to_be_bytes().to_vec();
            bytes.extend(((counts.len() * size) as u32).to_be_bytes());
            bytes.extend(0u32.to_be_bytes());
            bytes.extend(2u32.to_be_bytes());
            bytes.extend(1u64.to_be_bytes());
            bytes.extend(1000u64.to_be_bytes());
            bytes.extend(1f64.to_bits().to_be_bytes());
            counts.iter().for_each(|count| bytes.extend(&count.to_be_bytes()[8 - size..]));
            assert_eq!(plain(&bytes, 1000.0).unwrap(), [(1000, 3), (4000, 7)]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        let mut random = crate::random::Random(9);
        for _ in 0..20_000 {
            let mut bytes: Vec<u8> = (0..48 + random.below(40)).map(|_| random.next() as u8).collect();
            bytes[..4].copy_from_slice(&(V2 | 0x10).to_be_bytes());
            bytes[4..8].copy_from_slice(&8u32.to_be_bytes());
            bytes[8..12].fill(0);
            bytes[12..16].copy_from_slice(&(random.below(7) as u32).to_be_bytes());
            plain(&bytes, 1.0).ok();
        }
    }
}
