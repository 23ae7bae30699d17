//! `sandbar sandbox logs`: what happened in a sandbox.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::Args;
use sandbar_types::{Id, LogDirection, LogLevel, id};

use super::exit;
use crate::client::{Client, LogEntry, LogEvent, LogFilter, PAGE};
use crate::shutdown::Signals;

/// Until a stream that broke off is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// Show what happened in a sandbox: processes, what they wrote, pauses and the like
///
/// Processes are those that were started from outside. What goes over a terminal is not logged. The log goes with its sandbox.
#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// The sandbox
    #[arg(value_name = "SANDBOX")]
    id: Id<id::Sandbox>,

    /// Go on until the sandbox has ended
    #[arg(long, short)]
    follow: bool,

    /// Only what came since: `30s`, `10m`, `2h`, `1d`, or a time as RFC 3339 writes it
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<DateTime<Utc>>,

    /// Only so many of the newest entries, 1000 at most [default: 200, or all with --since]
    #[arg(long, short = 'n', value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1000))]
    lines: Option<u16>,

    /// Only what matters so much: debug, info, warn or error
    #[arg(long, short, value_name = "LEVEL")]
    level: Option<LogLevel>,

    /// Only messages with this text, in whatever case
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,

    /// Only of the process with this id or tag
    #[arg(long, short, value_name = "PROCESS")]
    process: Option<String>,

    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) async fn logs(client: &Client, args: LogsArgs) -> anyhow::Result<ExitCode> {
    let LogsArgs { id, follow, since, lines, level, search, process, json } = args;
    let filter = LogFilter { level, search, process, from: since };
    let mut signals = Signals::listen()?;
    let show = show(client, id, &filter, lines, follow, json);
    tokio::select! {
        shown = show => match shown {
            Err(error) if is_closed(&error) => Ok(ExitCode::from(exit::OUTPUT_CLOSED)),
            shown => shown.map(|()| ExitCode::SUCCESS),
        },
        signal = signals.next() => Ok(ExitCode::from(signal.exit_code())),
    }
}

async fn show(
    client: &Client,
    id: Id<id::Sandbox>,
    filter: &LogFilter,
    lines: Option<u16>,
    follow: bool,
    json: bool,
) -> anyhow::Result<()> {
    let mut last = None;
    if let (None, Some(_)) = (lines, filter.from) {
        loop {
            let page = client.logs(id, filter, LogDirection::Forward, last.as_deref(), PAGE).await?;
            let (entries, more) = page;
            print(&entries, json)?;
            last = entries.last().map(|entry| entry.id.clone()).or(last);
            if !more || entries.is_empty() {
                break;
            }
        }
    } else {
        let newest = usize::from(lines.unwrap_or(200));
        let (mut entries, _) = client.logs(id, filter, LogDirection::Backward, None, newest).await?;
        entries.reverse();
        print(&entries, json)?;
        last = entries.last().map(|entry| entry.id.clone());
    }
    if !follow {
        return Ok(());
    }
    loop {
        let mut events = client.follow_logs(id, filter, last.as_deref()).await?;
        // A stream that breaks off is asked for again; one that is refused is over.
        while let Ok(Some(event)) = events.next().await {
            match event {
                LogEvent::Entry(entry) => {
                    print(std::slice::from_ref(&entry), json)?;
                    last = Some(entry.id);
                }
                LogEvent::End => return Ok(()),
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn print(entries: &[LogEntry], json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for entry in entries {
        if json {
            writeln!(out, "{}", serde_json::to_string(entry)?)?;
        } else {
            writeln!(out, "{}", line(entry))?;
        }
    }
    Ok(out.flush()?)
}

/// An entry for people: when, how much it matters, of which process, what.
fn line(entry: &LogEntry) -> String {
    let time = entry.timestamp.to_rfc3339_opts(SecondsFormat::Millis, true);
    let mut line = format!("{time} {:5} ", entry.level.to_uppercase());
    if let Some(pid) = entry.fields.get("pid") {
        let name = entry.fields.get("tag").map_or("", String::as_str);
        let open = if name.is_empty() { "[" } else { " [" };
        line.push_str(&format!("{}{open}{}] ", visible(name), visible(pid)));
    }
    line.push_str(&visible(&entry.message));
    line
}

/// What a guest wrote is not to command this terminal.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\t' {
            // Writing to a string does not fail.
            let _ = write!(shown, "{}", character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

fn is_closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// A moment, or how long ago it was.
fn since(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(moment.to_utc());
    }
    let unit = text.chars().next_back().and_then(|unit| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3_600),
        'd' => Some(86_400),
        _ => None,
    });
    let number = text.get(..text.len().saturating_sub(1)).and_then(|number| number.parse::<u32>().ok());
    unit.zip(number)
        .and_then(|(unit, number)| {
            Utc::now().checked_sub_signed(TimeDelta::seconds(unit * i64::from(number)))
        })
        .ok_or_else(|| "neither a time as RFC 3339 writes it nor a number with s, m, h or d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_moment_or_how_long_ago() {
        assert_eq!(since("2026-01-02T03:04:05Z").unwrap().timestamp(), 1_767_323_045);
        for (text, seconds) in [("30s", 30), ("10m", 600), ("2h", 7_200), ("1d", 86_400)] {
            let before = Utc::now();
            let moment = since(text).unwrap();
            let ago = TimeDelta::seconds(seconds);
            assert!((before - ago..=Utc::now() - ago).contains(&moment), "{text}: {moment}");
        }
        for text in ["", "m", "10", "10x", "ä", "-1m"] {
            since(text).unwrap_err();
        }
    }

    #[test]
    fn what_a_guest_wrote_commands_no_terminal() {
        let entry = LogEntry {
            id: "1".into(),
            timestamp: DateTime::UNIX_EPOCH,
            level: "warn".into(),
            message: "\u{1b}[2Jä\tb\u{9b}\n".into(),
            fields: [("pid".to_owned(), "7".to_owned()), ("tag".to_owned(), "job\u{7}".to_owned())].into(),
        };
        assert_eq!(line(&entry), "1970-01-01T00:00:00.000Z WARN  job\\u{7} [7] \\u{1b}[2Jä\tb\\u{9b}\\n");
    }
}
