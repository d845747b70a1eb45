//! `sluice local` from outside: the built binary, its HTTP, its files, its death. Needs nothing but cargo.

mod slow;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::Signal;
use sluice_consumer::loadgen::encode::message;
use sluice_consumer::loadgen::shop::Shop;
use sluice_crds::v1alpha1::Format;
use sluice_tests::component::{Component, Launch, Scratch};
use sluice_tests::sluice::binary;
use sluice_tests::{eventually, free_port};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, Row, SqliteConnection};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(30);
const JSON: Headers<'static> = &[("content-type", "application/json")];
const PROTO: Headers<'static> = &[("content-type", "application/x-protobuf")];

/// Names and values.
type Headers<'h> = &'h [(&'h str, &'h str)];
type Http = Client<HttpConnector, Full<Bytes>>;

fn client() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

struct Answer {
    status: u16,
    headers: hyper::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

async fn call(client: &Http, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let answer = tokio::time::timeout(SOON, client.request(request)).await??;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Ok(Answer { status, headers, body: answer.into_body().collect().await?.to_bytes().to_vec() })
}

/// A data folder and the processes that use it, one after the other.
struct Place {
    dir: Scratch,
    http: u16,
    admin: u16,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { dir: Scratch::new("sluice-local-")?, http: free_port()?, admin: free_port()? })
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn launch(&self, name: &str, more: &[&str]) -> anyhow::Result<Component> {
        let (http, admin) = (format!("127.0.0.1:{}", self.http), format!("127.0.0.1:{}", self.admin));
        let data = self.data().display().to_string();
        let arguments = ["local", "--data-dir", &data, "--listen", &http, "--admin", &admin];
        let launch = Launch {
            program: binary()?,
            arguments: arguments.iter().chain(more).map(|text| (*text).to_owned()).collect(),
            environment: Vec::new(),
            log: self.dir.path().join(format!("{name}.log")),
        };
        Component::start(name, &launch)
    }

    /// Starts and waits until it is ready.
    async fn start(&self, name: &str, more: &[&str]) -> anyhow::Result<Component> {
        let mut component = self.launch(name, more)?;
        let client = client();
        eventually("sluice local to be ready", SOON, async || {
            ensure!(component.is_running()?, "it ended; its log:\n{}", component.log_tail(20));
            // Ready: the database has its tables and the pipeline its partitions.
            let uri = format!("http://127.0.0.1:{}/readyz", self.admin);
            let ready = call(&client, Request::get(uri).body(Full::default())?).await;
            Ok(ready.ok().filter(|answer| answer.status == 200).map(drop))
        })
        .await?;
        Ok(component)
    }

    async fn get(&self, client: &Http, path: &str) -> anyhow::Result<Answer> {
        let uri = format!("http://127.0.0.1:{}{path}", self.http);
        call(client, Request::get(uri).body(Full::default())?).await
    }

    async fn post(
        &self,
        client: &Http,
        path: &str,
        headers: Headers<'_>,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::post(format!("http://127.0.0.1:{}{path}", self.http));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        call(client, request.body(Full::new(body.into()))?).await
    }

    /// Replaces the set rate in the pipeline file.
    fn set_rate(&self, rate: u32) -> anyhow::Result<()> {
        let file = self.data().join("pipeline.yaml");
        let text = std::fs::read_to_string(&file)?;
        let line = text.lines().find(|line| line.starts_with("  rateLimitQPS:")).context("no rate")?;
        Ok(std::fs::write(&file, text.replace(line, &format!("  rateLimitQPS: {rate}")))?)
    }

    /// How often each `traceId spanId` is in the table.
    async fn rows(&self) -> anyhow::Result<HashMap<(String, String), usize>> {
        let options = SqliteConnectOptions::new().filename(self.data().join("sluice.db")).read_only(true);
        let mut database = SqliteConnection::connect_with(&options).await?;
        let rows = sqlx::query(
            "SELECT trace_id, coalesce(body ->> 'id', body ->> 'spanId') FROM connectivity_trace",
        );
        let mut found = HashMap::new();
        for row in rows.fetch_all(&mut database).await? {
            *found.entry((row.get(0), row.get(1))).or_default() += 1;
        }
        Ok(found)
    }
}

