//! Of a Zipkin v2 span what its readers take.
//!
//! Zipkin's own reader (`SpanBytesDecoder.JSON_V2`) and zipkin-go's `SpanModel`, which Grafana uses, refuse a whole trace for
//! one value that they do not expect. [`member`] says which those are: such a value is left out, or, where it means the same
//! in another spelling, written in the one that both take. All else stays byte for byte, and a span in order as a whole.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::{content, is_digits, is_id};
use crate::decode::number::integer;
use crate::decode::scan::{Scanner, Syntax};

const KINDS: [&str; 4] = ["CLIENT", "SERVER", "PRODUCER", "CONSUMER"];

/// Microseconds: Zipkin has 63 bits for them, and zipkin-go no sign.
const LONGEST: i128 = i64::MAX as i128;

/// A raw value as readers take it, borrowed if as it is; `None` if they refuse it.
type Readable<'t> = Option<Cow<'t, str>>;

/// The span as readers take it; `None` if it is no object.
pub(super) fn readable(span: &str) -> Readable<'_> {
    object(span, member)
}

fn member<'t>(key: &str, raw: &'t str) -> Readable<'t> {
    match key {
        "traceId" if is_id(raw, 32) => id(raw, 32),
        "id" if is_id(raw, 16) => id(raw, 16),
        "traceId" | "id" => None,
        _ if raw == "null" => as_it_is(raw),
        // Both take one of zeros for none.
        "parentId" => id(raw, 16),
        "kind" => kind(raw),
        "name" => text(raw),
        "timestamp" | "duration" => number(raw, 0..=LONGEST),
        "localEndpoint" | "remoteEndpoint" => object(raw, endpoint),
        "annotations" => list(raw, annotation),
        "tags" => object(raw, |_, value| text(value)),
        "debug" | "shared" if matches!(raw, "true" | "false") => as_it_is(raw),
        "debug" | "shared" => None,
        _ => as_it_is(raw),
    }
}

fn endpoint<'t>(key: &str, raw: &'t str) -> Readable<'t> {
    match key {
        _ if raw == "null" => as_it_is(raw),
        "serviceName" => text(raw),
        "ipv4" | "ipv6" => address(raw),
        "port" => number(raw, 0..=i128::from(u16::MAX)),
        _ => as_it_is(raw),
    }
}

/// An annotation needs a time and a text.
fn annotation(raw: &str) -> Readable<'_> {
    let (mut has_time, mut has_text) = (false, false);
    let readable = object(raw, |key, raw| match key {
        "timestamp" => number(raw, 1..=LONGEST).inspect(|_| has_time = true),
        "value" => text(raw).inspect(|_| has_text = true),
        _ => as_it_is(raw),
    });
    readable.filter(|_| has_time && has_text)
}

#[expect(clippy::unnecessary_wraps, reason = "one of several answers")]
fn as_it_is(raw: &str) -> Readable<'_> {
    Some(Cow::Borrowed(raw))
}

/// Hexadecimal digits, in lower case and without escapes.
fn id(raw: &str, most: usize) -> Readable<'_> {
    let id = content(raw);
    if !is_digits(&id, most) {
        return None;
    }
    let is_plain = matches!(id, Cow::Borrowed(_)) && !id.bytes().any(|digit| digit.is_ascii_uppercase());
    if is_plain { as_it_is(raw) } else { Some(format!("\"{}\"", id.to_ascii_lowercase()).into()) }
}

/// One of the four, in upper case.
fn kind(raw: &str) -> Readable<'_> {
    let written = content(raw);
    let known = KINDS.into_iter().find(|kind| kind.eq_ignore_ascii_case(&written))?;
    if written == known { as_it_is(raw) } else { Some(format!("\"{known}\"").into()) }
}

/// A string; a number or a boolean is one without its quotes.
fn text(raw: &str) -> Readable<'_> {
    match raw.as_bytes().first()? {
        b'"' => as_it_is(raw),
        b'{' | b'[' | b'n' => None,
        _ => Some(format!("\"{raw}\"").into()),
    }
}

/// A whole number in digits alone, which may be a string.
fn number(raw: &str, range: RangeInclusive<i128>) -> Readable<'_> {
    let number = integer(&content(raw)).filter(|number| range.contains(number))?;
    let is_plain = raw.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain { as_it_is(raw) } else { Some(number.to_string().into()) }
}

/// The address of either kind, as in both fields, or an empty one.
fn address(raw: &str) -> Readable<'_> {
    let address = content(raw);
    if address.is_empty() || address.parse::<IpAddr>().is_ok() { as_it_is(raw) } else { None }
}

