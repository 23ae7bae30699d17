//! What a request for a sandbox may say, before anything else is looked at.

use std::collections::BTreeMap;

use sandbar_types::ingress::InvalidIngress;
use sandbar_types::name::InvalidName;
use sandbar_types::network::InvalidPolicy;
use sandbar_types::volume::InvalidMountPath;
use sandbar_types::{MountPath, NetworkPolicy, TemplateName, TimeoutFrom, limits};

use super::{Command, NetworkRules, NewMount, NewSandbox, OnTimeout};

/// The template that a sandbox starts from where the caller does not say.
pub(super) const DEFAULT_TEMPLATE: &str = "base";

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSandbox {
    /// A template's name cannot be one.
    #[error("template: {0}")]
    Template(#[from] InvalidName),
    /// A number is out of bounds.
    #[error("{field} must be between {min} and {max}")]
    OutOfBounds {
        /// Which.
        field: &'static str,
        /// The least it may be.
        min: u32,
        /// The most it may be.
        max: u32,
    },
    /// A map has too many entries.
    #[error("{field} may have at most {} entries", limits::MAP_ENTRIES)]
    TooManyEntries {
        /// Which.
        field: &'static str,
    },
    /// A map's key cannot be one.
    #[error("{field}: a key must be 1 to {} bytes long, without NUL{}", limits::MAP_KEY_BYTES, if is_environment(.field) { " or '='" } else { "" })]
    MapKey {
        /// Of which map.
        field: &'static str,
    },
    /// A map's value cannot be one.
    #[error(
        "{field}: the value of {key:?} must be at most {} bytes long, without NUL",
        limits::MAP_VALUE_BYTES
    )]
    MapValue {
        /// Of which map.
        field: &'static str,
        /// Its key.
        key: String,
    },
    /// A variable is given a value and a secret.
    #[error("env and secrets both have {key:?}")]
    SaidTwice {
        /// Its name.
        key: String,
    },
    /// Nothing can be mounted there.
    #[error("volumes: {0}")]
    MountPath(#[from] InvalidMountPath),
    /// Two volumes at one path, or one in the other; or one of them twice.
    #[error("volumes: {0} and {1} are one place, or one lies in the other")]
    MountsMeet(MountPath, MountPath),
    /// More volumes than a sandbox may have.
    #[error("volumes: at most {}", limits::SANDBOX_VOLUMES)]
    TooManyVolumes,
    /// One volume twice.
    #[error("volumes: {volume:?} is named twice")]
    VolumeTwice {
        /// Which.
        volume: String,
    },
    /// A network policy cannot be one.
    #[error("network: {0}")]
    Network(#[from] InvalidPolicy),
    /// Who may connect to it cannot be said like that.
    #[error(transparent)]
    Ingress(#[from] InvalidIngress),
    /// A request for traffic cannot wait for a boot.
    #[error("auto_resume needs a sandbox's memory: not with on_timeout \"pause_filesystem\"")]
    AutoResume,
    /// Another disk size than the template's.
    #[error("disk_mb must be the template's own ({template_mb}) or left out")]
    DiskSize {
        /// The template's.
        template_mb: u32,
    },
    /// An idempotency key that cannot be one.
    #[error(
        "Idempotency-Key must be 1 to {} printable ASCII characters without spaces",
        super::IdempotencyKey::MAX_LEN
    )]
    IdempotencyKey,
    /// An empty command.
    #[error("cmd must not be empty")]
    EmptyCommand,
    /// A command line that the kernel would not take.
    #[error("cmd and args together may have at most {} bytes, without NUL", limits::COMMAND_BYTES)]
    CommandLine,
    /// A path that cannot be one.
    #[error("{field} must be 1 to {} bytes long, without NUL", limits::PATH_BYTES)]
    Path {
        /// Which.
        field: &'static str,
    },
    /// A tag that cannot be one.
    #[error("tag must be 1 to 128 printable ASCII characters without spaces or slashes, and no number")]
    Tag,
    /// A user's name that cannot be one.
    #[error("user must be 1 to 32 letters, digits, dots, underscores or dashes")]
    User,
}

/// Refuses a number outside of its bounds.
pub(super) fn within(
    field: &'static str,
    value: u32,
    bounds: std::ops::RangeInclusive<u32>,
) -> Result<(), InvalidSandbox> {
    if bounds.contains(&value) {
        Ok(())
    } else {
        Err(InvalidSandbox::OutOfBounds { field, min: *bounds.start(), max: *bounds.end() })
    }
}

