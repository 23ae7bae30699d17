//! Typed ids: a UUID in memory and in every table, a prefixed form (`sb-018f...`) at API and RPC boundaries.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A kind of thing that has an id.
pub trait Kind: 'static {
    /// The prefix of the id's outward form, without the dash.
    const PREFIX: &'static str;
    /// What to call the thing in a message.
    const NOUN: &'static str;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $prefix:literal, $noun:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $kind {}
        impl Kind for $kind {
            const PREFIX: &'static str = $prefix;
            const NOUN: &'static str = $noun;
        }
    )*};
}

kinds! {
    /// One microVM and its disk.
    Sandbox = "sb", "sandbox";
    /// A person with an account.
    User = "usr", "user";
    /// Owners of sandboxes, keys and templates.
    Team = "team", "team";
    /// A person's sign-in.
    Session = "ses", "session";
    /// An API key.
    ApiKey = "key", "API key";
    /// A machine that runs sandboxes.
    Host = "host", "host";
    /// A one-time token with which a host registers.
    HostToken = "htok", "host registration token";
    /// A host's refresh token.
    HostRefreshToken = "hrt", "host refresh token";
    /// A line of the audit trail.
    AuditLog = "log", "audit log entry";
    /// One run of a template's recipe.
    Build = "bld", "build";
    /// What sandboxes start from.
    Template = "tpl", "template";
    /// A team's secret.
    Secret = "sec", "secret";
    /// A filesystem that outlives the sandboxes that mount it.
    Volume = "vol", "volume";
}

/// The id of a `K`. Mixing two kinds does not compile.
pub struct Id<K> {
    uuid: Uuid,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Id<K> {
    /// A new id, later than all that this process made before (UUIDv7: ordered by time, so index-friendly).
    #[must_use]
    pub fn new() -> Self {
        Self::from_uuid(Uuid::now_v7())
    }

    /// The id whose bare form is `uuid`.
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self { uuid, kind: PhantomData }
    }

    /// The bare form, as tables hold it.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.uuid
    }
}

impl Id<Team> {
    /// The platform team, owner of shared templates: the all-zero UUID.
    pub const PLATFORM: Self = Self::from_uuid(Uuid::nil());
}

impl Id<Sandbox> {
    /// The form that E2B clients take, which may hold only `[a-z0-9]`: 32 hexadecimal digits.
    #[must_use]
    pub fn e2b(self) -> String {
        self.uuid.simple().to_string()
    }
}

impl Id<Secret> {
    /// How the form begins that E2B clients take. No name begins like that.
    pub const E2B_PREFIX: &'static str = "sec_";

    /// The form that E2B clients take: `sec_` and 32 hexadecimal digits.
    #[must_use]
    pub fn e2b(self) -> String {
        format!("{}{}", Self::E2B_PREFIX, self.uuid.simple())
    }

    /// Reads the form that E2B clients take. One id has one spelling.
    #[must_use]
    pub fn from_e2b(text: &str) -> Option<Self> {
        let id = Uuid::try_parse(text.strip_prefix(Self::E2B_PREFIX)?).map(Self::from_uuid).ok()?;
        (id.e2b() == text).then_some(id)
    }
}

/// Text that is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {noun} id: expected {prefix}-UUID")]
pub struct InvalidId {
    noun: &'static str,
    prefix: &'static str,
}

impl<K: Kind> FromStr for Id<K> {
    type Err = InvalidId;

    /// Reads the prefixed form, in lower case with dashes, as [`fmt::Display`] writes it: one id has one spelling.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { noun: K::NOUN, prefix: K::PREFIX };
        let bare =
            text.strip_prefix(K::PREFIX).and_then(|rest| rest.strip_prefix('-')).ok_or(invalid.clone())?;
        let id = Uuid::try_parse(bare).map(Self::from_uuid).map_err(|_| invalid.clone())?;
        if id.uuid.as_hyphenated().to_string() == bare { Ok(id) } else { Err(invalid) }
    }
}

impl<K: Kind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", K::PREFIX, self.uuid.as_hyphenated())
    }
}

impl<K: Kind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<K: Kind> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, K: Kind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

// Derives would ask the same of `K`, which is never a value.
impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uuid.cmp(&other.uuid)
    }
}
impl<K> std::hash::Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uuid.hash(state);
    }
}
impl<K: Kind> Default for Id<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn prefixed_form_round_trips(bytes in any::<[u8; 16]>()) {
            let id = Id::<Sandbox>::from_uuid(Uuid::from_bytes(bytes));
            prop_assert_eq!(id.to_string().parse::<Id<Sandbox>>(), Ok(id));
            prop_assert!(id.to_string().parse::<Id<Host>>().is_err());
            prop_assert!(id.e2b().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        }

        #[test]
        fn garbage_is_refused_without_panic(text in "\\PC{0,60}") {
            prop_assert!(text.parse::<Id<Sandbox>>().is_err());
        }
    }

    #[test]
    fn one_id_has_one_spelling() {
        let id = Id::<Sandbox>::new();
        for other in [
            id.to_string().to_uppercase(),
            format!("sb-{}", id.uuid().simple()),
            format!("sb-{{{}}}", id.uuid()),
            format!("sb-{}", id.uuid().to_string().to_uppercase()),
            id.uuid().to_string(),
            format!(" {id}"),
        ] {
            assert!(other.parse::<Id<Sandbox>>().is_err(), "{other}");
        }
    }

    #[test]
    fn later_ids_sort_later() {
        let ids: Vec<_> = (0..100).map(|_| Id::<Sandbox>::new()).collect();
        assert!(ids.is_sorted());
    }
}
