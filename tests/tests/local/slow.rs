//! Clients that take their time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use http_body_util::Full;
use hyper::Request;
use sluice_tests::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::place::{JSON, Place, SOON, call, client, spans};

/// Sends a byte every second until the server closes, and gives what it has answered.
async fn trickle(address: String, head: &'static str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(head.as_bytes()).await?;
    let (began, mut seconds, mut answer) = (Instant::now(), interval(Duration::from_secs(1)), Vec::new());
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ensure!(began.elapsed() < SOON, "still connected after {SOON:?}");
        tokio::select! {
            read = stream.read_buf(&mut answer) => match read {
                Ok(bytes) if bytes > 0 => {}
                // A connection that is reset is closed as well.
                Ok(_) | Err(_) => return Ok(String::from_utf8_lossy(&answer).into_owned()),
            },
            _ = seconds.tick() => {
                // The next read tells whether the server listens.
                let _ = stream.write_all(b"x").await;
            }
        }
    }
}

/// What is answered on a connection of its own. Hyper's client takes an answer that comes before it has asked, as it
/// does where there is no place, for an error.
async fn ask(address: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const HALF_A_HEAD: &str = "POST /api/v2/spans HTTP/1.1\r\nhost: x\r\nx-slow: ";
const HALF_A_BODY: &str = "POST /api/v2/spans HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n[";
/// More than they cost; a body of 4 MiB for each would be 4 GB.
const SLOW_CLIENTS_MEMORY: u64 = 64 << 20;

#[tokio::test]
async fn a_thousand_slow_clients_are_cut_off_in_bounded_memory_while_others_are_told_to_come_again()
-> anyhow::Result<()> {
    let place = Place::new()?;
    let local = place.start("slow", &[]).await?;
    let before = local.memory("VmRSS")?;
    let address = format!("127.0.0.1:{}", place.http);
    let mut slow = JoinSet::new();
    // Whose body is on its way has its place until it is late; who has not even sent a head makes room for others.
    for _ in 0..900 {
        slow.spawn(trickle(address.clone(), HALF_A_BODY));
    }
    // Whoever comes while all places are taken is told when to come again, at once.
    eventually("somebody to be turned away", SOON, async || {
        // While slow ones are being told, too, it may be closed without a word.
        let Ok(answer) = ask(&address).await else { return Ok(None) };
        let told = answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: ");
        ensure!(told || answer.is_empty() || answer.starts_with("HTTP/1.1 200 "), "{answer}");
        Ok(told.then_some(()))
    })
    .await?;
    for _ in 0..100 {
        slow.spawn(trickle(address.clone(), HALF_A_HEAD));
    }
    let mut answers = HashMap::<String, usize>::new();
    while let Some(answer) = slow.join_next().await {
        let answer = answer??;
        *answers.entry(answer.lines().next().unwrap_or("closed").to_owned()).or_default() += 1;
    }
    println!("{answers:?}");
    let count =
        |text: &str| answers.iter().filter(|(line, _)| line.contains(text)).map(|(_, count)| count).sum();
    let (closed, late, refused): (usize, usize, usize) = (count("closed"), count("408"), count("503"));
    ensure!(closed + late + refused == 1_000 && late > 0 && refused > 0, "{answers:?}");
    let grown = local.memory("VmHWM")?.saturating_sub(before);
    println!("{} KiB more than before", grown >> 10);
    ensure!(grown < SLOW_CLIENTS_MEMORY, "{grown} bytes");
    let client = client();
    let answer = place.post(&client, "/api/v2/spans", JSON, spans("ab", 1)).await?;
    ensure!(answer.status == 202, "{} {}", answer.status, answer.text());
    // The other port has limits of its own, and was not touched.
    let uri = format!("http://127.0.0.1:{}/status", place.admin);
    ensure!(call(&client, Request::get(uri).body(Full::default())?).await?.status == 200);
    Ok(())
}