/// What is left of a request once it was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) template: TemplateName,
    pub(super) vcpus: Option<u32>,
    pub(super) memory_mb: Option<u32>,
    pub(super) disk_mb: Option<u32>,
    pub(super) timeout_sec: u32,
    pub(super) on_timeout: OnTimeout,
    pub(super) timeout_from: TimeoutFrom,
    pub(super) network: NetworkPolicy,
    /// Where its volumes are to be, in the order of the request.
    pub(super) mounts: Vec<MountPath>,
}

/// Checks all that can be checked without looking anything up. The sizes are checked although a template with memory keeps its own.
pub(super) fn new_sandbox(new: &NewSandbox) -> Result<Checked, InvalidSandbox> {
    let template = new.template.as_deref().unwrap_or(DEFAULT_TEMPLATE).parse()?;
    within("vcpus", new.vcpus.unwrap_or(limits::DEFAULT_VCPUS), limits::VCPUS)?;
    within("memory_mb", new.memory_mb.unwrap_or(limits::DEFAULT_MEMORY_MB), limits::MEMORY_MB)?;
    if let Some(disk_mb) = new.disk_mb {
        within("disk_mb", disk_mb, limits::DISK_MB)?;
    }
    let timeout_sec = new.timeout_sec.unwrap_or(0);
    within("timeout_sec", timeout_sec, limits::TIMEOUT_SEC)?;
    let on_timeout = new.on_timeout.unwrap_or(OnTimeout::Kill);
    let timeout_from = new.timeout_from.unwrap_or(TimeoutFrom::Activity);
    let network = new.network.as_ref().map(network).transpose()?.unwrap_or_default();
    new.ingress.check()?;
    if new.ingress.auto_resume && on_timeout == OnTimeout::PauseFilesystem {
        return Err(InvalidSandbox::AutoResume);
    }
    map("metadata", &new.metadata)?;
    map("env", &new.env)?;
    map("secrets", &new.secrets)?;
    if let Some(key) = new.secrets.keys().find(|key| new.env.contains_key(*key)) {
        return Err(InvalidSandbox::SaidTwice { key: key.clone() });
    }
    let mounts = mounts(&new.volumes)?;
    let NewSandbox { vcpus, memory_mb, disk_mb, .. } = *new;
    Ok(Checked {
        template,
        vcpus,
        memory_mb,
        disk_mb,
        timeout_sec,
        on_timeout,
        timeout_from,
        network,
        mounts,
    })
}

/// Checks where volumes are to be.
fn mounts(volumes: &[NewMount]) -> Result<Vec<MountPath>, InvalidSandbox> {
    if volumes.len() > limits::SANDBOX_VOLUMES {
        return Err(InvalidSandbox::TooManyVolumes);
    }
    let mut paths: Vec<MountPath> = Vec::with_capacity(volumes.len());
    for NewMount { volume: _, path } in volumes {
        let path: MountPath = path.clone().try_into()?;
        if let Some(other) = paths.iter().find(|other| other.meets(&path)) {
            return Err(InvalidSandbox::MountsMeet(other.clone(), path));
        }
        paths.push(path);
    }
    Ok(paths)
}

/// Checks which variables are to be secrets.
pub(crate) fn secret_names(secrets: &BTreeMap<String, String>) -> Result<(), InvalidSandbox> {
    map("secrets", secrets)
}

/// Checks a network policy.
pub(super) fn network(rules: &NetworkRules) -> Result<NetworkPolicy, InvalidSandbox> {
    let NetworkRules { allow_out, deny_out, allow_internet } = rules;
    Ok(NetworkPolicy::parse(allow_out, deny_out, allow_internet.unwrap_or(true))?)
}

/// Whether a map's keys are names of variables.
fn is_environment(field: &str) -> bool {
    matches!(field, "env" | "secrets")
}