/// An object with each member as `readable` has it; `None` if the text is none.
fn object<'t>(text: &'t str, mut readable: impl FnMut(&str, &'t str) -> Readable<'t>) -> Readable<'t> {
    let mut edit = Edit::new(text);
    let outcome = Scanner::new(text).object(0, |scanner, key| {
        let raw = scanner.value(1)?;
        edit.part(scanner.position(), raw, readable(key, raw));
        Ok::<(), Syntax>(())
    });
    outcome.ok().map(|()| edit.finish())
}

/// A list with each element as `readable` has it; `None` if the text is none.
fn list<'t>(text: &'t str, mut readable: impl FnMut(&'t str) -> Readable<'t>) -> Readable<'t> {
    let mut edit = Edit::new(text);
    let outcome = Scanner::new(text).list(0, |scanner| {
        let raw = scanner.value(1)?;
        edit.part(scanner.position(), raw, readable(raw));
        Ok::<(), Syntax>(())
    });
    outcome.ok().map(|()| edit.finish())
}

/// An object or a list of which some parts go or change. It is copied only where one does.
struct Edit<'t> {
    text: &'t str,
    out: String,
    /// What is in `out` stands for the text up to here.
    done: usize,
    /// Where the last part that is kept ends, or the opening bracket.
    kept: usize,
    keeps_any: bool,
}

impl<'t> Edit<'t> {
    fn new(text: &'t str) -> Self {
        let kept = text.find(['{', '[']).map_or(0, |bracket| bracket + 1);
        Self { text, out: String::new(), done: 0, kept, keeps_any: false }
    }

    /// The next part, whose raw value ends at `end`.
    fn part(&mut self, end: usize, raw: &str, readable: Readable<'_>) {
        let Some(value) = readable else {
            // It goes with the comma before it.
            self.copy_to(self.kept);
            self.done = end;
            return;
        };
        if !self.keeps_any && self.done != 0 {
            // All before it has gone: so does the comma.
            let separator = |char: char| char == ',' || char.is_ascii_whitespace();
            self.done = self.text.len() - self.text[self.done..].trim_start_matches(separator).len();
        }
        self.keeps_any = true;
        self.kept = end;
        if let Cow::Owned(value) = value {
            self.copy_to(end - raw.len());
            self.out.push_str(&value);
            self.done = end;
        }
    }

    fn copy_to(&mut self, end: usize) {
        if self.done < end {
            self.out.push_str(&self.text[self.done..end]);
            self.done = end;
        }
    }

