//! Packets that are lost on the way to a port of the loopback interface, and back. Needs root.
//!
//! Guarantee: none is any more once its handle has gone, or the test process, however that ends.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};

/// Takes the rules back when its input closes.
const JANITOR: &str = r#"read -r _; iptables --wait --delete INPUT $1; iptables --wait --delete INPUT $2"#;

/// While this lives, packets are lost.
#[derive(Debug)]
pub struct Loss {
    janitor: Child,
}

impl Loss {
    /// Loses this share of all packets to a port, and as many of those from it: 1 is all of them.
    ///
    /// # Errors
    /// The system refuses: only root may.
    pub fn start(port: u16, share: f64) -> anyhow::Result<Self> {
        let rules = ["dport", "sport"].map(|side| {
            format!(
                "--in-interface lo --protocol tcp --{side} {port} --match statistic --mode random \
                 --probability {share} --jump DROP"
            )
        });
        // Before the first rule, so that nothing remains of a test that ends between the two.
        let janitor = Command::new("/bin/sh")
            .args(["-c", JANITOR, "janitor"])
            .args(&rules)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start /bin/sh")?;
        let loss = Self { janitor };
        for rule in &rules {
            let inserted = Command::new("iptables")
                .args(["--wait", "--insert", "INPUT"])
                .args(rule.split(' '))
                .status()
                .context("cannot run iptables")?;
            ensure!(inserted.success(), "cannot lose packets of port {port}: this test must be root");
        }
        Ok(loss)
    }
}

impl Drop for Loss {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        if let Err(error) = self.janitor.wait() {
            eprintln!("packets may still be lost: {error}");
        }
    }
}
