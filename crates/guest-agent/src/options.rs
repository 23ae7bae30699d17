//! The command line. In the guest init passes nothing: the defaults are the guest's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use sandbar_types::guest;

use crate::unpack;

/// What `--help` prints.
pub const USAGE: &str = "usage: sandbar-guest-agent [options]
       sandbar-guest-agent unpack --into PATH --owner USER[:GROUP] [--mode OCTAL] -- SOURCE... <ARCHIVE

  --listen IP             address to listen on (0.0.0.0)
  --port PORT             port to listen on (49983; 0 picks one and prints it)
  --state-file PATH       where the token and the environment survive a restart (/run/sandbar/state.json)
  --gateway IP            the peer that may call /init before there is a token, and gets the ready push (172.30.0.1)
  --ready-port PORT       where the gateway listens for the ready push (49982)
  --no-ready-push         do not report readiness
  --predecessor TEXT      how the agent before this one ended, for the push that tells of the restart
  --no-system-changes     leave clock, entropy pool, hostname, control groups and this process's priority alone (for tests on a workstation)
  --stall-limit-ms MS     how long a reader that stands still may hold up a process before it loses output (10000)
  --version               print the version";

/// How the agent was asked to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the token and the environment are kept.
    pub state_file: PathBuf,
    /// The host's side of the guest's network.
    pub gateway: IpAddr,
    /// Whether and where to report readiness.
    pub ready_push: ReadyPush,
    /// How the agent before this one ended.
    pub predecessor: Option<String>,
    /// Whether the machine itself may be changed.
    pub system_changes: SystemChanges,
    /// How long a reader that stands still may hold up a process.
    pub stall_limit: Duration,
}

/// Whether to report readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadyPush {
    /// To this port of the gateway.
    To(u16),
    /// Not at all.
    Off,
}

/// Whether the machine's clock, entropy pool, hostname and priorities may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemChanges {
    /// Yes: this is a sandbox.
    Allowed,
    /// No: this is somebody's workstation.
    Refused,
}

/// What the command line asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Serve.
    Serve(Options),
    /// Take files out of an archive.
    Unpack(unpack::Order),
    /// Print the version.
    Version,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, guest::AGENT_PORT)),
            state_file: PathBuf::from("/run/sandbar/state.json"),
            gateway: IpAddr::V4(guest::GATEWAY_IP),
            ready_push: ReadyPush::To(guest::READY_PORT),
            predecessor: None,
            system_changes: SystemChanges::Allowed,
            stall_limit: Duration::from_secs(10),
        }
    }
}

/// A command line that cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionsError {
    /// No such option.
    #[error("unknown option {0:?}")]
    Unknown(String),
    /// An option without its value.
    #[error("{0} needs a value")]
    Missing(&'static str),
    /// A value of the wrong form.
    #[error("{option} does not take {value:?}")]
    Invalid {
        /// Which option.
        option: &'static str,
        /// What it was given.
        value: String,
    },
}

/// Reads the arguments (without the program's name).
///
/// # Errors
/// If an argument is unknown, lacks its value or has one that does not parse.
pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Invocation, OptionsError> {
    let mut options = Options::default();
    let mut args = args.into_iter().peekable();
    if args.next_if(|first| first == "unpack").is_some() {
        return parse_unpack(args).map(Invocation::Unpack);
    }
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--listen" => options.listen.set_ip(value(&mut args, "--listen")?),
            "--port" => options.listen.set_port(value(&mut args, "--port")?),
            "--state-file" => options.state_file = value(&mut args, "--state-file")?,
            "--gateway" => options.gateway = value(&mut args, "--gateway")?,
            "--ready-port" => options.ready_push = ReadyPush::To(value(&mut args, "--ready-port")?),
            "--no-ready-push" => options.ready_push = ReadyPush::Off,
            "--predecessor" => options.predecessor = Some(value(&mut args, "--predecessor")?),
            "--no-system-changes" => options.system_changes = SystemChanges::Refused,
            "--stall-limit-ms" => {
                options.stall_limit = Duration::from_millis(value(&mut args, "--stall-limit-ms")?);
            }
            "--version" => return Ok(Invocation::Version),
            _ => return Err(OptionsError::Unknown(arg)),
        }
    }
    Ok(Invocation::Serve(options))
}

fn parse_unpack(mut args: impl Iterator<Item = String>) -> Result<unpack::Order, OptionsError> {
    let (mut into, mut owner, mut mode) = (None, None, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--into" => into = Some(value(&mut args, "--into")?),
            "--owner" => owner = Some(value(&mut args, "--owner")?),
            "--mode" => {
                let text: String = value(&mut args, "--mode")?;
                let parsed = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777);
                mode = Some(parsed.ok_or(OptionsError::Invalid { option: "--mode", value: text })?);
            }
            "--" => break,
            _ => return Err(OptionsError::Unknown(arg)),
        }
    }
    let sources: Result<Vec<_>, _> = args
        .map(|source| source.parse().map_err(|_| OptionsError::Invalid { option: "--", value: source }))
        .collect();
    Ok(unpack::Order {
        into: into.ok_or(OptionsError::Missing("--into"))?,
        owner: owner.ok_or(OptionsError::Missing("--owner"))?,
        mode,
        sources: sources?,
    })
}

fn value<T: std::str::FromStr>(
    args: &mut impl Iterator<Item = String>,
    option: &'static str,
) -> Result<T, OptionsError> {
    let value = args.next().ok_or(OptionsError::Missing(option))?;
    value.parse().map_err(|_| OptionsError::Invalid { option, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Invocation, OptionsError> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn no_arguments_mean_the_guest() {
        assert_eq!(parse_line(""), Ok(Invocation::Serve(Options::default())));
    }

    #[test]
    fn an_order_to_unpack_is_read() {
        let order = unpack::Order {
            into: "/app/".to_owned(),
            owner: "user".to_owned(),
            mode: Some(0o640),
            sources: vec!["a".parse().unwrap(), "--b".parse().unwrap()],
        };
        let line = "unpack --into /app/ --owner user --mode 640 -- a --b";
        assert_eq!(parse_line(line), Ok(Invocation::Unpack(order)));
        for (line, error) in [
            ("unpack --owner user -- a", OptionsError::Missing("--into")),
            ("unpack --into /a -- a", OptionsError::Missing("--owner")),
            ("unpack a", OptionsError::Unknown("a".to_owned())),
            ("unpack --mode 9", OptionsError::Invalid { option: "--mode", value: "9".to_owned() }),
            (
                "unpack --into /a --owner u -- ..",
                OptionsError::Invalid { option: "--", value: "..".to_owned() },
            ),
        ] {
            assert_eq!(parse_line(line), Err(error), "{line}");
        }
    }

    #[test]
    fn every_option_is_read() {
        let line = "--listen 127.0.0.1 --port 0 --state-file /tmp/s --gateway 127.0.0.1 --ready-port 7 \
                    --predecessor died --no-system-changes --stall-limit-ms 5";
        let expected = Options {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            state_file: "/tmp/s".into(),
            gateway: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ready_push: ReadyPush::To(7),
            predecessor: Some("died".into()),
            system_changes: SystemChanges::Refused,
            stall_limit: Duration::from_millis(5),
        };
        assert_eq!(parse_line(line), Ok(Invocation::Serve(expected)));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(parse_line("--what"), Err(OptionsError::Unknown("--what".into())));
        assert_eq!(parse_line("--port"), Err(OptionsError::Missing("--port")));
        assert_eq!(
            parse_line("--port x"),
            Err(OptionsError::Invalid { option: "--port", value: "x".into() })
        );
    }
}
