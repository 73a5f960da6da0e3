//! What a configuration key is: its type, default, scope, documentation and the check of a value.
//!
//! Owner: none, static data. Invariants: `Kind::check` accepts exactly what the typed readers
//! (`as_bool`, `as_i64`, `as_size_bytes`, ...) can read. Must not: know any key by name.

/// Where a key may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole process: properties file, environment or flag.
    Broker,
    /// One topic: CreateTopics and the alter-config APIs.
    Topic,
    /// One group: the alter-config APIs.
    Group,
    /// One client metrics subscription: the alter-config APIs.
    ClientMetrics,
}

/// What setting a key does in this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// The key changes what the broker does.
    Full,
    /// The key is checked, stored and described, so that tools which set it work; it changes nothing yet.
    Stored,
}

/// The type of a value together with its bounds (inclusive).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `true` or `false`, any case.
    Bool,
    /// A 16-bit integer.
    Short(i64, i64),
    /// A 32-bit integer.
    Int(i64, i64),
    /// A 64-bit integer.
    Long(i64, i64),
    /// A number of bytes with an optional unit (`512MiB`, `2g`); Kafka's own keys never have this kind.
    Size(i64, i64),
    /// A floating-point number.
    Double(f64, f64),
    /// Any text.
    Text,
    /// One of the listed words.
    Choice(&'static [&'static str]),
    /// Comma-separated words out of the listed ones; an empty list of words allows any.
    List(&'static [&'static str]),
}

/// One configuration key.
#[derive(Debug, Clone, Copy)]
pub struct KeySpec {
    /// The name as it is written in `server.properties` or in a topic's configuration.
    pub name: &'static str,
    /// Type and bounds.
    pub kind: Kind,
    /// The default in text form; `None` when there is none (Kafka's `null`) or when it is worked out at start.
    pub default: Option<&'static str>,
    /// One or two sentences for people.
    pub doc: &'static str,
    /// Where the key may be set.
    pub scope: Scope,
    /// Broker keys that stand behind this one, the strongest first. For a topic key: where its default comes
    /// from. For a broker key: other names and units that set the same thing.
    pub synonyms: &'static [&'static str],
    /// Whether the key does something.
    pub support: Support,
}

impl Kind {
    /// Checks a value in text form; the error says what was expected.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let value = value.trim();
        match *self {
            Self::Bool => as_bool(value).map(|_| ()).ok_or_else(|| "expected true or false".to_owned()),
            Self::Short(min, max) | Self::Int(min, max) | Self::Long(min, max) => {
                let number: i64 = value.parse().map_err(|_| format!("expected {}", self.expected()))?;
                within(number, min, max)
            }
            Self::Size(min, max) => {
                let number = as_size_bytes(value)
                    .ok_or_else(|| "expected a number of bytes such as 268435456 or 256MiB".to_owned())?;
                within(number, min, max)
            }
            Self::Double(min, max) => {
                let number: f64 = value.parse().map_err(|_| "expected a number".to_owned())?;
                if number >= min && number <= max {
                    Ok(())
                } else {
                    Err(format!("must be between {min} and {max}"))
                }
            }
            Self::Text => Ok(()),
            Self::Choice(words) => {
                if words.contains(&value) {
                    Ok(())
                } else {
                    Err(format!("must be one of {}", words.join(", ")))
                }
            }
            Self::List(words) => {
                match split_list(value).find(|item| !words.is_empty() && !words.contains(item)) {
                    None => Ok(()),
                    Some(item) => Err(format!("'{item}' is not one of {}", words.join(", "))),
                }
            }
        }
    }

    /// The type's name as `ringlog config` prints it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::Short(..) => "short",
            Self::Int(..) => "int",
            Self::Long(..) => "long",
            Self::Size(..) => "size",
            Self::Double(..) => "double",
            Self::Text | Self::Choice(_) => "string",
            Self::List(_) => "list",
        }
    }

    /// The type's number in DescribeConfigs (KIP-569).
    pub fn wire_type(&self) -> i8 {
        match self {
            Self::Bool => 1,
            Self::Text | Self::Choice(_) => 2,
            Self::Int(..) => 3,
            Self::Short(..) => 4,
            Self::Long(..) | Self::Size(..) => 5,
            Self::Double(..) => 6,
            Self::List(_) => 7,
        }
    }

    /// The values that are allowed, for people; empty when anything of the type is.
    pub fn allowed(&self) -> String {
        match *self {
            Self::Bool => "true, false".to_owned(),
            Self::Short(min, max) => range_text(min, max, i64::from(i16::MIN), i64::from(i16::MAX)),
            Self::Int(min, max) => range_text(min, max, i64::from(i32::MIN), i64::from(i32::MAX)),
            Self::Long(min, max) | Self::Size(min, max) => range_text(min, max, i64::MIN, i64::MAX),
            Self::Double(min, max) => format!("[{min},...,{max}]"),
            Self::Text => String::new(),
            Self::Choice(words) | Self::List(words) => words.join(", "),
        }
    }

    fn expected(&self) -> &'static str {
        match self {
            Self::Short(..) => "a 16-bit whole number",
            Self::Int(..) => "a 32-bit whole number",
            _ => "a whole number",
        }
    }
}