    fn finish(mut self) -> Cow<'t, str> {
        if self.done == 0 {
            return Cow::Borrowed(self.text);
        }
        self.copy_to(self.text.len());
        Cow::Owned(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"{"traceId":"1","id":"2""#;

    fn of(member: &str) -> String {
        readable(&format!("{HEAD},{member}}}")).unwrap().into_owned()
    }

    /// Refused by Zipkin's own reader 3.5.1, unless it says otherwise.
    #[test]
    fn what_a_reader_refuses_is_left_out_and_nothing_else() {
        let long = format!(r#""timestamp":{}"#, "9".repeat(60));
        for refused in [
            r#""parentId":"xyz""#,
            r#""parentId":"""#,
            r#""parentId":"11111111111111111111111111111111""#,
            r#""parentId":{}"#,
            r#""kind":"INTERNAL""#,
            r#""kind":"""#,
            r#""kind":5"#,
            r#""name":{}"#,
            r#""name":[]"#,
            r#""timestamp":1763704800000000.5"#,
            r#""timestamp":"2026-01-01T00:00:00Z""#,
            r#""timestamp":"""#,
            r#""timestamp":true"#,
            long.as_str(),
            r#""duration":1.25"#,
            // By zipkin-go alone.
            r#""duration":-5"#,
            r#""tags":[]"#,
            r#""tags":"x""#,
            r#""annotations":{}"#,
            r#""localEndpoint":"shop""#,
            r#""remoteEndpoint":[]"#,
            r#""shared":"true""#,
            r#""debug":1"#,
            r#""id":"xyz""#,
            r#""traceId":null"#,
        ] {
            assert_eq!(of(refused), format!("{HEAD}}}"), "{refused}");
            // In whichever place, and with spaces.
            let first = format!("{{ {refused} , \"x\" : [1 ,2] }}");
            assert_eq!(readable(&first).unwrap(), r#"{"x" : [1 ,2] }"#, "{refused}");
            let middle = format!("{{ \"x\":null , {refused},{refused} ,\t\"y\\ud83d\": 1 }}");
            assert_eq!(readable(&middle).unwrap(), "{ \"x\":null ,\t\"y\\ud83d\": 1 }", "{refused}");
        }
    }

    #[test]
    fn of_tags_annotations_and_endpoints_only_what_is_refused_is_left_out() {
        for (written, readable) in [
            (r#""tags":{"a":null,"b":"x"}"#, r#""tags":{"b":"x"}"#),
            (r#""tags":{"b":"x" , "a":{}, "c\ud83d":""}"#, r#""tags":{"b":"x", "c\ud83d":""}"#),
            (r#""tags":{"a":[]}"#, r#""tags":{}"#),
            (
                r#""annotations":[{"timestamp":1},{"timestamp":2,"value":"x"}]"#,
                r#""annotations":[{"timestamp":2,"value":"x"}]"#,
            ),
            (r#""annotations":[{"timestamp":1,"value":null}, null, 7, [], {}]"#, r#""annotations":[]"#),
            (
                r#""annotations":[{"timestamp":1.5,"value":"x"},{"timestamp":0,"value":"x"}]"#,
                r#""annotations":[]"#,
            ),
            (
                r#""annotations":[{"value":"x","timestamp":-1},{"value":"x","timestamp":9223372036854775808}]"#,
                r#""annotations":[]"#,
            ),
            (r#""localEndpoint":{"serviceName":"s","port":70000}"#, r#""localEndpoint":{"serviceName":"s"}"#),
            (
                r#""localEndpoint":{"port":"http","serviceName":"s"}"#,
                r#""localEndpoint":{"serviceName":"s"}"#,
            ),
            (r#""remoteEndpoint":{"port":-1,"serviceName":{},"ipv4":true}"#, r#""remoteEndpoint":{}"#),
            // By zipkin-go alone.
            (r#""remoteEndpoint":{"ipv4":"localhost","ipv6":"::1"}"#, r#""remoteEndpoint":{"ipv6":"::1"}"#),
        ] {
            assert_eq!(of(written), format!("{HEAD},{readable}}}"));
        }
    }

    /// Most of them are what zipkin-go refuses, and Zipkin's own reader takes.
    #[test]
    fn what_means_the_same_in_another_spelling_is_written_as_readers_take_it() {
        for (written, readable) in [
            (r#""parentId":"AB""#, r#""parentId":"ab""#),
            (r#""parentId":"\u0061""#, r#""parentId":"a""#),
            (r#""kind":"client""#, r#""kind":"CLIENT""#),
            (r#""name":5"#, r#""name":"5""#),
            (r#""timestamp":"1763704800000000""#, r#""timestamp":1763704800000000"#),
            (r#""duration": 1E2 "#, r#""duration": 100 "#),
            (r#""duration":9007199254740993.0"#, r#""duration":9007199254740993"#),
            (r#""tags":{"a":true, "b":1.50,"c":"x"}"#, r#""tags":{"a":"true", "b":"1.50","c":"x"}"#),
            (
                r#""annotations":[{"timestamp":"1","value":5}]"#,
                r#""annotations":[{"timestamp":1,"value":"5"}]"#,
            ),
            (r#""localEndpoint":{"port":"80"}"#, r#""localEndpoint":{"port":80}"#),
        ] {
            assert_eq!(of(written), format!("{HEAD},{readable}}}"));
        }
        let upper = r#"{"traceId":"AB","id": "CD"}"#;
        assert_eq!(readable(upper).unwrap(), r#"{"traceId":"ab","id": "cd"}"#);
    }

    #[test]
    fn a_span_in_order_is_not_written_anew() {
        for member in [
            r#""parentId":"0000000000000000","kind":"SERVER","name":"\ud83d","timestamp":0,"duration":9223372036854775807"#,
            r#""parentId":null,"kind":null,"name":null,"timestamp":null,"duration":null,"tags":null,"annotations":null"#,
            r#""localEndpoint":null,"remoteEndpoint":{"serviceName":"","ipv4":"","port":0},"shared":true,"debug":false"#,
            r#""localEndpoint":{"ipv4":"10.0.0.1","ipv6":null,"x":{}},"tags":{"":""},"annotations":[{"timestamp":1,"value":"","x":null}]"#,
            r#""annotations":[],"tags":{},"x":{"kind":[1e999,null]}"#,
        ] {
            let span = format!(" {HEAD} , {member}}} ");
            assert!(matches!(readable(&span), Some(Cow::Borrowed(same)) if same == span), "{member}");
        }
        assert_eq!(readable("[]"), None);
    }
}