fn spans(trace: &str, count: usize) -> String {
    let span = |index| {
        format!(
            r#"{{"traceId":"{trace}","id":"{index:016x}","kind":"SERVER","name":"get","timestamp":1760000000000000,"duration":5}}"#
        )
    };
    format!("[{}]", (1..=count).map(span).collect::<Vec<_>>().join(","))
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_acknowledged_and_doubles_nothing() -> anyhow::Result<()> {
    const POSTERS: u64 = 8;
    const SPANS: usize = 3;
    let place = Arc::new(Place::new()?);
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let mut sluice = place.start("life-0", &[]).await?;
    for life in 0..3u64 {
        let mut posters = JoinSet::new();
        for poster in 0..POSTERS {
            let (place, acknowledged) = (place.clone(), acknowledged.clone());
            posters.spawn(async move {
                let client = client();
                for number in 0.. {
                    let trace = format!("{:016x}{number:016x}", life << 8 | poster);
                    let posted = place.post(&client, "/api/v2/spans", JSON, spans(&trace, SPANS)).await;
                    // From the kill on, nobody answers.
                    if !posted.is_ok_and(|answer| answer.status == 202) {
                        break;
                    }
                    acknowledged.lock().unwrap().push(trace);
                }
            });
        }
        let enough = (life as usize + 1) * 400;
        eventually("posts to be acknowledged", SOON, async || {
            Ok((acknowledged.lock().unwrap().len() >= enough).then_some(()))
        })
        .await?;
        sluice.kill().await?;
        while posters.join_next().await.transpose()?.is_some() {}
        sluice = place.start(&format!("life-{}", life + 1), &[]).await?;
    }
    place.set_rate(1_000_000)?;
    let expected: HashSet<_> = acknowledged
        .lock()
        .unwrap()
        .iter()
        .flat_map(|trace| (1..=SPANS).map(move |id| (trace.clone(), format!("{id:016x}"))))
        .collect();
    let mut missing = usize::MAX;
    let stored = eventually("everything acknowledged to be stored", SOON, async || {
        let rows = place.rows().await?;
        missing = expected.iter().filter(|span| !rows.contains_key(*span)).count();
        Ok((missing == 0).then_some(rows))
    })
    .await;
    let rows = stored.with_context(|| format!("{missing} of {} are missing", expected.len()))?;
    let doubled: Vec<_> = rows.iter().filter(|(_, count)| **count > 1).collect();
    ensure!(doubled.is_empty(), "stored twice: {doubled:?}");
    Ok(())
}

#[tokio::test]
async fn a_fresh_folder_stores_a_trace_and_gives_it_back_in_both_forms() -> anyhow::Result<()> {
    let place = Place::new()?;
    let began = Instant::now();
    let mut sluice = place.start("first", &[]).await?;
    let (client, trace) = (client(), "463ac35c9f6413ad48485a3953bb6124");
    let posted = place.post(&client, "/api/v2/spans", JSON, spans(trace, 2)).await?;
    assert_eq!(posted.status, 202, "{}", posted.text());
    let zipkin = eventually("the trace to be stored", SOON, async || {
        let answer = place.get(&client, &format!("/api/v2/trace/{trace}")).await?;
        Ok((answer.status == 200).then_some(answer))
    })
    .await?;
    println!("first trace stored and read {:?} after the start", began.elapsed());
    assert_eq!(zipkin.text(), spans(trace, 2), "bodies are verbatim");

    let upper = place.get(&client, &format!("/api/v2/trace/{}", trace.to_uppercase())).await?;
    assert_eq!(upper.status, 200, "Zipkin's ids know no case");
    let rows = place.get(&client, &format!("/api/v1/traces/{trace}")).await?;
    let rows: serde_json::Value = serde_json::from_slice(&rows.body)?;
    assert_eq!((&rows["traceId"], &rows["answeredBy"]), (&trace.into(), &"database".into()));
    assert_eq!(rows["spans"].as_array().map(Vec::len), Some(2));
    assert!(rows["spans"][0]["id"].is_string() && rows["spans"][0]["createdAt"].is_string(), "{rows}");
    assert_eq!(rows["spans"][1]["body"]["id"], "0000000000000002");
    for (path, status) in [
        ("/api/v2/trace/abc", 404),
        ("/api/v1/traces/abc", 404),
        (&*format!("/api/v1/traces/{}", "a".repeat(65)), 400),
        (&*format!("/api/v2/trace/{}", "a".repeat(65)), 400),
    ] {
        assert_eq!(place.get(&client, path).await?.status, status, "{path}");
    }
    assert_eq!(sluice.stop(SOON).await?, 0, "{}", sluice.log_tail(20));
    Ok(())
}

/// How long the demo takes from its start, in a fresh folder, to its first row.
async fn first_row_of_the_demo(name: &str) -> anyhow::Result<Duration> {
    let place = Place::new()?;
    let began = Instant::now();
    let mut demo = place.launch(name, &["--demo"])?;
    let options = SqliteConnectOptions::new().filename(place.data().join("sluice.db")).read_only(true);
    eventually("the first row", SOON, async || {
        ensure!(demo.is_running()?, "it ended; its log:\n{}", demo.log_tail(20));
        // Until it has made its file and its tables there is nothing to ask.
        let Ok(mut database) = SqliteConnection::connect_with(&options).await else { return Ok(None) };
        let row = sqlx::query("SELECT 1 FROM connectivity_trace LIMIT 1").fetch_optional(&mut database).await;
        Ok(row.ok().flatten().map(drop))
    })
    .await?;
    Ok(began.elapsed())
}

#[tokio::test]
async fn otlp_is_taken_as_its_specification_says() -> anyhow::Result<()> {
    let place = Place::new()?;
    let _sluice = place.start("otlp", &[]).await?;
    let (client, traces) = (client(), Shop::new(5).traces(3));
    let gzip = |bytes: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, bytes).unwrap();
        packed.finish().unwrap()
    };
    let packed: Vec<_> = PROTO.iter().chain(&[("content-encoding", "gzip")]).copied().collect();
    let pushes = [
        (PROTO, message(Format::OtlpProto, &traces[0])),
        (JSON, message(Format::OtlpJson, &traces[1])),
        (&*packed, gzip(&message(Format::OtlpProto, &traces[2]))),
    ];
    for (headers, body) in pushes {
        let answer = place.post(&client, "/v1/traces", headers, body).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.headers["content-type"], headers[0].1);
        assert_eq!(answer.text(), if headers[0].1 == "application/json" { "{}" } else { "" });
    }
    let expected: HashSet<_> = traces
        .iter()
        .flatten()
        .map(|span| (format!("{:032x}", span.trace_id), format!("{:016x}", span.id)))
        .collect();
    let rows = eventually("the spans to be stored", SOON, async || {
        let rows = place.rows().await?;
        Ok((rows.len() >= expected.len()).then_some(rows))
    })
    .await?;
    assert_eq!(rows.into_keys().collect::<HashSet<_>>(), expected);

    let partial = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[
        {"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","name":"a"},
        {"spanId":"b7ad6b7169203332","name":"b"}]}]}]}"#;
    let answer = place.post(&client, "/v1/traces", JSON, partial).await?;
    let value: serde_json::Value = serde_json::from_slice(&answer.body)?;
    assert_eq!((answer.status, &value["partialSuccess"]["rejectedSpans"]), (200, &"1".into()), "{value}");
    let nothing = place.post(&client, "/v1/traces", PROTO, Vec::new()).await?;
    assert_eq!(nothing.status, 200, "an empty request is a valid one");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_with_a_reason_and_not_queued() -> anyhow::Result<()> {
    let place = Place::new()?;
    let _sluice = place.start("refusals", &[]).await?;
    let client = client();
    let gzip_json: Vec<_> = JSON.iter().chain(&[("content-encoding", "gzip")]).copied().collect();
    let bomb = {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut packed, &vec![b' '; 100 << 20])?;
        packed.finish()?
    };
    let brotli: Vec<_> = JSON.iter().chain(&[("content-encoding", "br")]).copied().collect();
    let cases: [(&str, Headers<'_>, Vec<u8>, u16); 10] = [
        ("/api/v2/spans", JSON, b"[{\"traceId\":".to_vec(), 400),
        ("/api/v2/spans", JSON, b"[{\"id\":\"1\"}]".to_vec(), 400),
        ("/api/v2/spans", PROTO, b"\xff\xff\xff".to_vec(), 400),
        ("/api/v2/spans", &gzip_json, b"not gzip".to_vec(), 400),
        ("/api/v2/spans", &gzip_json, bomb, 413),
        ("/api/v2/spans", JSON, vec![b' '; (4 << 20) + 1], 413),
        ("/api/v2/spans", &brotli, b"x".to_vec(), 415),
        ("/api/v2/spans", &[("content-type", "application/x-thrift")], b"x".to_vec(), 415),
        ("/v1/traces", JSON, b"{}x".to_vec(), 400),
        ("/v1/traces", PROTO, b"\xff\xff\xff".to_vec(), 400),
    ];
    for (path, headers, body, status) in cases {
        let answer = place.post(&client, path, headers, body).await?;
        assert_eq!(answer.status, status, "{path} {headers:?}: {}", answer.text());
        assert!(!answer.body.is_empty(), "{path} {headers:?}: no reason");
    }
    let refused = place.post(&client, "/v1/traces", JSON, b"{}x".to_vec()).await?;
    let value: serde_json::Value = serde_json::from_slice(&refused.body)?;
    assert_eq!(value["code"], 3, "google.rpc.Code INVALID_ARGUMENT: {value}");
    assert_eq!(place.post(&client, "/api/v2/spans", JSON, "[]").await?.status, 202, "no span is no error");
    let status = call(
        &client,
        Request::get(format!("http://127.0.0.1:{}/status", place.admin)).body(Full::default())?,
    )
    .await?;
    let status: serde_json::Value = serde_json::from_slice(&status.body)?;
    assert_eq!(status["deadLetters"], 0, "{status}");
    Ok(())
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_refused_and_told_why() -> anyhow::Result<()> {
    let place = Place::new()?;
    let first = place.start("first", &[]).await?;
    let mut second = place.launch("second", &[])?;
    assert_eq!(second.ended(SOON).await?, 1);
    let log = second.log_tail(200);
    assert!(log.contains("in use by another sluice") && log.contains(&first.pid().to_string()), "{log}");
    Ok(())
}

#[tokio::test]
async fn loadgen_accounts_for_every_span_and_fails_when_one_is_not_taken() -> anyhow::Result<()> {
    let place = Place::new()?;
    let _sluice = place.start("target", &[]).await?;
    place.set_rate(1_000_000)?;
    let ledger = place.dir.path().join("ledger");
    let run = |url: String| {
        let arguments = ["loadgen", "--http", &url, "--traces", "300", "--format", "OtlpProto", "-o", "json"]
            .into_iter()
            .chain(["--ledger", ledger.to_str().unwrap()])
            .map(str::to_owned)
            .collect();
        let log = place.dir.path().join("loadgen.log");
        Component::start("loadgen", &Launch { program: binary()?, arguments, environment: Vec::new(), log })
    };
    let mut refused = run(format!("http://127.0.0.1:{}/nowhere", place.http))?;
    assert_eq!(refused.ended(SOON).await?, 1);
    assert!(refused.log_tail(200).contains("were not acknowledged"), "{}", refused.log_tail(200));

    let mut taken = run(format!("http://127.0.0.1:{}", place.http))?;
    assert_eq!(taken.ended(SOON).await?, 0, "{}", taken.log_tail(5));
    let expected: HashSet<_> = std::fs::read_to_string(&ledger)?
        .lines()
        .filter_map(|line| line.split_once(' ').map(|(trace, id)| (trace.to_owned(), id.to_owned())))
        .collect();
    assert!(expected.len() > 300);
    let rows = eventually("every span to be stored", SOON, async || {
        let rows = place.rows().await?;
        Ok((rows.len() >= expected.len()).then_some(rows))
    })
    .await?;
    assert_eq!(rows.into_keys().collect::<HashSet<_>>(), expected);
    Ok(())
}

#[tokio::test]
async fn the_demo_logs_without_a_terminal_follows_the_edit_and_stops_on_ctrl_c() -> anyhow::Result<()> {
    let place = Place::new()?;
    let mut demo = place.start("demo", &["--demo"]).await?;
    let stored = |rate: u64| {
        let log = std::fs::read_to_string(demo.log()).unwrap_or_default();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|line| line["message"] == "demo").any(|line| {
            line["set_rate"] == rate
                && line["backlog"].as_u64() > Some(0)
                && line["stored"].as_u64() > Some(0)
        })
    };
    eventually("the demo to store at the first rate", SOON, async || Ok(stored(2_000).then_some(()))).await?;
    place.set_rate(700)?;
    eventually("the demo to show the edit", SOON, async || Ok(stored(700).then_some(()))).await?;
    let log = std::fs::read_to_string(demo.log())?;
    assert!(log.contains("To change the rate, edit rateLimitQPS in"), "{log}");
    assert!(log.contains("curl http://127.0.0.1:"), "{log}");
    demo.signal(Signal::SIGINT)?;
    assert_eq!(demo.ended(SOON).await?, 0, "{}", demo.log_tail(10));
    assert!(demo.log_tail(3).contains("look at the rows"), "{}", demo.log_tail(3));
    Ok(())
}

mod alone {
    use super::*;

    #[tokio::test]
    #[ignore = "measures a time"]
    async fn the_demo_has_stored_its_first_row_in_less_than_two_seconds() -> anyhow::Result<()> {
        // The best of three: what else the machine does at the moment is not what is measured.
        let mut best = Duration::MAX;
        for name in ["first", "second", "third"] {
            best = best.min(first_row_of_the_demo(name).await?);
            println!("the first row after {best:?}");
        }
        ensure!(best < Duration::from_secs(2), "the first row only after {best:?}");
        Ok(())
    }
}
