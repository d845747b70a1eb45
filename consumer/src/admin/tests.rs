use sluice_crds::error_reason::ErrorReason;
use sluice_crds::live::Live;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::last_error::LastError;
use crate::live::{Applied, Origin};
use crate::source::memory::MemorySource;
use crate::store::{ErrorKind, StoreError};

fn admin() -> Admin {
    Admin { identity: Identity::default(), meters: Arc::default(), source: CurrentSource::default() }
}

#[tokio::test]
async fn ready_is_what_was_reached_once_and_nothing_takes_it_back() {
    let admin = admin();
    let waits_for = |text: &str| {
        let found = admin.waits_for().unwrap();
        assert!(found.contains(text), "{found}");
    };
    waits_for("live document");
    let live = Live { suspend: true, ..Live::of_rate(0) };
    admin.meters.set_applied(&Applied::new(live, 1, Origin::Api));
    waits_for("client of the source");
    let source = MemorySource::new("cluster", "traces", 1);
    admin.source.set(Arc::new(source));
    waits_for("database");
    admin.meters.preflight.store_prepared.store(true, Relaxed);
    waits_for("brokers and topic");
    admin.meters.preflight.source_reached.store(true, Relaxed);
    waits_for("group");
    admin.meters.preflight.group_joined.store(true, Relaxed);
    assert_eq!(admin.waits_for(), None);

    admin.meters.store_failed(None, &StoreError::new(ErrorKind::Unavailable, "away"));
    admin.meters.source_failed(LastError::new(ErrorReason::SourceUnreachable, "away"));
    assert_eq!(admin.waits_for(), None);
}

#[test]
fn status_names_pipeline_version_and_the_class_of_the_error() {
    let mut admin = admin();
    admin.identity =
        Identity { pipeline: "shop/demo".into(), uid: Some("u1".into()), settings_hash: "abc".into() };
    let json = |admin: &Admin| serde_json::to_value(admin.meters.status(&admin.identity)).unwrap();
    let status = json(&admin);
    assert_eq!(status["pipelineUid"], "u1");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["revision"], 0);
    for field in ["liveSource", "lastError", "lastErrorReason"] {
        assert!(status[field].is_null(), "{status}");
    }
    admin.meters.source_failed(LastError::new(ErrorReason::TopicUnknown, "the topic t does not exist"));
    let status = json(&admin);
    assert_eq!(status["lastErrorReason"], "TopicUnknown");
    assert_eq!(status["lastError"], "the topic t does not exist");
    let mut applied = Applied::nothing_yet(&[Origin::Api]);
    applied.refused = Some(LastError::new(ErrorReason::LiveMissing, "there is none"));
    admin.meters.set_applied(&applied);
    let status = json(&admin);
    assert_eq!(status["lastErrorReason"], "TopicUnknown");
    assert_eq!(status["errors"][1]["reason"], "LiveMissing");
    applied.refused = None;
    admin.meters.set_applied(&applied);
    admin.meters.source_works();
    assert!(json(&admin)["lastErrorReason"].is_null());
}