/// Checks metadata or an environment.
fn map(field: &'static str, map: &BTreeMap<String, String>) -> Result<(), InvalidSandbox> {
    if map.len() > limits::MAP_ENTRIES {
        return Err(InvalidSandbox::TooManyEntries { field });
    }
    for (key, value) in map {
        let fits = (1..=limits::MAP_KEY_BYTES).contains(&key.len());
        if !fits || key.contains('\0') || (is_environment(field) && key.contains('=')) {
            return Err(InvalidSandbox::MapKey { field });
        }
        if value.len() > limits::MAP_VALUE_BYTES || value.contains('\0') {
            return Err(InvalidSandbox::MapValue { field, key: key.clone() });
        }
    }
    Ok(())
}

/// Checks a command.
pub(super) fn command(command: &Command) -> Result<(), InvalidSandbox> {
    let Command { cmd, args, env, cwd, user: as_user } = command;
    if cmd.is_empty() {
        return Err(InvalidSandbox::EmptyCommand);
    }
    // The kernel counts a terminating NUL for each.
    let bytes: usize = args.iter().chain([cmd]).map(|word| word.len() + 1).sum();
    if bytes > limits::COMMAND_BYTES || args.iter().chain([cmd]).any(|word| word.contains('\0')) {
        return Err(InvalidSandbox::CommandLine);
    }
    map("env", env)?;
    if let Some(cwd) = cwd {
        path("cwd", cwd)?;
    }
    as_user.as_deref().map_or(Ok(()), user)
}

/// Checks a path in the guest.
pub(super) fn path(field: &'static str, path: &str) -> Result<(), InvalidSandbox> {
    let fits = (1..=limits::PATH_BYTES).contains(&path.len()) && !path.contains('\0');
    if fits { Ok(()) } else { Err(InvalidSandbox::Path { field }) }
}

/// Checks the name of a process. A number would be its id.
pub(super) fn tag(tag: &str) -> Result<(), InvalidSandbox> {
    let fits = (1..=128).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    if fits && tag.parse::<u32>().is_err() { Ok(()) } else { Err(InvalidSandbox::Tag) }
}

