//! Terminals that are left and found again, processes, and folders, in real guests.

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::stream::data;
use sandbar_tests::{ExecSocket, Platform, Sandbox};
use serde_json::{Value, json};

use crate::{Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        a_terminal_is_left_and_found_again_with_what_it_has_shown,
        processes_are_listed_and_killed,
        folders_are_listed_made_and_removed,
    ]
}

/// A terminal and what it has shown, by its own account of where each piece stands.
struct Terminal {
    socket: ExecSocket,
    shown: Vec<u8>,
    begins: Option<u64>,
}

impl Terminal {
    async fn open(sandbox: &Sandbox, first: Value) -> Result<(Self, Value)> {
        let path = format!("/v1/sandboxes/{}/pty", sandbox.id);
        let mut socket = ExecSocket::open_at(sandbox.client(), &path).await?;
        socket.send(&first).await?;
        let started = socket.next().await?.context("the stream ended")?;
        ensure!(started["type"] == "start", "{started}");
        Ok((Self { socket, shown: Vec::new(), begins: None }, started))
    }

    /// Where the next byte stands.
    fn end(&self) -> u64 {
        self.begins.unwrap_or_default() + self.shown.len() as u64
    }

    async fn until(&mut self, text: &str) -> Result<()> {
        while !String::from_utf8_lossy(&self.shown).contains(text) {
            let shown = || format!("{text:?} is not in {:?}", String::from_utf8_lossy(&self.shown));
            let message = self.socket.next().await.with_context(shown)?.with_context(shown)?;
            ensure!(message["type"] == "output", "{message}: {}", shown());
            let offset = message["offset"].as_u64().context("no offset")?;
            let end = match self.begins {
                Some(_) => self.end(),
                None => *self.begins.insert(offset),
            };
            ensure!(offset == end, "a piece at {offset}, not at {end}");
            self.shown.extend(data(&message)?);
        }
        Ok(())
    }

    /// How it ends.
    async fn ending(&mut self) -> Result<Value> {
        loop {
            let message = self.socket.next().await?.context("the stream ended")?;
            if message["type"] != "output" {
                return Ok(message);
            }
        }
    }

    async fn type_in(&mut self, text: &str) -> Result<()> {
        self.socket.send(&json!({"type": "input", "data": text})).await
    }
}

async fn a_terminal_is_left_and_found_again_with_what_it_has_shown(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let start =
        json!({"type": "start", "tag": "mine", "cols": 91, "rows": 33, "env": {"X": "7"}, "cwd": "/tmp"});
    let (mut terminal, started) = Terminal::open(&sandbox, start).await?;
    ensure!(started["tag"] == "mine", "{started}");
    terminal.type_in("stty size; echo $((X * 6))-$PWD\r").await?;
    terminal.until("33 91").await?;
    terminal.until("42-/tmp").await?;
    terminal.socket.send(&json!({"type": "resize", "cols": 100, "rows": 40})).await?;
    terminal.type_in("stty size\r").await?;
    terminal.until("40 100").await?;
    let left_at = terminal.end();
    terminal.type_in("sleep 1; echo while-$((3 * 4))-away\r").await?;
    drop(terminal);

    // From where it was left: nothing twice, nothing lost, whatever was shown meanwhile.
    let connect = json!({"type": "connect", "tag": "mine", "from": left_at});
    let (mut again, _) = Terminal::open(&sandbox, connect).await?;
    again.until("while-12-away").await?;
    ensure!(again.begins == Some(left_at), "{:?}, not {left_at}", again.begins);
    // From its beginning, by its process id.
    let connect = json!({"type": "connect", "pid": started["pid"], "from": 0});
    let (mut whole, _) = Terminal::open(&sandbox, connect).await?;
    whole.until("while-12-away").await?;
    ensure!(whole.begins == Some(0) && String::from_utf8_lossy(&whole.shown).contains("33 91"));

    again.type_in("exit 3\r").await?;
    let exit = again.ending().await?;
    ensure!(exit == json!({"type": "exit", "exit_code": 3}), "{exit}");
    sandbox.destroy().await
}

async fn processes_are_listed_and_killed(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let start = json!({"type": "start", "tag": "sleeper", "cmd": "sleep", "args": ["100000"]});
    let (mut terminal, started) = Terminal::open(&sandbox, start).await?;
    let path = format!("/v1/sandboxes/{}/processes", sandbox.id);
    let listed = sandbox.client().get(&path).await?.json(200)?;
    let expected = json!({"pid": started["pid"], "tag": "sleeper", "cmd": "sleep", "args": ["100000"]});
    ensure!(listed == json!({"processes": [expected]}), "{listed}");
    sandbox.client().delete(&format!("{path}/sleeper")).await?.expect(204)?;
    let exit = terminal.ending().await?;
    ensure!(exit == json!({"type": "exit", "exit_code": -1}), "{exit}");
    sandbox.destroy().await
}

async fn folders_are_listed_made_and_removed(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let ask = async |verb: &str, path: &str| {
        let url = format!("/v1/sandboxes/{}/files/{verb}", sandbox.id);
        sandbox.client().post(&url, &json!({"path": path})).await
    };
    let made = ask("mkdir", "a/b").await?.json(200)?;
    ensure!(made["entry"]["path"] == "/home/user/a/b" && made["entry"]["type"] == "directory", "{made}");
    ensure!(made["entry"]["owner"] == "user" && made["entry"]["permissions"] == "drwxr-xr-x", "{made}");
    ask("mkdir", "a/b").await?.expect(200)?;
    let write = format!("/v1/sandboxes/{}/files/stream/write?path=a/c.txt", sandbox.id);
    sandbox.client().post_raw(&write, "application/octet-stream", b"four".to_vec()).await?.expect(204)?;
    ask("mkdir", "a/c.txt").await?.expect(400)?;
    let listed = ask("list", "a").await?.json(200)?;
    let entries = listed["entries"].as_array().context("no entries")?;
    let names: Vec<_> = entries.iter().filter_map(|entry| entry["name"].as_str()).collect();
    ensure!(names == ["b", "c.txt"] && entries[1]["size"] == 4, "{listed}");
    let read = ask("stream/read", "a/c.txt").await?;
    ensure!(read.expect(200)?.bytes == b"four", "{read:?}");
    ask("remove", "a").await?.expect(204)?;
    ask("remove", "a").await?.expect(204)?;
    ask("list", "a").await?.expect(404)?;
    sandbox.destroy().await
}