#[test]
fn metrics_tell_where_the_live_document_can_be_read() {
    let admin = admin();
    let live = Live::of_rate(5);
    let mut applied = Applied::new(live, 3, Origin::Directory);
    applied.sources = vec![(Origin::Api, false), (Origin::Directory, true)];
    admin.meters.set_applied(&applied);
    let text = metrics::encode(&admin).unwrap();
    for line in [
        "sluice_live_source_up{source=\"api\"} 0.0",
        "sluice_live_source_up{source=\"directory\"} 1.0",
        "sluice_live_refused 0.0",
        "sluice_live_revision 3.0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn status_has_the_fields_that_were_promised() {
    let admin = admin();
    let at = crate::source::TopicPartition { topic: "t".into(), partition: 0 };
    admin.meters.add_partition(&at);
    admin.meters.set_partition(&at, crate::meter::PartitionMeter { position: 1, end: Some(3) });
    let status = serde_json::to_value(admin.meters.status(&admin.identity)).unwrap();
    let promised = [
        "pipeline",
        "revision",
        "liveSource",
        "rateLimitQPS",
        "effectiveQPS",
        "achievedQPS",
        "suspended",
        "guardQPS",
        "leasedFraction",
        "bottleneck",
        "partitions",
        "stored",
        "deadLetters",
        "drainSeconds",
        "lastError",
        "settingsHash",
    ];
    for field in promised {
        assert!(status.get(field).is_some(), "{field} is missing in {status}");
    }
    let partition = serde_json::json!({ "topic": "t", "partition": 0, "position": 1, "lag": 2 });
    assert_eq!(status["partitions"], serde_json::json!([partition]));
    let documented = include_str!("../../../docs/metrics.md");
    let fields = &documented[documented.find("## `GET /status`").unwrap()..];
    for field in status.as_object().unwrap().keys() {
        assert!(fields.contains(&format!("`{field}`")), "docs/metrics.md does not name {field}");
    }
}

#[test]
fn the_documented_metrics_are_those_that_are_served() {
    let admin = admin();
    let at = crate::source::TopicPartition { topic: "t".into(), partition: 0 };
    admin.meters.set_rate(1, 1.0, 1.0, false);
    admin.meters.set_guard(Some(0.5), 1);
    admin.meters.sealing.get_or_init(Arc::default);
    admin.meters.add_partition(&at);
    admin.meters.set_partition(&at, crate::meter::PartitionMeter { position: 1, end: Some(3) });
    admin.meters.retention.set(Some(std::time::Duration::from_secs(60)));
    admin.meters.retention.set_behind(std::time::Duration::ZERO);
    admin.meters.dead_letter_topic.set_ours(true);
    let text = metrics::encode(&admin).unwrap();
    let mut served: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let documented = include_str!("../../../docs/metrics.md");
    let rows = documented.lines().take_while(|line| !line.starts_with("## "));
    let mut named: Vec<(String, String)> = rows
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once("` | "))
        .map(|(name, rest)| (name.to_owned(), rest.split(' ').next().unwrap_or_default().to_owned()))
        .map(|(name, kind)| (name.strip_suffix("_total").unwrap_or(&name).to_owned(), kind))
        .collect();
    served.sort();
    named.sort();
    assert_eq!(served, named);
}

#[tokio::test]
async fn every_address_is_every_one_of_ipv4_where_there_is_no_ipv6() {
    let every = |port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    for (kind, address, expected) in [
        (io::ErrorKind::Unsupported, every(80), Some("0.0.0.0:80")),
        (io::ErrorKind::AddrNotAvailable, every(80), Some("0.0.0.0:80")),
        // Somebody else serves there.
        (io::ErrorKind::AddrInUse, every(80), None),
        // This one was meant, and no other.
        (io::ErrorKind::AddrNotAvailable, SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 80), None),
    ] {
        let bind = async |address: SocketAddr| if address.is_ipv6() { Err(kind.into()) } else { Ok(address) };
        let bound = listen_by(address, bind).await;
        assert_eq!(bound.ok().map(|address| address.to_string()).as_deref(), expected, "{kind} {address}");
    }
    let listener = listen(every(0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
}

/// Else the kubelet would end a process that is well.
#[tokio::test]
async fn idle_connections_keep_nobody_from_hearing_that_it_is_alive() {
    let stop = CancellationToken::new();
    let address = serve(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), admin(), stop.clone()).await.unwrap();
    let livez = async |stream: &mut TcpStream| {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.unwrap();
        &answer == b"HTTP/1.1 200 OK"
    };
    let mut idle = Vec::new();
    for number in 0..LIMITS.connections {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Some have asked, and wait; others have never asked.
        assert!(number % 2 == 0 || livez(&mut stream).await);
        idle.push(stream);
    }
    // As soon as they are idle, and not only just come.
    let heard = async { while !livez(&mut TcpStream::connect(address).await.unwrap()).await {} };
    tokio::time::timeout(Duration::from_secs(10), heard).await.unwrap();
    for _ in 0..2 * LIMITS.connections {
        assert!(livez(&mut TcpStream::connect(address).await.unwrap()).await);
    }
    stop.cancel();
}
