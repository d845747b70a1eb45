//! The translation of an OTLP span object to a Zipkin v2 span.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{content, elements, is_id, members};
use crate::decode::number::integer;
use crate::decode::write::{self, Members, name};

/// Attributes that name the peer, the best first, each with the one that has its port.
const PEERS: [(&str, &str); 11] = [
    ("peer.service", ""),
    ("server.address", "server.port"),
    ("net.peer.name", "net.peer.port"),
    ("network.peer.address", "network.peer.port"),
    ("server.socket.domain", "server.socket.port"),
    ("server.socket.address", "server.socket.port"),
    ("net.sock.peer.name", "net.sock.peer.port"),
    ("net.sock.peer.addr", "net.sock.peer.port"),
    ("peer.hostname", ""),
    ("peer.address", ""),
    ("db.name", ""),
];

/// The types of an attribute's value. Receivers of OTLP pass over members that they do not know.
const VALUES: [&str; 7] =
    ["stringValue", "boolValue", "intValue", "doubleValue", "arrayValue", "kvlistValue", "bytesValue"];

/// The raw members of a span object; empty where there is none.
#[derive(Default)]
struct Span<'a> {
    trace_id: &'a str,
    span_id: &'a str,
    parent_span_id: &'a str,
    name: &'a str,
    kind: &'a str,
    start: &'a str,
    end: &'a str,
    attributes: &'a str,
    dropped_attributes: &'a str,
    events: &'a str,
    dropped_events: &'a str,
    dropped_links: &'a str,
    status: &'a str,
    resource: &'a str,
    scope: &'a str,
}

/// The Zipkin span; `None` if the body is no object.
pub(super) fn to_zipkin(body: &str) -> Option<String> {
    let mut span = Span::default();
    members(body, |key, value| match key {
        "traceId" => span.trace_id = value,
        "spanId" => span.span_id = value,
        "parentSpanId" => span.parent_span_id = value,
        "name" => span.name = value,
        "kind" => span.kind = value,
        "startTimeUnixNano" => span.start = value,
        "endTimeUnixNano" => span.end = value,
        "attributes" => span.attributes = value,
        "droppedAttributesCount" => span.dropped_attributes = value,
        "events" => span.events = value,
        "droppedEventsCount" => span.dropped_events = value,
        "droppedLinksCount" => span.dropped_links = value,
        "status" => span.status = value,
        "resource" => span.resource = value,
        "scope" => span.scope = value,
        _ => {}
    })?;
    Some(span.translate())
}