/// Checks the name of a user in the guest.
pub(super) fn user(name: &str) -> Result<(), InvalidSandbox> {
    let fits = (1..=32).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if fits { Ok(()) } else { Err(InvalidSandbox::User) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(change: impl FnOnce(&mut NewSandbox)) -> InvalidSandbox {
        let mut new = NewSandbox::default();
        change(&mut new);
        new_sandbox(&new).unwrap_err()
    }

    #[test]
    fn nothing_said_means_the_defaults() {
        let checked = new_sandbox(&NewSandbox::default()).unwrap();
        assert_eq!(checked.template.as_str(), DEFAULT_TEMPLATE);
        assert_eq!((checked.timeout_sec, checked.on_timeout, checked.disk_mb), (0, OnTimeout::Kill, None));
    }

    #[test]
    fn volumes_have_places_of_their_own() {
        let at = |paths: &[&str]| {
            let volumes =
                paths.iter().map(|path| NewMount { volume: "v".to_owned(), path: (*path).to_owned() });
            new_sandbox(&NewSandbox { volumes: volumes.collect(), ..NewSandbox::default() })
        };
        assert_eq!(
            at(&["/a/", "/b"]).unwrap().mounts.iter().map(MountPath::as_str).collect::<Vec<_>>(),
            ["/a", "/b"]
        );
        assert!(matches!(at(&["/a", "/a/"]), Err(InvalidSandbox::MountsMeet(..))));
        assert!(matches!(at(&["/a/b", "/a"]), Err(InvalidSandbox::MountsMeet(..))));
        assert!(matches!(at(&["a"]), Err(InvalidSandbox::MountPath(_))));
        assert!(matches!(at(&["/a"; 9]), Err(InvalidSandbox::TooManyVolumes)));
    }

    #[test]
    fn every_bound_is_checked_and_named() {
        let field = |error| match error {
            InvalidSandbox::OutOfBounds { field, .. } => field,
            other => panic!("{other}"),
        };
        for value in [0, 33, u32::MAX] {
            assert_eq!(field(refused(|new| new.vcpus = Some(value))), "vcpus");
        }
        for value in [0, 127, 131_073, u32::MAX] {
            assert_eq!(field(refused(|new| new.memory_mb = Some(value))), "memory_mb");
        }
        assert_eq!(field(refused(|new| new.disk_mb = Some(1))), "disk_mb");
        assert_eq!(field(refused(|new| new.timeout_sec = Some(u32::MAX))), "timeout_sec");
        let text = refused(|new| new.vcpus = Some(0)).to_string();
        assert_eq!(text, "vcpus must be between 1 and 32");
    }

    #[test]
    fn a_network_policy_is_read_or_refused_with_the_entry_that_is_wrong() {
        let rules = |deny: &str| NetworkRules { deny_out: vec![deny.to_owned()], ..NetworkRules::default() };
        let of = |rules| new_sandbox(&NewSandbox { network: Some(rules), ..NewSandbox::default() });
        assert_eq!(of(NetworkRules::default()).unwrap().network, NetworkPolicy::default());
        assert!(of(rules("0.0.0.0/0")).unwrap().network.denies_all());
        let refused = refused(|new| new.network = Some(rules("10.0.0.0/33"))).to_string();
        assert!(refused.starts_with("network: \"10.0.0.0/33\" is neither"), "{refused}");
    }

    #[test]
    fn maps_are_bounded() {
        let many = (0..=limits::MAP_ENTRIES).map(|i| (i.to_string(), String::new())).collect();
        assert_eq!(refused(|new| new.metadata = many), InvalidSandbox::TooManyEntries { field: "metadata" });
        for key in ["", "a=b", "a\0", &"k".repeat(limits::MAP_KEY_BYTES + 1)] {
            let error = refused(|new| _ = new.env.insert(key.to_owned(), String::new()));
            assert_eq!(error, InvalidSandbox::MapKey { field: "env" }, "{key:?}");
        }
        let long = "v".repeat(limits::MAP_VALUE_BYTES + 1);
        assert!(matches!(
            refused(|new| _ = new.env.insert("k".to_owned(), long)),
            InvalidSandbox::MapValue { field: "env", .. }
        ));
        // An equals sign is a metadata key's own business.
        let mut new = NewSandbox::default();
        new.metadata.insert("a=b".to_owned(), "c".to_owned());
        assert!(new_sandbox(&new).is_ok());
    }

    #[test]
    fn commands_are_bounded() {
        let of = |cmd: &str, args: &[&str]| Command {
            cmd: cmd.to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            ..Command::default()
        };
        assert_eq!(command(&of("", &[])), Err(InvalidSandbox::EmptyCommand));
        assert_eq!(command(&of("a\0b", &[])), Err(InvalidSandbox::CommandLine));
        assert_eq!(command(&of("echo", &["a\0"])), Err(InvalidSandbox::CommandLine));
        assert_eq!(
            command(&of("echo", &[&"x".repeat(limits::COMMAND_BYTES)])),
            Err(InvalidSandbox::CommandLine)
        );
        assert_eq!(command(&of("echo", &["", "-n", "ü"])), Ok(()));
        for bad in ["", "-root", "a b", "root\n", "a:b", &"u".repeat(33)] {
            let bad = Command { user: Some(bad.to_owned()), ..of("id", &[]) };
            assert_eq!(command(&bad), Err(InvalidSandbox::User), "{bad:?}");
        }
        assert_eq!(
            command(&Command { cwd: Some("x".repeat(limits::PATH_BYTES + 1)), ..of("pwd", &[]) }),
            Err(InvalidSandbox::Path { field: "cwd" })
        );
    }

    #[test]
    fn a_tag_is_neither_a_number_nor_a_path() {
        for good in ["pty-1", "a", "7a", "00x"] {
            assert_eq!(tag(good), Ok(()), "{good}");
        }
        for bad in ["", "7", "a b", "a/b", "\u{e9}", &"t".repeat(129)] {
            assert_eq!(tag(bad), Err(InvalidSandbox::Tag), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_within_the_limits(
            vcpus in proptest::option::of(any::<u32>()),
            memory_mb in proptest::option::of(any::<u32>()),
            timeout_sec in proptest::option::of(any::<u32>()),
            template in proptest::option::of("\\PC{0,70}"),
        ) {
            let new = NewSandbox { vcpus, memory_mb, timeout_sec, template, ..NewSandbox::default() };
            if let Ok(checked) = new_sandbox(&new) {
                prop_assert!(vcpus.is_none_or(|v| limits::VCPUS.contains(&v)));
                prop_assert!(memory_mb.is_none_or(|v| limits::MEMORY_MB.contains(&v)));
                prop_assert!(limits::TIMEOUT_SEC.contains(&checked.timeout_sec));
            }
        }
    }
}
