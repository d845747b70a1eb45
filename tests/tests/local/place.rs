//! A data folder, and HTTP to the process that uses it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sluice_tests::component::{Component, Launch, Scratch};
use sluice_tests::sluice::binary;
use sluice_tests::{eventually, free_port};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, Row, SqliteConnection};

pub const SOON: Duration = Duration::from_secs(30);
pub const JSON: Headers<'static> = &[("content-type", "application/json")];
pub const PROTO: Headers<'static> = &[("content-type", "application/x-protobuf")];

/// Names and values.
pub type Headers<'h> = &'h [(&'h str, &'h str)];
pub type Http = Client<HttpConnector, Full<Bytes>>;

pub fn client() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

pub struct Answer {
    pub status: u16,
    pub headers: hyper::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub async fn call(client: &Http, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let answer = tokio::time::timeout(SOON, client.request(request)).await??;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Ok(Answer { status, headers, body: answer.into_body().collect().await?.to_bytes().to_vec() })
}

/// A data folder and the processes that use it, one after the other.
pub struct Place {
    pub dir: Scratch,
    pub http: u16,
    pub admin: u16,
}

impl Place {
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { dir: Scratch::new("sluice-local-")?, http: free_port()?, admin: free_port()? })
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn launch(&self, name: &str, more: &[&str]) -> anyhow::Result<Component> {
        self.launch_as(name, binary()?, &[], more)
    }

    /// As `sluice` does that `program` starts, which gets `before` before the arguments of that.
    pub fn launch_as(
        &self,
        name: &str,
        program: PathBuf,
        before: &[&str],
        more: &[&str],
    ) -> anyhow::Result<Component> {
        let (http, admin) = (format!("127.0.0.1:{}", self.http), format!("127.0.0.1:{}", self.admin));
        let data = self.data().display().to_string();
        let arguments = ["local", "--data-dir", &data, "--listen", &http, "--admin", &admin];
        let launch = Launch {
            program,
            arguments: before.iter().chain(&arguments).chain(more).map(|text| (*text).to_owned()).collect(),
            environment: Vec::new(),
            log: self.dir.path().join(format!("{name}.log")),
        };
        Component::start(name, &launch)
    }

    /// Starts and waits until it is ready.
    pub async fn start(&self, name: &str, more: &[&str]) -> anyhow::Result<Component> {
        let mut component = self.launch(name, more)?;
        self.ready(&mut component).await?;
        Ok(component)
    }

    /// Waits until what was launched is ready.
    pub async fn ready(&self, component: &mut Component) -> anyhow::Result<()> {
        let client = client();
        eventually("sluice local to be ready", SOON, async || {
            ensure!(component.is_running()?, "it ended; its log:\n{}", component.log_tail(20));
            // Ready: the database has its tables and the pipeline its partitions.
            let uri = format!("http://127.0.0.1:{}/readyz", self.admin);
            let ready = call(&client, Request::get(uri).body(Full::default())?).await;
            Ok(ready.ok().filter(|answer| answer.status == 200).map(drop))
        })
        .await
    }

    pub async fn get(&self, client: &Http, path: &str) -> anyhow::Result<Answer> {
        let uri = format!("http://127.0.0.1:{}{path}", self.http);
        call(client, Request::get(uri).body(Full::default())?).await
    }

    pub async fn post(
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
    pub fn set_rate(&self, rate: u32) -> anyhow::Result<()> {
        let file = self.data().join("pipeline.yaml");
        let text = std::fs::read_to_string(&file)?;
        let line = text.lines().find(|line| line.starts_with("  rateLimitQPS:")).context("no rate")?;
        Ok(std::fs::write(&file, text.replace(line, &format!("  rateLimitQPS: {rate}")))?)
    }

    pub fn suspend(&self, suspend: bool) -> anyhow::Result<()> {
        let file = self.data().join("pipeline.yaml");
        let text = std::fs::read_to_string(&file)?;
        let line = text.lines().find(|line| line.starts_with("  suspend:")).context("no suspend")?;
        Ok(std::fs::write(&file, text.replace(line, &format!("  suspend: {suspend}")))?)
    }

    /// How many rows are in the table.
    pub async fn count(&self) -> anyhow::Result<u64> {
        let rows = sqlx::query("SELECT count(*) FROM connectivity_trace");
        let count: i64 = rows.fetch_one(&mut self.database().await?).await?.get(0);
        Ok(count as u64)
    }

    async fn database(&self) -> anyhow::Result<SqliteConnection> {
        let options = SqliteConnectOptions::new().filename(self.data().join("sluice.db")).read_only(true);
        Ok(SqliteConnection::connect_with(&options).await?)
    }

    /// How often each `traceId spanId` is in the table.
    pub async fn rows(&self) -> anyhow::Result<HashMap<(String, String), usize>> {
        let mut database = self.database().await?;
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

pub fn spans(trace: &str, count: usize) -> String {
    let span = |index| {
        format!(
            r#"{{"traceId":"{trace}","id":"{index:016x}","kind":"SERVER","name":"get","timestamp":1760000000000000,"duration":5}}"#
        )
    };
    format!("[{}]", (1..=count).map(span).collect::<Vec<_>>().join(","))
}
