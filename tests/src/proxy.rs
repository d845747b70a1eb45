//! A TCP proxy between a client and a server. When it is told to, it keeps the server's answers to itself, delays
//! them, or leads to another server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// A listener on a free port of the loopback interface; ends with its handle.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    awaited: Mutex<Awaited>,
    holding: watch::Sender<bool>,
    cut: Notify,
    route: watch::Sender<Option<SocketAddr>>,
    delay: watch::Sender<Duration>,
}

/// What a client must say, one after the other, on one connection.
#[derive(Default)]
struct Awaited {
    words: Vec<Vec<u8>>,
    /// Counts the times that words were set: what was said of earlier ones does not count.
    times: usize,
}

/// What was said of it on one connection.
#[derive(Default)]
struct Said {
    words: usize,
    times: usize,
}

impl Proxy {
    /// Begins to pass on connections to a server.
    ///
    /// # Errors
    /// The operating system gives no port.
    pub async fn start(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, shared) = (listener.local_addr()?, Arc::new(Shared::default()));
        shared.route.send_replace(Some(server));
        let accepting = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let shared = shared.clone();
                    // However it ends, both ends see their connection closed.
                    tokio::spawn(async move { drop(pass_on(client, &shared).await) });
                }
            }
        });
        Ok(Self { address, shared, accepting })
    }

    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on waits for a connection on which the client says all of `words`, in this order: what the server
    /// answers to the last of them, and whatever follows, stays here. One connection only.
    pub fn hold_answers_after(&self, words: &[&str]) {
        let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let mut awaited = self.shared.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let times = awaited.times + 1;
        *awaited = Awaited { words, times };
    }

    /// Waits until answers are held back.
    ///
    /// # Errors
    /// Nobody said the words within `deadline`.
    pub async fn holds(&self, deadline: Duration) -> anyhow::Result<()> {
        let mut holding = self.shared.holding.subscribe();
        let held = tokio::time::timeout(deadline, holding.wait_for(|holding| *holding)).await;
        held.context("nobody said the words")?.map(drop).context("the proxy has ended")
    }

    /// From now on leads to another server; connections to the former one are closed.
    pub fn redirect(&self, server: SocketAddr) {
        self.shared.route.send_replace(Some(server));
    }

    /// From now on keeps every answer back for so long.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay.send_replace(delay);
    }

    /// Closes the connection whose answers are held back, without them.
    pub fn cut(&self) {
        self.shared.holding.send_replace(false);
        self.shared.cut.notify_waiters();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    /// Takes what a client says. Whether it was the last of the words.
    fn hears(&self, bytes: &[u8], said: &mut Said) -> bool {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        if said.times != awaited.times {
            *said = Said { words: 0, times: awaited.times };
        }
        let Some(word) = awaited.words.get(said.words) else { return false };
        if !bytes.windows(word.len()).any(|window| window == word) {
            return false;
        }
        said.words += 1;
        let all = said.words == awaited.words.len();
        if all {
            awaited.words.clear();
        }
        all
    }
}

async fn pass_on(mut client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut route = shared.route.subscribe();
    let Some(server) = *route.borrow_and_update() else { return Ok(()) };
    let mut server = TcpStream::connect(server).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let (mut question, mut answer) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let (mut said, mut holding) = (Said::default(), false);
    let cut = shared.cut.notified();
    tokio::pin!(cut);
    loop {
        tokio::select! {
            read = from_client.read(&mut question) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                // Before it is passed on, so that no answer gets through.
                if !holding && shared.hears(&question[..read], &mut said) {
                    holding = true;
                    shared.holding.send_replace(true);
                }
                to_server.write_all(&question[..read]).await?;
            }
            read = from_server.read(&mut answer), if !holding => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                let delay = *shared.delay.borrow();
                tokio::time::sleep(delay).await;
                to_client.write_all(&answer[..read]).await?;
            }
            _ = route.changed() => return Ok(()),
            () = &mut cut => {
                if holding {
                    return Ok(());
                }
                cut.set(shared.cut.notified());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = client.split();
                    tokio::io::copy(&mut reader, &mut writer).await
                });
            }
        });
        address
    }

    async fn says(client: &mut TcpStream, words: &str) -> String {
        client.write_all(words.as_bytes()).await.unwrap();
        let mut answer = vec![0; words.len()];
        client.read_exact(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn answers_after_the_words_never_arrive() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.hold_answers_after(&["rows", "COMMIT"]);
        assert_eq!(says(&mut client, "COMMIT").await, "COMMIT", "there were no rows before");
        assert_eq!(says(&mut client, "some rows").await, "some rows");
        client.write_all(b"COMMIT").await.unwrap();
        proxy.holds(Duration::from_secs(10)).await.unwrap();
        let mut other = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut other, "rows COMMIT").await, "rows COMMIT", "one connection only");
        proxy.cut();
        let mut answer = Vec::new();
        // Closed, or reset: either way without an answer.
        drop(client.read_to_end(&mut answer).await);
        assert_eq!(answer, b"");
        assert_eq!(says(&mut other, "still there").await, "still there");
    }

    #[tokio::test]
    async fn another_server_is_led_to_and_answers_are_late() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut client, "before").await, "before");
        proxy.redirect(echo().await);
        drop(client.read_to_end(&mut Vec::new()).await);
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let (delay, asked) = (Duration::from_millis(100), std::time::Instant::now());
        proxy.delay(delay);
        assert_eq!(says(&mut client, "after").await, "after");
        assert!(asked.elapsed() >= delay);
    }
}