impl Span<'_> {
    fn translate(&self) -> String {
        let kind = self.kind();
        let mut tags = Tags::default();
        tags.extend(member(self.resource, "attributes"));
        let service = tags.0.remove("service.name").filter(|name| !name.is_empty());
        tags.extend(member(self.scope, "attributes"));
        tags.extend(self.attributes);
        let remote = if kind == "CLIENT" || kind == "PRODUCER" { tags.peer() } else { None };
        self.describe(&mut tags);

        let mut out = String::new();
        let mut json = Members::open(&mut out);
        json.text(name!("traceId"), &content(self.trace_id).to_ascii_lowercase());
        // Readers refuse a parent that is no id, and the whole trace with it.
        if is_id(self.parent_span_id, 16) {
            json.text(name!("parentId"), &content(self.parent_span_id).to_ascii_lowercase());
        }
        json.text(name!("id"), &content(self.span_id).to_ascii_lowercase());
        json.text(name!("kind"), kind);
        json.text(name!("name"), &content(self.name));
        self.times(&mut json);
        let service = service.unwrap_or_else(|| "unknown_service".to_owned());
        let mut local = Members::open(json.key(name!("localEndpoint")));
        local.text(name!("serviceName"), &service);
        local.close();
        if let Some((name, port)) = remote {
            endpoint(json.key(name!("remoteEndpoint")), &name, &port);
        }
        self.annotations(&mut json);
        tags.write(&mut json);
        json.close();
        out
    }

    /// Zipkin's name of the kind; it has none for internal spans.
    fn kind(&self) -> &'static str {
        let kind = content(self.kind);
        match (integer(&kind), &*kind) {
            (Some(2), _) | (_, "SPAN_KIND_SERVER") => "SERVER",
            (Some(3), _) | (_, "SPAN_KIND_CLIENT") => "CLIENT",
            (Some(4), _) | (_, "SPAN_KIND_PRODUCER") => "PRODUCER",
            (Some(5), _) | (_, "SPAN_KIND_CONSUMER") => "CONSUMER",
            _ => "",
        }
    }

    fn times(&self, json: &mut Members<'_>) {
        let (start, end) = (nanoseconds(self.start), nanoseconds(self.end));
        if let Some(start) = microseconds(self.start) {
            write::integer(json.key(name!("timestamp")), start);
        }
        if let (Some(start), Some(end)) = (start, end)
            && end >= start
            && end != 0
        {
            write::integer(json.key(name!("duration")), ((end - start) / 1000).max(1));
        }
    }

    /// Adds the tags that stand for what Zipkin has no place for.
    fn describe(&self, tags: &mut Tags) {
        // The second ones are what readers of before look for.
        for (member_name, of_scope, of_library) in [
            ("name", "otel.scope.name", "otel.library.name"),
            ("version", "otel.scope.version", "otel.library.version"),
        ] {
            let text = content(member(self.scope, member_name));
            if !text.is_empty() {
                tags.0.insert(of_scope.to_owned(), text.clone().into_owned());
                tags.0.insert(of_library.to_owned(), text.into_owned());
            }
        }
        for (count, tag) in [
            (self.dropped_attributes, "otel.dropped_attributes_count"),
            (self.dropped_events, "otel.dropped_events_count"),
            (self.dropped_links, "otel.dropped_links_count"),
        ] {
            if let Some(count) = integer(&content(count)).filter(|count| *count != 0) {
                tags.0.insert(tag.to_owned(), count.to_string());
            }
        }
        // To Zipkin a span with the tag `error` has failed, whatever its value.
        let code = content(member(self.status, "code"));
        match (integer(&code), &*code) {
            (Some(1), _) | (_, "STATUS_CODE_OK") => {
                tags.0.insert("otel.status_code".to_owned(), "OK".to_owned());
                tags.0.remove("error");
            }
            (Some(2), _) | (_, "STATUS_CODE_ERROR") => {
                tags.0.insert("otel.status_code".to_owned(), "ERROR".to_owned());
                let message = content(member(self.status, "message")).into_owned();
                tags.0.insert("error".to_owned(), message);
            }
            _ if tags.0.get("error").is_some_and(|value| value == "true" || value == "false") => {
                tags.0.remove("error");
            }
            _ => {}
        }
    }

    fn annotations(&self, json: &mut Members<'_>) {
        let events = elements(self.events);
        if events.is_empty() {
            return;
        }
        let out = json.key(name!("annotations"));
        let mut separator = '[';
        for event in events {
            let (mut time, mut name, mut attributes) = ("", "\"\"", "");
            let is_object = members(event, |key, value| match key {
                "timeUnixNano" => time = value,
                "name" if value != "null" => name = value,
                "attributes" => attributes = value,
                _ => {}
            });
            // Readers refuse an annotation without a time, and the whole trace with it.
            let Some(time) = microseconds(time).or_else(|| microseconds(self.start)) else { continue };
            if is_object.is_none() {
                continue;
            }
            out.push(separator);
            separator = ',';
            let mut json = Members::open(out);
            write::integer(json.key(name!("timestamp")), time);
            let attributes = elements(attributes);
            if attributes.is_empty() {
                write::string(json.key(name!("value")), &content(name));
            } else {
                let mut text = format!("{name}:");
                object(&mut text, &attributes);
                write::string(json.key(name!("value")), &text);
            }
            json.close();
        }
        out.push_str(if separator == '[' { "[]" } else { "]" });
    }
}

/// The raw value of a member; empty where there is none.
fn member<'a>(object: &'a str, name: &str) -> &'a str {
    let mut found = "";
    // What is no object has no members.
    let _ = members(object, |key, value| {
        if key == name {
            found = value;
        }
    });
    found
}

