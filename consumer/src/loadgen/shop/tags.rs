//! Attributes, headers, excerpts and exceptions of the shop's spans.
//!
//! Names follow OpenTelemetry's semantic conventions.

use fastrand::Rng;

use super::catalog::{Operation, Via};
use super::{Exception, Value};

type Tags = Vec<(&'static str, Value)>;

const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_2 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (X11; Linux x86_64; rv:134.0) Gecko/20100101 Firefox/134.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/132.0.0.0 Safari/537.36",
    "ShopApp/7.14.1 (Android 15; Pixel 9)",
];
const LANGUAGES: [&str; 4] =
    ["de-DE,de;q=0.9,en;q=0.7", "en-GB,en;q=0.8", "zh-CN,zh;q=0.9", "fr-FR,fr;q=0.9"];
const CITIES: [&str; 4] = ["Köln", "London", "上海", "Lyon"];

/// What the service that does the operation reports.
pub(super) fn of_server(operation: &Operation, failed: bool, random: &mut Rng) -> Tags {
    let mut tags: Tags = vec![
        ("k8s.pod.name", format!("{}-6d5f9c7b8-{:05x}", operation.service, random.u32(0..0x3)).into()),
        ("thread.name", format!("worker-{}", random.u8(1..33)).into()),
    ];
    match operation.via {
        Via::Http => {
            let status = if failed { 500 } else { 200 };
            tags.extend([
                ("http.request.method", method(operation).into()),
                ("url.path", operation.detail.into()),
                ("http.response.status_code", Value::Int(status)),
                ("client.address", format!("10.42.{}.{}", random.u8(0..8), random.u8(2..250)).into()),
                ("http.request.header.user-agent", pick(random, &AGENTS).into()),
                ("http.request.header.accept-language", pick(random, &LANGUAGES).into()),
                ("http.request.header.x-request-id", format!("{:016x}", random.u64(..)).into()),
                ("enduser.id", format!("u-{}", random.u32(10_000..90_000)).into()),
                ("http.response.body.excerpt", response(failed, random).into()),
            ]);
        }
        Via::Grpc => tags.extend([
            ("rpc.system", "grpc".into()),
            ("rpc.method", operation.detail.into()),
            ("rpc.grpc.status_code", Value::Int(if failed { 13 } else { 0 })),
            ("network.peer.address", format!("10.42.{}.{}", random.u8(0..8), random.u8(2..250)).into()),
        ]),
        Via::Queue => tags.extend([
            ("messaging.system", "kafka".into()),
            ("messaging.destination.name", operation.detail.into()),
            ("messaging.kafka.message.offset", Value::Int(random.i64(100_000..900_000))),
            ("messaging.destination.partition.id", random.u8(0..6).to_string().into()),
        ]),
        Via::Internal => {
            tags.extend([("code.function.name", operation.name.into()), ("cache.hit", random.bool().into())])
        }
        Via::Database | Via::ThirdParty => {}
    }
    tags
}

/// What the caller reports.
pub(super) fn of_client(operation: &Operation, failed: bool, random: &mut Rng) -> Tags {
    let server = ("server.address", Value::from(format!("{}.shop.svc", operation.service)));
    match operation.via {
        Via::Database => vec![
            ("db.system.name", operation.service.into()),
            ("db.query.text", operation.detail.into()),
            ("db.response.returned_rows", Value::Int(random.i64(0..40))),
            server,
        ],
        Via::Http | Via::ThirdParty => vec![
            ("http.request.method", method(operation).into()),
            ("url.full", format!("https://{}.shop.svc{}", operation.service, operation.detail).into()),
            ("http.response.status_code", Value::Int(if failed { 503 } else { 200 })),
            ("http.request.header.content-type", "application/json; charset=utf-8".into()),
            ("http.request.resend_count", Value::Int(i64::from(failed))),
            ("http.response.body.excerpt", response(failed, random).into()),
            server,
        ],
        Via::Grpc => vec![
            ("rpc.system", "grpc".into()),
            ("rpc.method", operation.detail.into()),
            ("rpc.grpc.status_code", Value::Int(if failed { 14 } else { 0 })),
            server,
        ],
        Via::Queue => vec![
            ("messaging.system", "kafka".into()),
            ("messaging.destination.name", operation.detail.into()),
            ("messaging.message.body.size", Value::Int(random.i64(400..2_400))),
        ],
        Via::Internal => Vec::new(),
    }
}

/// What went wrong: the operation's own failure, or that of what it called.
pub(super) fn exception(
    operation: &Operation,
    failed_by: Option<&Operation>,
    at_us: u64,
    random: &mut Rng,
) -> Exception {
    let (class, message) = failed_by.map_or(operation.failure, |cause| cause.failure);
    let frame =
        |service: &str, line: u32| format!("\n\tat com.shop.{service}.Handler.handle(Handler.java:{line})");
    let mut stacktrace = format!("{class}: {message}");
    stacktrace.push_str(&frame(operation.service, random.u32(40..400)));
    stacktrace.push_str("\n\tat com.shop.common.Retry.call(Retry.java:88)");
    if let Some(cause) = failed_by {
        stacktrace.push_str(&format!("\nCaused by: {class}: {message}"));
        stacktrace.push_str(&frame(cause.service, random.u32(40..400)));
    }
    stacktrace.push_str("\n\tat java.base/java.lang.Thread.run(Thread.java:1583)");
    Exception { class, message: message.to_owned(), stacktrace, at_us }
}

fn method(operation: &Operation) -> &'static str {
    operation.name.split(' ').next().unwrap_or("GET")
}

fn response(failed: bool, random: &mut Rng) -> String {
    if failed {
        return format!(r#"{{"error":"internal","requestId":"{:08x}","retryable":true}}"#, random.u32(..));
    }
    format!(
        r#"{{"items":[{{"sku":"{:02}-{:04}","cents":{},"currency":"EUR"}}],"city":"{}","total":{}}}"#,
        random.u8(10..99),
        random.u16(1..9_999),
        random.u32(199..49_900),
        pick(random, &CITIES),
        random.u8(1..60)
    )
}

fn pick(random: &mut Rng, choices: &[&'static str]) -> &'static str {
    choices[random.usize(..choices.len())]
}
