//! The reader of `server.properties`: comments, continuation lines and escapes of the Java properties format.
//!
//! Owner: none, pure functions. Invariants: a later line wins over an earlier one with the same key; nothing is
//! interpreted here. Must not: know any key by name.

/// Upper bound of a properties file; a larger one is refused before it is read.
pub(crate) const PROPERTIES_SIZE_BYTES_MAX: u64 = 1 << 20;

/// Splits a properties text into keys and values in the order of the file.
///
/// The format is that of `java.util.Properties`: `#` and `!` start a comment, a backslash at the end of a line
/// continues it, `=`, `:` or white space part key and value, and `\t \n \r \f \uXXXX` are escapes.
/// Errors name the line (counted from 1).
pub fn parse_properties(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut entries = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, first)) = lines.next() {
        let start = first.trim_start_matches(is_blank);
        if start.is_empty() || start.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = start.to_owned();
        while ends_in_continuation(&logical) {
            logical.pop();
            match lines.next() {
                Some((_, next)) => logical.push_str(next.trim_start_matches(is_blank)),
                None => break,
            }
        }
        let (key, value) = split_entry(&logical);
        let key = unescape(key).map_err(|e| format!("line {}: {e}", index + 1))?;
        let value = unescape(value).map_err(|e| format!("line {}: {e}", index + 1))?;
        entries.push((key, value.trim_end().to_owned()));
    }
    Ok(entries)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0c')
}

fn ends_in_continuation(line: &str) -> bool {
    line.bytes().rev().take_while(|&b| b == b'\\').count() % 2 == 1
}

fn split_entry(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let mut key_end = line.len();
    for (at, c) in line.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == '=' || c == ':' || is_blank(c) {
            key_end = at;
            break;
        }
    }
    let rest = line[key_end..].trim_start_matches(is_blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (&line[..key_end], rest.trim_start_matches(is_blank))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut units: Vec<u16> = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let plain = if c != '\\' {
            c
        } else {
            match chars.next() {
                Some('u') => {
                    let hex: String = chars.by_ref().take(4).collect();
                    let valid = hex.len() == 4 && hex.bytes().all(|b| b.is_ascii_hexdigit());
                    let unit = valid.then(|| u16::from_str_radix(&hex, 16).ok()).flatten();
                    units.push(unit.ok_or_else(|| format!("'\\u{hex}' is not four hexadecimal digits"))?);
                    continue;
                }
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\x0c',
                Some(other) => other,
                None => break,
            }
        };
        flush_units(&mut units, &mut out);
        out.push(plain);
    }
    flush_units(&mut units, &mut out);
    Ok(out)
}

/// Two `\u` escapes in a row may be the halves of one character, hence the delay.
fn flush_units(units: &mut Vec<u16>, out: &mut String) {
    if !units.is_empty() {
        out.push_str(&String::from_utf16_lossy(units));
        units.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<(String, String)> {
        parse_properties(text).expect("valid properties")
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn comments_separators_and_blanks() {
        let text = "# a comment\n! another\n\n  a=1\nb : 2\nc 3\nd=\ne\nf = x = y \r\n";
        let expected = vec![
            pair("a", "1"),
            pair("b", "2"),
            pair("c", "3"),
            pair("d", ""),
            pair("e", ""),
            pair("f", "x = y"),
        ];
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn continuation_lines() {
        assert_eq!(parse("k=one,\\\n    two\\\\\nx=1"), vec![pair("k", "one,two\\"), pair("x", "1")]);
        assert_eq!(parse("k=one\\"), vec![pair("k", "one")]);
        assert_eq!(parse("k=a\\\n# kept"), vec![pair("k", "a# kept")]);
    }

    #[test]
    fn escapes() {
        assert_eq!(parse(r"a\=b=\u00e9\t\q"), vec![pair("a=b", "é\tq")]);
        assert_eq!(parse(r"k=\ud83d\ude00"), vec![pair("k", "😀")]);
        assert!(parse_properties("ok=1\nk=\\u12").unwrap_err().starts_with("line 2:"));
        assert!(parse_properties("k=\\u+123").is_err());
    }
}