fn range_text(min: i64, max: i64, type_min: i64, type_max: i64) -> String {
    match (min == type_min, max == type_max) {
        (true, true) => String::new(),
        (true, false) => format!("[...,{max}]"),
        (false, true) => format!("[{min},...]"),
        (false, false) => format!("[{min},...,{max}]"),
    }
}

fn within(number: i64, min: i64, max: i64) -> Result<(), String> {
    if number < min {
        Err(format!("must be at least {min}"))
    } else if number > max {
        Err(format!("must be at most {max}"))
    } else {
        Ok(())
    }
}

/// Reads `true` or `false` in any case.
pub(crate) fn as_bool(value: &str) -> Option<bool> {
    let value = value.trim();
    if value.eq_ignore_ascii_case("true") {
        Some(true)
    } else if value.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// Reads a number of bytes with an optional binary unit (`k`, `KiB`, `m`, `MiB`, `g`, `GiB`, `t`, `TiB`, any
/// case). `None` when it is no such number or does not fit.
pub(crate) fn as_size_bytes(value: &str) -> Option<i64> {
    let value = value.trim();
    let digits_end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let number: i64 = value[..digits_end].parse().ok()?;
    let unit: i64 = match value[digits_end..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The items of a comma-separated list, trimmed, without empty ones.
pub(crate) fn split_list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_check_type_and_bounds() {
        assert!(Kind::Bool.check(" TRUE ").is_ok());
        assert!(Kind::Bool.check("yes").is_err());
        assert!(Kind::Int(1, 10).check("10").is_ok());
        assert_eq!(Kind::Int(1, 10).check("11"), Err("must be at most 10".to_owned()));
        assert_eq!(Kind::Int(1, 10).check("0"), Err("must be at least 1".to_owned()));
        assert!(Kind::Long(i64::MIN, i64::MAX).check("9223372036854775808").is_err());
        assert!(Kind::Double(0.0, 1.0).check("NaN").is_err());
        assert!(Kind::List(&["a", "b"]).check("a, b").is_ok());
        assert!(Kind::List(&["a", "b"]).check("a,c").is_err());
        assert!(Kind::Choice(&["x"]).check("y").is_err());
    }

    #[test]
    fn sizes_take_units_and_refuse_overflow() {
        assert_eq!(as_size_bytes("1024"), Some(1024));
        assert_eq!(as_size_bytes("2 GiB"), Some(2 << 30));
        assert_eq!(as_size_bytes("3m"), Some(3 << 20));
        assert_eq!(as_size_bytes("3x"), None);
        assert_eq!(as_size_bytes(""), None);
        assert_eq!(as_size_bytes("9999999999t"), None);
    }
}