/// A 64-bit number, which is a string in OTLP/JSON and a number in what some exporters send. Readers refuse a larger one, and
/// the whole trace with it.
fn nanoseconds(raw: &str) -> Option<i128> {
    integer(&content(raw)).filter(|time| (i64::MIN.into()..=u64::MAX.into()).contains(time))
}

/// The same time as Zipkin has it; none where it tells nothing, or is before 1970: some readers refuse such a one.
fn microseconds(raw: &str) -> Option<i128> {
    nanoseconds(raw).map(|time| time.div_euclid(1000)).filter(|time| *time > 0)
}

fn endpoint(out: &mut String, name: &str, port: &str) {
    let mut json = Members::open(out);
    match name.parse() {
        Ok(IpAddr::V4(_)) => json.text(name!("ipv4"), name),
        Ok(IpAddr::V6(_)) => json.text(name!("ipv6"), name),
        Err(_) => json.text(name!("serviceName"), name),
    }
    if let Ok(port) = port.parse::<u16>() {
        json.number(name!("port"), u64::from(port));
    }
    json.close();
}

#[derive(Default)]
struct Tags(BTreeMap<String, String>);

impl Tags {
    /// Adds a raw list of attributes; the later ones win.
    fn extend(&mut self, attributes: &str) {
        for attribute in elements(attributes) {
            let (key, value) = key_and_value(attribute);
            let key = content(key).into_owned();
            self.0.insert(key, text(value).into_owned());
        }
    }

    fn peer(&self) -> Option<(String, String)> {
        let (name, port) =
            PEERS.iter().find(|(name, _)| self.0.get(*name).is_some_and(|value| !value.is_empty()))?;
        Some((self.0.get(*name)?.clone(), self.0.get(*port).cloned().unwrap_or_default()))
    }

    fn write(&self, json: &mut Members<'_>) {
        if self.0.is_empty() {
            return;
        }
        let out = json.key(name!("tags"));
        let mut separator = '{';
        for (key, value) in &self.0 {
            out.push(separator);
            separator = ',';
            write::string(out, key);
            out.push(':');
            write::string(out, value);
        }
        out.push('}');
    }
}

/// The raw key and the raw value of an attribute.
fn key_and_value(attribute: &str) -> (&str, &str) {
    let (mut found_key, mut found_value) = ("\"\"", "");
    // What is no object has neither.
    let _ = members(attribute, |key, value| match key {
        "key" => found_key = value,
        "value" => found_value = value,
        _ => {}
    });
    (found_key, found_value)
}

/// The raw content of an attribute's value with the name of its type; the last one that is set counts.
fn typed(value: &str) -> (&'static str, &str) {
    let mut found = ("", "");
    // What is no object has no type.
    let _ = members(value, |key, value| {
        if let Some(known) = VALUES.into_iter().find(|known| *known == key && value != "null") {
            found = (known, value);
        }
    });
    found
}

/// A value as the text of a tag: lists and maps as JSON.
fn text(value: &str) -> Cow<'_, str> {
    let (kind, raw) = typed(value);
    match kind {
        "arrayValue" | "kvlistValue" => {
            let mut out = String::new();
            json(&mut out, value);
            Cow::Owned(out)
        }
        _ => content(raw),
    }
}

/// A value as JSON. Recurses as deep as the body is nested, which the scanner bounds.
fn json(out: &mut String, value: &str) {
    let (kind, raw) = typed(value);
    match kind {
        "arrayValue" => {
            out.push('[');
            for (index, element) in elements(member(raw, "values")).into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                json(out, element);
            }
            out.push(']');
        }
        "kvlistValue" => object(out, &elements(member(raw, "values"))),
        // An integer is a string in OTLP/JSON, and a number to everyone else.
        "intValue" => match integer(&content(raw)) {
            Some(number) => write::integer(out, number),
            None => out.push_str(raw),
        },
        "" => out.push_str("null"),
        _ => out.push_str(raw),
    }
}

/// Attributes as a JSON object.
fn object(out: &mut String, attributes: &[&str]) {
    out.push('{');
    for (index, attribute) in attributes.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let (key, value) = key_and_value(attribute);
        write::string(out, &content(key));
        out.push(':');
        json(out, value);
    }
    out.push('}');
}
